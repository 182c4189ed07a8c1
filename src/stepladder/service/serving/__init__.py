"""Models at work for many callers: which name means what, and who is asked when. Knows no HTTP."""
