"""Forms with a file in them, taken in as they come: the file goes straight to its place, only short fields stay in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from stepladder.interfaces.server.errors import invalid

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD_BYTES = 64 * 1024
MOST_FIELDS = 32
WRITE_BYTES = 1024 * 1024
"""What is gathered before the disk is touched: small enough for memory, large enough to be quick."""


class Sink(Protocol):
    """Where the bytes of the file go; it may refuse them by raising."""

    def write(self, data: bytes) -> None: ...


@dataclass
class Form:
    """What came beside the file. `filename` is what the client called it: never a path to anything here."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    has_file: bool = False


async def read_form(content_type: str, chunks: AsyncIterator[bytes], *, file_field: str, sink: Sink) -> Form:
    """Read a `multipart/form-data` body to its end.

    Args:
        file_field: The one field that may be long; its bytes go to `sink`.
    Raises:
        ApiError: 400: it is no such form, a field is too long, or there are too many.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise invalid("The request's body is not multipart/form-data.")
    taking = _Taking(file_field)
    try:
        parser = MultipartParser(boundary, taking.callbacks())
        async for chunk in chunks:
            parser.write(chunk)
            if len(taking.content) >= WRITE_BYTES:
                await run_in_threadpool(sink.write, taking.take())
        parser.finalize()
    except FormParserError:
        raise invalid("The request's multipart form is malformed.") from None
    if not taking.ended:
        raise invalid("The request's multipart form is cut off.")
    if taking.content:
        await run_in_threadpool(sink.write, taking.take())
    return taking.form


class _Taking:
    """The parser's callbacks."""

    def __init__(self, file_field: str) -> None:
        self.form = Form()
        self.content = bytearray()  # of the file, not yet handed on
        self.ended = False
        self._file_field = file_field
        self._header_name, self._header_value = b"", b""
        self._disposition = b""
        self._name = ""
        self._value = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_text,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def take(self) -> bytes:
        data = bytes(self.content)
        self.content.clear()
        return data

    def _begin(self) -> None:
        self._disposition, self._name = b"", ""
        self._value.clear()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_text(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _text(options.get(b"name", b""))
        if self._name == self._file_field:
            if self.form.has_file:
                raise invalid(f"There are two '{self._file_field}'.", self._file_field)
            self.form.has_file = True
            self.form.filename = _text(options[b"filename"]) if b"filename" in options else None
        elif len(self.form.fields) >= MOST_FIELDS:
            raise invalid("The form has too many fields.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == self._file_field:
            self.content += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > FIELD_BYTES:
            raise invalid(f"'{self._name[:64]}' is too long.", self._name[:64])

    def _end(self) -> None:
        if self._name != self._file_field:
            self.form.fields[self._name] = _text(bytes(self._value))

    def _finish(self) -> None:
        self.ended = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
