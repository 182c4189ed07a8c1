"""Texts with `{{ item.x }}` and `{{ sample.output_text }}` in them, as OpenAI's graders write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepladder.domain.output import dump_json
from stepladder.evaluation.graders.reward import Fault, GraderRefused, Outcome, Reward, Subject, Trouble

HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_STEP = re.compile(r"""\.([\w-]{1,200})|\[(\d{1,6})\]|\[(?:'([^'\]]*)'|"([^"\]]*)")\]""")
_NAMESPACE = re.compile(r"item|sample")
_SAMPLE_KEYS = ("output_text", "output_json", "choices")


@dataclass(frozen=True, slots=True)
class Variable:
    """One hole of a template: a namespace and the steps into it (keys, or places in a list)."""

    namespace: str
    steps: tuple[str | int, ...]
    text: str  # as written, white space aside


class Missing(Exception):
    """A row lacks what a template reads."""

    def __init__(self, variable: Variable) -> None:
        super().__init__(variable)
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Template:
    """Literal texts and variables in turn, literal first and last: `texts[0] variables[0] texts[1] …`."""

    texts: tuple[str, ...]
    variables: tuple[Variable, ...]

    @classmethod
    def parse(cls, text: str, param: str) -> Template:
        """Raises `GraderRefused` for a hole that reads nothing a grader has; `param` is the key the text stands under."""
        pieces = HOLE.split(text)
        return cls(tuple(pieces[::2]), tuple(_variable(piece, param) for piece in pieces[1::2]))

    def render(self, subject: Subject, frame: Callable[[Variable, str], str] | None = None) -> str:
        """The text with its holes filled; `frame` may wrap what is filled in.

        Values other than texts are written as JSON. A value that looks like a template is left as it is.

        Raises:
            Missing: The row or the answer lacks a value.
        """
        namespaces: Mapping[str, Any] = {"item": subject.item, "sample": subject.sample}
        parts = [self.texts[0]]
        for variable, text in zip(self.variables, self.texts[1:], strict=True):
            value = _text(_walk(namespaces[variable.namespace], variable), variable)
            parts += [value if frame is None else frame(variable, value), text]
        return "".join(parts)


def missing(error: Missing, low: float = 0.0, high: float = 1.0) -> Outcome:
    """Whose fault a missing value is. The row's: no grade. The answer's, for not being the JSON that was read: the lowest."""
    variable = error.variable
    if variable.namespace == "sample":
        return Reward(low, low, high, trouble=Trouble.SAMPLE)
    return Fault(f"the row has no '{variable.text}'", Trouble.VARIABLE)


def _variable(hole: str, param: str) -> Variable:
    text = hole.strip()
    namespace = _NAMESPACE.match(text)
    steps: list[str | int] = []
    place = namespace.end() if namespace else 0
    while namespace and place < len(text):
        step = _STEP.match(text, place)
        if step is None:
            break
        key, index, single, double = step.groups()
        steps.append(int(index) if index is not None else next(part for part in (key, single, double) if part is not None))
        place = step.end()
    if namespace is None or place < len(text) or not steps:
        raise GraderRefused(
            f"'{{{{ {text[:60]} }}}}' names no variable.", "Write {{ item.NAME }} or {{ sample.output_text }}.", param
        )
    if namespace[0] == "sample" and steps[0] not in _SAMPLE_KEYS:
        raise GraderRefused(
            f"'{text[:60]}' is not known: answers here are text.", f"`sample` holds {', '.join(_SAMPLE_KEYS)}.", param
        )
    return Variable(namespace[0], tuple(steps), text)


def _walk(value: Any, variable: Variable) -> Any:
    for step in variable.steps:
        if isinstance(value, Mapping) and str(step) in value:
            value = value[str(step)]
        elif isinstance(value, list) and str(step).isdecimal() and int(step) < len(value):  # `a[0]` and `a.0`
            value = value[int(step)]
        else:
            raise Missing(variable)
    return value


def _text(value: Any, variable: Variable) -> str:
    try:
        return value if isinstance(value, str) else dump_json(value)
    except RecursionError:  # JSON that is too deep to write again
        raise Missing(variable) from None
