"""What a file seems to be for: its columns, the kind of its answers, its instruction. Guesses, each with its reason."""
