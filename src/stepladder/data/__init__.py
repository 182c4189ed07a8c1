"""The user's files: read without losing a word, checked, clustered, split, cut into passages."""
