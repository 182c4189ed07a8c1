"""Answers that are tool calls: the right tools, with the right arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.domain.answer import expected_answer, parse_arguments, read_answer
from stepladder.domain.messages import Example, Message
from stepladder.domain.prediction import Grade, Score, Ungraded
from stepladder.evaluation.graders.base import NO_REFERENCE
from stepladder.evaluation.graders.json_tree import best_pairing, leaves, overlap
from stepladder.evaluation.graders.normalised_match import NormalisedMatch


@dataclass(frozen=True, slots=True)
class _Call:
    """One call; `arguments` is None where they are no JSON object."""

    name: str
    arguments: dict[str, Any] | None


class ToolCalls:
    """F1 over the fields of all calls: each call's tool is one field, each value in its arguments another.

    Calls are paired so that most fields agree, whatever their order (`ordered`: first with first, and so on); calls of
    different tools share nothing. Values are compared as in `json_fields`. Half-formed arguments are one wrong field: writing
    JSON is the model's part. Words beside the calls do not count. Where the reference is a text, the answer is right when
    it calls nothing and matches it after normalisation.
    """

    name = "tool_calls"

    def __init__(self, *, ordered: bool = False) -> None:
        self._ordered = ordered
        self._text = NormalisedMatch()

    def grade(self, example: Example, answer: str) -> Grade:
        expected, given = _reference(example), read_answer(answer)
        if not expected.tool_calls:
            return self._grade_text(example, given)
        calls = _calls(expected)
        if any(call.arguments is None for call in calls):
            return Ungraded("the arguments of an expected call are not a JSON object")
        right, mine, theirs = self._counts(_calls(given), calls)
        return Score(2 * right / (mine + theirs))

    def metrics(self, examples: Sequence[Example], answers: Sequence[str]) -> dict[str, float]:
        """Of rows that want calls: `parses` (calls, all with JSON arguments), `tools_right`, `field_f1` (micro), `exact`.

        Of rows that want a text: `needless_calls`, the share that calls a tool all the same.
        """
        pairs = [(_reference(example), read_answer(answer)) for example, answer in zip(examples, answers, strict=True)]
        wanted = [(_calls(expected), _calls(given)) for expected, given in pairs if expected.tool_calls]
        wanted = [(expected, given) for expected, given in wanted if all(call.arguments is not None for call in expected)]
        plain = [given for expected, given in pairs if not expected.tool_calls]
        found = {"needless_calls": sum(bool(given.tool_calls) for given in plain) / len(plain)} if plain else {}
        if not wanted:
            return found
        counts = [self._counts(given, expected) for expected, given in wanted]
        right, mine, theirs = (sum(column) for column in zip(*counts, strict=True))
        return {
            "parses": _share(bool(given) and all(call.arguments is not None for call in given) for _, given in wanted),
            "tools_right": _share(self._same_tools(given, expected) for expected, given in wanted),
            "field_f1": 2 * right / (mine + theirs),
            "exact": _share(hits == own == other for hits, own, other in counts),
            **found,
        }

    def _grade_text(self, example: Example, given: Message) -> Grade:
        if not example.reference.content.strip():
            return NO_REFERENCE
        return Score(0.0) if given.tool_calls else self._text.grade(example, given.content)

    def _counts(self, given: Sequence[_Call], expected: Sequence[_Call]) -> tuple[int, int, int]:
        """Right fields, fields of the answer, fields of the reference."""
        mine, theirs = sum(map(_size, given)), sum(map(_size, expected))
        if self._ordered:
            return sum(_shared(*pair) for pair in zip(given, expected, strict=False)), mine, theirs
        return best_pairing(given, expected, _shared), mine, theirs

    def _same_tools(self, given: Sequence[_Call], expected: Sequence[_Call]) -> bool:
        mine, theirs = [call.name for call in given], [call.name for call in expected]
        return mine == theirs if self._ordered else Counter(mine) == Counter(theirs)


def _reference(example: Example) -> Message:
    """The reference; a text that spells out calls, as a table's cell may, counts as these calls."""
    return example.reference if example.reference.tool_calls else read_answer(expected_answer(example))


def _calls(message: Message) -> list[_Call]:
    return [_Call(call.name, _walkable(parse_arguments(call.arguments))) for call in message.tool_calls]


def _walkable(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    """None for a tree too deep to be compared."""
    try:
        leaves(arguments)
    except RecursionError:
        return None
    return arguments


def _size(call: _Call) -> int:
    return 1 + (0 if call.arguments == {} else leaves(call.arguments))


def _shared(given: _Call, expected: _Call) -> int:
    if given.name != expected.name:
        return 0
    return 1 + (overlap(given.arguments, expected.arguments) if given.arguments and expected.arguments else 0)


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values)
