"""A local model through transformers. Import `engine` late: it brings torch."""
