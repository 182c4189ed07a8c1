"""An answer as text while it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stepladder.engines.transformers.rows import Row

UNFINISHED = "\ufffd"  # the beginning of a character whose other bytes are in the next token


class TextStream:
    """Hands on what is new in a row's text, in whole characters.

    Args:
        decode: Token ids to text.
        send: Called with each new piece.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], send: Callable[[str], None]) -> None:
        self._decode = decode
        self._send = send
        self._sent = ""

    def follow(self, row: Row) -> None:
        """Called after every token of the row."""
        text = self._decode(row.answer)
        if text.endswith(UNFINISHED) and not row.end:
            return
        if len(text) > len(self._sent):
            piece, self._sent = text[len(self._sent) :], text
            self._send(piece)
