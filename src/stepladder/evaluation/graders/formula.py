"""The formulas of `multi` graders: numbers, names, `+ - * / ^`, parentheses and a few functions. Nothing is evaluated as code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from stepladder.evaluation.graders.reward import GraderRefused

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?)|([A-Za-z_]\w*)|(\S))", re.ASCII)
_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_MANY = ("min", "max")
_DEEPEST = 50

Value = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Formula:
    """A formula that was read; `names` are the variables it uses."""

    text: str
    names: frozenset[str]
    _value: Value

    @classmethod
    def parse(cls, text: str) -> Formula:
        """Read `text`; `^` binds tighter than a minus before it and groups from the right, as on paper: -2^2 = -4.

        Raises:
            GraderRefused: It is no formula; the place is named.
        """
        return _Reader(text).read()

    def value(self, variables: Mapping[str, float]) -> float:
        """The formula's number.

        Raises:
            ArithmeticError, ValueError: No finite number comes out: division by 0, log of 0, overflow.
        """
        found = self._value(variables)
        if not math.isfinite(found):
            raise OverflowError("the result is not finite")
        return float(found)


class _Token(NamedTuple):
    """One of number, name and sign is set."""

    start: int
    number: str | None
    name: str | None
    sign: str | None


class _Reader:
    """Precedence climbing over the tokens of one formula."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [_Token(match.start(match.lastindex or 0), *match.groups()) for match in _TOKEN.finditer(text)]
        self._place = 0
        self._names: set[str] = set()

    def read(self) -> Formula:
        value = self._sum(0)
        if self._place < len(self._tokens):
            raise self._refusal()
        return Formula(self._text, frozenset(self._names), value)

    def _sum(self, depth: int) -> Value:
        left = self._product(depth)
        while sign := self._take("+-"):
            left = _join(sign, left, self._product(depth))
        return left

    def _product(self, depth: int) -> Value:
        left = self._signed(depth)
        while sign := self._take("*/"):
            left = _join(sign, left, self._signed(depth))
        return left

    def _signed(self, depth: int) -> Value:
        if depth > _DEEPEST:
            raise GraderRefused("the formula is nested too deeply.", "Shorten it.", "calculate_output")
        sign = self._take("+-")
        if sign:
            inner = self._signed(depth + 1)
            return inner if sign == "+" else lambda variables: -inner(variables)
        base = self._atom(depth)
        return _join("^", base, self._signed(depth + 1)) if self._take("^") else base

    def _atom(self, depth: int) -> Value:
        if self._place >= len(self._tokens):
            raise self._refusal()
        token = self._tokens[self._place]
        if token.sign not in (None, "("):
            raise self._refusal()
        self._place += 1
        if token.number is not None:
            constant = float(token.number)
            return lambda variables: constant
        if token.name is not None:
            return self._call(token.name, depth) if self._take("(") else self._variable(token.name)
        inner = self._sum(depth + 1)
        self._close()
        return inner

    def _variable(self, name: str) -> Value:
        self._names.add(name)
        return lambda variables: variables[name]

    def _call(self, name: str, depth: int) -> Value:
        if name not in _FUNCTIONS:
            raise GraderRefused(
                f"the formula calls '{name}', which is no function.", f"There are: {', '.join(_FUNCTIONS)}.", "calculate_output"
            )
        arguments = [self._sum(depth + 1)]
        while self._take(","):
            arguments.append(self._sum(depth + 1))
        self._close()
        if len(arguments) > 1 and name not in _MANY:
            raise GraderRefused(f"'{name}' takes one number.", "Correct the formula.", "calculate_output")
        function = _FUNCTIONS[name]
        if name in _MANY:
            return lambda variables: function([argument(variables) for argument in arguments])
        return lambda variables: function(arguments[0](variables))

    def _take(self, signs: str) -> str:
        """The next token when it is one of `signs`, which is then used up; else ""."""
        if self._place < len(self._tokens):
            sign = self._tokens[self._place].sign
            if sign is not None and sign in signs:
                self._place += 1
                return sign
        return ""

    def _close(self) -> None:
        if not self._take(")"):
            raise self._refusal()

    def _refusal(self) -> GraderRefused:
        if self._place >= len(self._tokens):
            return GraderRefused("the formula ends too early.", "Finish it, or close its parentheses.", "calculate_output")
        start = self._tokens[self._place].start
        return GraderRefused(
            f"the formula cannot be read at character {start + 1}, '{self._text[start : start + 20]}'.",
            "Use names, numbers, + - * / ^ and parentheses.",
            "calculate_output",
        )


def _join(sign: str, left: Value, right: Value) -> Value:
    if sign == "+":
        return lambda variables: left(variables) + right(variables)
    if sign == "-":
        return lambda variables: left(variables) - right(variables)
    if sign == "*":
        return lambda variables: left(variables) * right(variables)
    if sign == "/":
        return lambda variables: left(variables) / right(variables)
    return lambda variables: _power(left(variables), right(variables))


def _power(base: float, exponent: float) -> float:
    return math.pow(base, exponent)  # not `**`: a root of a negative number is an error, not a complex number
