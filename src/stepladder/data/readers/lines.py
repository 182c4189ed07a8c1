"""Lines of a text file, decoded strictly and in bounded memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from stepladder.domain.errors import DataError
from stepladder.domain.text_file import SAVE_AS_UTF8, byte_order_mark

LONGEST_LINE_BYTES = 64 * 1024 * 1024

_FOREIGN_MARKS = (  # UTF-32 first: its little-endian mark begins like UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def look_at(path: Path, *, may_be_marked: bool = False) -> tuple[str, ...]:
    """Make sure that `path` is a file in UTF-8 by its first bytes; what is worth saying about it.

    Args:
        may_be_marked: A UTF-8 byte order mark is left out, which is said. Only for what spreadsheets and text editors write
            so by themselves (docs/decisions/015-byte-order-marks.md).
    Raises:
        DataError: No such file, a folder, unreadable, UTF-16/UTF-32, or a byte order mark where none may stand.
    """
    if path.is_dir():
        raise DataError(path, None, "is a folder, not a file.", "Name the file inside it.")
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError as error:
        hint = "Check the name in `[data]` of task.toml; `stepladder label` makes the first examples."
        raise DataError(path, None, "there is no such file.", hint) from error
    except OSError as error:
        raise DataError(path, None, f"cannot be read ({error.strerror}).", "Check its permissions.") from error
    for mark, encoding in _FOREIGN_MARKS:
        if head.startswith(mark):
            raise DataError(path, 1, f"the file is {encoding}, not UTF-8.", SAVE_AS_UTF8)
    if head.startswith(codecs.BOM_UTF8):
        if not may_be_marked:
            raise byte_order_mark(path)
        return (f"{path.name}: begins with a byte order mark, which was left out.",)
    return ()


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line with its number from 1, line end kept, a UTF-8 byte order mark left out.

    Raises:
        DataError: A line is too long, holds a NUL byte, or is not UTF-8.
    """
    offset = 0
    number = 0
    with path.open("rb") as file:
        while raw := file.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            if len(raw) > LONGEST_LINE_BYTES:
                megabytes = LONGEST_LINE_BYTES // 1024**2
                raise DataError(path, number, f"the line is longer than {megabytes} MB.", "One line holds one row: split it.")
            yield number, _decode(path, number, raw, offset)
            offset += len(raw)


def _decode(path: Path, number: int, raw: bytes, offset: int) -> str:
    skipped = len(codecs.BOM_UTF8) if number == 1 and raw.startswith(codecs.BOM_UTF8) else 0
    if (nul := raw.find(b"\0")) >= 0:
        raise DataError(path, number, f"a NUL byte (byte {offset + nul} of the file).", f"Remove it, or: {SAVE_AS_UTF8}")
    try:
        return raw[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        start = skipped + error.start
        found = f"not UTF-8: byte 0x{raw[start]:02x} at byte {offset + start} of the file."
        raise DataError(path, number, found, SAVE_AS_UTF8) from error
