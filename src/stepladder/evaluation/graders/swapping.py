"""A judge's own messages with reference and answer in each other's place: judges lean towards one place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stepladder.domain.grader_settings import JudgeMessage
from stepladder.evaluation.graders.template import HOLE

REFERENCES = ("reference", "expected", "ideal", "target", "label", "correct", "gold", "answer")
"""How a column begins that holds the right answer."""
_PARAGRAPH, _LINE = re.compile(r"\n[ \t]*\n\s*"), re.compile(r"\n")
_LABEL = re.compile(r"(?:^|\n)(?:[^\n]*[:>]|#[^\n]*|\*\*[^\n]*\*\*)\s*$")
_CLOSING = re.compile(r"\s*</[\w-]+>")

Place = tuple[int, int]
"""Where a block or a hole begins and ends in a text."""


def swapped(messages: Sequence[JudgeMessage]) -> tuple[JudgeMessage, ...] | None:
    """The messages with the reference's block and the answer's swapped; None where there are no two such blocks.

    A block is a paragraph, or else a line, that holds one variable and words of its own before it (or a heading above): without
    them nobody could tell afterwards which text is which.
    """
    holes = [(number, hole) for number, message in enumerate(messages) for hole in HOLE.finditer(message.content)]
    references = [(number, hole.span()) for number, hole in holes if _is_reference(hole[1].strip())]
    answers = [(number, hole.span()) for number, hole in holes if hole[1].strip().startswith("sample")]
    if len(references) != 1 or len(answers) != 1 or references[0][0] != answers[0][0]:
        return None
    number = references[0][0]
    text = messages[number].content
    for border in (_PARAGRAPH, _LINE):
        blocks = sorted((_block(text, references[0][1], border), _block(text, answers[0][1], border)))
        if all(_tells(text, block) for block in blocks) and blocks[0][1] <= blocks[1][0]:
            (first, end), (second, last) = blocks
            other = text[:first] + text[second:last] + text[end:second] + text[first:end] + text[last:]
            return (*messages[:number], messages[number].model_copy(update={"content": other}), *messages[number + 1 :])
    return None


def _is_reference(name: str) -> bool:
    namespace, _, column = name.partition(".")
    return namespace == "item" and column.startswith(REFERENCES)


def _block(text: str, hole: Place, border: re.Pattern[str]) -> Place:
    """The piece between two borders around a hole; a bare one with the heading above it and the closing tag below."""
    start = max((match.end() for match in border.finditer(text, 0, hole[0])), default=0)
    after = border.search(text, hole[1])
    end = len(text) if after is None else after.start()
    if not text[start : hole[0]].strip() and (label := _LABEL.search(text[:start])) is not None:
        start = label.start() + text[label.start()].isspace()
        closing = _CLOSING.match(text, end)
        end = end if closing is None else closing.end()
    return start, end


def _tells(text: str, block: Place) -> bool:
    """Whether a block holds one hole, and words before it."""
    piece = text[slice(*block)]
    first = HOLE.search(piece)
    return first is not None and len(HOLE.findall(piece)) == 1 and any(sign.isalpha() for sign in piece[: first.start()])
