"""A task's documents: parsed to text, cut into passages that remember where they stood."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stepladder.data.chunks import chunk_text
from stepladder.data.html_text import html_to_text
from stepladder.data.readers.lines import look_at
from stepladder.domain.errors import DataError, MissingExtra
from stepladder.domain.messages import Chunk
from stepladder.domain.task import Task
from stepladder.domain.text_file import SAVE_AS_UTF8

KINDS = (".md", ".markdown", ".txt", ".html", ".htm", ".pdf")
LARGEST_BYTES = 64 * 1024 * 1024

_HASH_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document's text, and its headings as (offset in the text, words)."""

    text: str
    headings: tuple[tuple[int, str], ...] = ()


def load_documents(task: Task) -> tuple[Chunk, ...]:
    """Passages of every file below `[data] documents`, by name; empty when the task has no documents.

    Raises:
        DataError: The folder is missing or empty, or a file is of another kind, broken, or without text.
        MissingExtra: There is a PDF and pypdf is not installed.
    """
    if task.settings.data.documents is None:
        return ()
    folder = task.path(task.settings.data.documents)
    if not folder.is_dir():
        raise DataError(folder, None, "there is no such folder.", "Check `[data] documents` in task.toml.")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path, folder))
    if not paths:
        raise DataError(folder, None, "the folder holds no documents.", f"Put {', '.join(KINDS)} files into it.")
    chunks: list[Chunk] = []
    for path in paths:
        parsed = parse_document(path)
        if not parsed.text.strip():
            raise DataError(
                path, None, "no text was found in it.", "A scanned page needs text recognition first; else remove it."
            )
        chunks.extend(chunk_text(parsed.text, _name(path, task), parsed.headings))
    return tuple(chunks)


def document_text(path: Path | str) -> str:
    """The text that the offsets of a passage count in: a document as parsed, not as stored."""
    return parse_document(Path(path)).text


def parse_document(path: Path) -> Parsed:
    """Text and headings of one document.

    Raises:
        DataError: A kind that is not read, a broken file, or not UTF-8.
        MissingExtra: A PDF without pypdf.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise DataError(path, None, f"'{kind or path.name}' files are not read.", f"Convert it to one of {', '.join(KINDS)}.")
    look_at(path, may_be_marked=True)
    if path.stat().st_size > LARGEST_BYTES:
        raise DataError(path, None, f"larger than {LARGEST_BYTES // 1024**2} MB.", "Split it into several documents.")
    if kind == ".pdf":
        return Parsed(_pdf_text(path))
    text = _plain_text(path)
    if kind in (".html", ".htm"):
        return Parsed(*html_to_text(text))
    return Parsed(text, _markdown_headings(text) if kind != ".txt" else ())


def _pdf_text(path: Path) -> str:
    try:
        from stepladder.data.pdf_text import pdf_to_text
    except ImportError as error:
        raise MissingExtra("documents", "pypdf, which reads PDF files,") from error
    return pdf_to_text(path)


def _plain_text(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(path, None, f"not UTF-8 (byte {error.start} of the file).", SAVE_AS_UTF8) from error
    if "\0" in text:
        raise DataError(path, None, "the file holds a NUL byte.", f"Remove it, or: {SAVE_AS_UTF8}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _markdown_headings(text: str) -> tuple[tuple[int, str], ...]:
    """Headings by # signs or underlines, outside of code fences."""
    found: list[tuple[int, str]] = []
    offset = 0
    fenced = False
    before = ""  # the line above, when it could be an underlined heading
    for line in text.split("\n"):
        start = offset + len(line) - len(line.lstrip())
        if _FENCE.match(line):
            fenced = not fenced
            before = ""
        elif not fenced:
            if match := _HASH_HEADING.match(line):
                found.append((start, match.group(1)))
            elif before and _UNDERLINE.match(line):
                found.append((offset - len(before.lstrip()) - 1, before.strip()))
            before = "" if match or _UNDERLINE.match(line) else line.strip() and line
        offset += len(line) + 1
    return tuple(found)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _name(path: Path, task: Task) -> str:
    try:
        return path.relative_to(task.folder).as_posix()
    except ValueError:  # a folder named by an absolute path
        return path.as_posix()
