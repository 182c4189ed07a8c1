"""OpenAI's API on the user's own machine. Needs the `serve` extra; only the command `serve` imports it, late."""
