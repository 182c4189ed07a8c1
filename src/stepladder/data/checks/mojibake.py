"""Texts that were decoded with the wrong encoding."""

from __future__ import annotations

import re

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity

# What the bytes of a UTF-8 sequence look like when they are read as Windows-1252 or Latin-1.
_WINDOWS = (
    "\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201a\u201c-\u201e"
    "\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122"
)
_SEQUENCE = f"[\u00c2-\u00f4][\u0080-\u00bf{_WINDOWS}]{{1,3}}"
_RUN = re.compile(f"(?:{_SEQUENCE})+")
_TELLTALE = "ÂÃâð"  # first bytes of accented letters, quotes, dashes and emoji; no word has these before such signs
_REPLACED = "\ufffd"
_PLAUSIBLE = (
    (0x00A0, 0x017F),
    (0x0370, 0x052F),
    (0x2010, 0x2044),
    (0x20A0, 0x20BF),
    (0x2100, 0x27BF),
    (0x3000, 0x9FFF),
    (0xFFFD, 0xFFFD),
    (0x1F300, 0x1FAFF),
)
_PASSES = 3  # a text may have gone through the wrong door more than once


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for row in context.rows:
        for field in row.fields:
            if field.text.isascii():
                continue
            repaired = repair_text(field.text)
            if repaired != field.text:
                broken = next(match for match in _RUN.finditer(field.text) if _right(match) != match.group())
                marks.append(row.mark(f"{quote(broken.group())} should be {quote(_right(broken))}"))
                if field.place is not None:
                    repairs.append(Repair(row.file, row.line, "wrongly decoded characters put right", field.place, repair_text))
            elif _REPLACED in field.text:
                marks.append(row.mark("holds the replacement character; what stood there is lost"))
    return finding(
        "mojibake",
        Severity.WARN,
        marks,
        "{rows} were decoded with the wrong encoding.",
        "Read the source as UTF-8 again, or correct the characters.",
        repairs,
    )


def repair_text(text: str) -> str:
    """`text` with runs that are UTF-8 read as Windows-1252 put right; everything else as it is."""
    for _ in range(_PASSES):
        repaired = _RUN.sub(_right, text)
        if repaired == text:
            break
        text = repaired
    return text


def _right(match: re.Match[str]) -> str:
    """What a run should have been. "Ä–" may also be an umlaut and a dash: alone, and at a word's end, it stays."""
    run, decoded, at, certain, sequences = match.group(), "", 0, False, 0
    while at < len(run):
        character, length = _decode_at(run, at)
        if length > 1:
            sequences += 1
            certain |= run[at] in _TELLTALE or all(letter < "\u00c0" for letter in run[at + 1 : at + length])
        decoded += character
        at += length
    following = match.string[match.end() : match.end() + 1]
    return decoded if certain or sequences > 1 or following.islower() else run


def _decode_at(run: str, at: int) -> tuple[str, int]:
    """The character behind the bytes that begin here and how many they are; a letter that begins none stays."""
    for length in (4, 3, 2):
        try:
            character = b"".join(map(_byte, run[at : at + length])).decode("utf-8")
        except (UnicodeDecodeError, UnicodeEncodeError):
            continue
        if len(character) == 1 and any(low <= ord(character) <= high for low, high in _PLAUSIBLE):
            return character, length
    return run[at], 1


def _byte(letter: str) -> bytes:
    try:
        return letter.encode("cp1252")
    except UnicodeEncodeError:
        return letter.encode("latin-1")


CHECK = Check(
    "mojibake",
    "Texts that were read with the wrong encoding (Ã© for é, â€™ for an apostrophe), and replacement characters (U+FFFD).",
    find,
)
