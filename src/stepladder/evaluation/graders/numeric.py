"""Answers that are a number."""

from __future__ import annotations

import re
from decimal import Decimal

from stepladder.domain.answer import expected_answer
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Score, Ungraded

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.])[-+\u2212])?(?:[$€£¥]\s?)?"
    r"(?P<digits>[0-9]{1,3}(?:[,\u00a0\u202f'’_][0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?P<exponent>[eE][-+]?[0-9]{1,4}(?![0-9]))?"
)
_GROUPING = re.compile(r"[,\u00a0\u202f'’_]")


def first_number(text: str) -> Decimal | None:
    """The first number in `text`, exactly; None without one.

    The decimal mark is a point; a comma, apostrophe, underscore or no-break space before three digits groups thousands
    ("1,250.5", but "1,5" begins with the number 1). A minus right after a letter or digit is a hyphen. Exponents have up to
    four digits.
    """
    found = _NUMBER.search(text)
    if found is None:
        return None
    sign = "-" if found["sign"] in ("-", "\u2212") else ""
    return Decimal(sign + _GROUPING.sub("", found["digits"]) + (found["exponent"] or ""))


class Numeric:
    """1 when the first number of the answer lies within max(`absolute`, `relative` · |reference|) of the reference's, else 0.

    Reckoned in decimal, so that 1.1 lies within 0.1 of 1.0.
    """

    name = "numeric"

    def __init__(self, absolute: float = 0.0, relative: float = 0.0) -> None:
        self._absolute = Decimal(str(absolute))
        self._relative = Decimal(str(relative))

    def grade(self, example: Example, answer: str) -> Grade:
        reference = first_number(expected_answer(example))
        if reference is None:
            return Ungraded("the reference holds no number")
        given = first_number(answer)
        if given is None:
            return Score(0.0)
        allowed = max(self._absolute, self._relative * abs(reference))
        return Score(float(abs(given - reference) <= allowed))
