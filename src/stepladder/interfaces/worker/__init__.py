"""The way in for background work: `python -m stepladder.interfaces.worker FOLDER` does the jobs of a store."""
