"""Rows that begin alike: their common tokens are computed once, exactly as if each had been computed alone."""
