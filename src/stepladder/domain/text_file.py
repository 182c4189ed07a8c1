"""The text of a file that Stepladder's own formats are written in: UTF-8, and nothing before its first sign."""

from __future__ import annotations

from pathlib import Path

from stepladder.domain.errors import DataError

SAVE_AS_UTF8 = "Save the file as UTF-8."


def byte_order_mark(path: Path) -> DataError:
    """What is said of a file that may not begin with a byte order mark, and does."""
    hint = "Save the file as UTF-8 without it (editors call the other one “UTF-8 with BOM”)."
    return DataError(path, 1, "the file begins with a byte order mark (the bytes EF BB BF).", hint)


def read_text(path: Path) -> str:
    """The whole of a settings file.

    Raises:
        DataError: It is not UTF-8, or a byte order mark stands at its beginning.
        OSError: It cannot be read.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            path, line, f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start} of the file.", SAVE_AS_UTF8
        ) from error
    if text.startswith("\ufeff"):
        raise byte_order_mark(path)
    return text
