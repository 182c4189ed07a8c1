"""What tuning cost in general ability: base and tuned model on the same probes, and which losses are too large.

Measures follow from what was observed alone, so a recorded retention can be judged again without a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.special import softmax, stdtrit

from stepladder.data.checks.repetition import repeated
from stepladder.data.patterns import NotMatched, Pattern
from stepladder.domain.answer import parse_arguments
from stepladder.domain.errors import EvaluationError
from stepladder.domain.probes import Checks
from stepladder.domain.retention import RetentionMeasure
from stepladder.domain.verdict import Interval

LEVEL = 0.90  # two-sided: the upper end is the one-sided 95 % bound

MOST_NLL_RISE = 0.10  # of the base's loss on general text; these limits: docs/decisions/011-general-abilities-block.md
MOST_MARGIN_LOSS = 0.10  # points of probability; 40 questions cannot show less
MOST_STOPPING_LOSS = 0.10  # share of prompts
MOST_REPETITION = 0.15
MOST_REFUSALS = 0.10

GENERAL_TEXT = "general text"
CHOICES = "multiple choice"
INSTRUCTIONS = "instructions"
STOPPING = "self-stopping"
REPETITION = "repetition"
REFUSALS = "refusals"
KL_GENERAL = "KL, general prompts"
KL_TASK = "KL, task inputs"

_REFUSES = re.compile(
    r"^\W*(?:(?:i(?:['’]m| am) (?:very |really |so )?(?:sorry|afraid)|sorry|unfortunately|apologies)\b[^.!?\n]{0,60}?\b)?"
    r"(?:but )?(?:as an (?:ai|artificial)|i (?:can(?:no|['’])t|can not|won['’]t|will not|must decline|refuse)\b"
    r"|i(?:['’]m| am) (?:unable|not (?:able|allowed|permitted))\b)",
    re.IGNORECASE,
)
_ENDING = " \t\r\n.!?\"'”’)*"


@dataclass(frozen=True, slots=True)
class Observed:
    """What one model did with the probes, a value for each, in their order; empty where nothing was asked.

    `text_nll` and the divergences are in nats per token; `margins` in points of probability; the rest 1 (yes) or 0, NaN where
    nobody can say. A base diverges from itself by nothing, so its divergences are empty.
    """

    text_nll: tuple[float, ...] = ()
    margins: tuple[float, ...] = ()
    followed: tuple[float, ...] = ()
    stopped: tuple[float, ...] = ()
    looped: tuple[float, ...] = ()
    refused: tuple[float, ...] = ()
    kl_general: tuple[float, ...] = ()
    kl_task: tuple[float, ...] = ()


def retention_measures(base: Observed, tuned: Observed) -> tuple[RetentionMeasure, ...]:
    """Every measure of which both models have values; divergences need the tuned one's only.

    Raises:
        EvaluationError: The two were asked different numbers of probes.
    """
    found = [
        _general_text(base.text_nll, tuned.text_nll),
        _change(CHOICES, base.margins, tuned.margins, limit=MOST_MARGIN_LOSS),
        _change(INSTRUCTIONS, base.followed, tuned.followed),
        _change(STOPPING, base.stopped, tuned.stopped, limit=MOST_STOPPING_LOSS, always=True),
        _change(REPETITION, base.looped, tuned.looped, limit=MOST_REPETITION, always=True, more_is_worse=True),
        _change(REFUSALS, base.refused, tuned.refused, limit=MOST_REFUSALS, always=True, more_is_worse=True),
        _divergence(KL_GENERAL, tuned.kl_general),
        _divergence(KL_TASK, tuned.kl_task),
    ]
    return tuple(measure for measure in found if measure is not None)


def paired_loss(differences: Sequence[float]) -> Interval:
    """Mean of paired differences with its t interval at `LEVEL`; no width for a single pair or equal differences.

    Source:
        Student (1908), The probable error of a mean, Biometrika 6.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean())
    half = 0.0
    if len(values) > 1:
        error = float(values.std(ddof=1)) / len(values) ** 0.5
        half = float(stdtrit(len(values) - 1, 0.5 + LEVEL / 2)) * error
    return Interval(mean, mean - half, mean + half, LEVEL, "paired t", len(values))


def _general_text(base: Sequence[float], tuned: Sequence[float]) -> RetentionMeasure | None:
    """Rise of the loss on general text as a share of the base's: a bound, since a mean of 20 texts moves."""
    if not _comparable(GENERAL_TEXT, base, tuned):
        return None
    level = float(np.mean(base))
    loss = paired_loss([(after - before) / level for before, after in zip(base, tuned, strict=True)])
    return RetentionMeasure(GENERAL_TEXT, level, float(np.mean(tuned)), loss, MOST_NLL_RISE, "upper")


def _change(
    name: str,
    base: Sequence[float],
    tuned: Sequence[float],
    *,
    limit: float | None = None,
    bound: Literal["mean", "upper"] = "mean",
    always: bool = False,
    more_is_worse: bool = False,
) -> RetentionMeasure | None:
    if not _comparable(name, base, tuned):
        return None
    sign = 1 if more_is_worse else -1
    known = [pair for pair in zip(base, tuned, strict=True) if not any(map(math.isnan, pair))]
    if not known:
        return None
    loss = paired_loss([sign * (after - before) for before, after in known])
    loss = replace(loss, ungraded=len(base) - len(known))
    before, after = np.mean(known, axis=0)
    return RetentionMeasure(name, float(before), float(after), loss, limit, bound, always)


def _divergence(name: str, nats: Sequence[float]) -> RetentionMeasure | None:
    return RetentionMeasure(name, None, float(np.mean(nats)), paired_loss(nats)) if nats else None


def _comparable(name: str, base: Sequence[float], tuned: Sequence[float]) -> bool:
    if len(base) != len(tuned) and base and tuned:
        raise EvaluationError(f"base and tuned model were asked different probes for '{name}' ({len(base)} and {len(tuned)}).")
    return bool(base) and bool(tuned)


def choice_margin(log_probabilities: Sequence[float], tokens: Sequence[int], right: int) -> float:
    """How much likelier the right option is than the likeliest wrong one, in [-1, 1].

    Args:
        log_probabilities, tokens: Of each option, end of turn included; compared per token, since options differ in length.
    """
    likely = softmax(np.asarray(log_probabilities, dtype=np.float64) / np.asarray(tokens, dtype=np.float64))
    return float(likely[right] - np.delete(likely, right).max())


def follows(answer: str, checks: Checks) -> float:
    """1 when an answer does everything an instruction's checks ask for, else 0; NaN where their pattern runs over its time."""
    text = answer.strip()
    plain, words = text.casefold(), len(text.split())
    lines = [line for line in text.splitlines() if line.strip()]
    keys = parse_arguments(text) if checks.json_keys and text else None
    plainly = all(
        (
            all(part.casefold() in plain for part in checks.contains),
            not checks.any_of or any(part.casefold() in plain for part in checks.any_of),
            not any(part.casefold() in plain for part in checks.lacks),
            plain.lstrip(" \"'“‘*").startswith(checks.starts.casefold()),
            plain.rstrip(_ENDING).endswith(checks.ends.casefold()),
            checks.least_words is None or words >= checks.least_words,
            checks.most_words is None or words <= checks.most_words,
            checks.lines is None or len(lines) == checks.lines,
            not checks.case or text == (text.upper() if checks.case == "upper" else text.lower()),
            not checks.json_keys or (keys is not None and set(keys) == set(checks.json_keys)),
        )
    )
    if not plainly or not checks.matches:
        return float(plainly)
    try:
        return float(_pattern(checks.matches).matches(text))
    except NotMatched:
        return math.nan


@lru_cache(maxsize=64)
def _pattern(text: str) -> Pattern:
    """A probe's pattern, kept so that one that ran away on three answers is not tried again."""
    return Pattern(f"(?is){text}")


def refuses(answer: str) -> bool:
    """Whether an answer begins by refusing. An empty one helps nobody either."""
    return not answer.strip() or _REFUSES.search(answer) is not None


def goes_in_circles(answer: str) -> bool:
    """Whether an answer says the same again and again."""
    return bool(repeated(answer))
