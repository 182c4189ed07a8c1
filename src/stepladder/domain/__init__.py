"""What things are. No room below knows more than this one, and this one knows only `files`."""
