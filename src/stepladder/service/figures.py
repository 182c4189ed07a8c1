"""Numbers as people read them: no false precision, the unit always there, and a dash where nothing was measured."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence

from stepladder.domain.verdict import Cost, Interval

NOTHING = "–"
CALLS = 1000  # costs are shown for this many calls
REPLAYED_OF = "replayed_rows "
"""Noise figures of single contenders: this, then the name."""

_PICTURES = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}
_VISIBLE = {code: sign for code, sign in _PICTURES.items() if code not in (0x09, 0x0A)}


def visible(text: str) -> str:
    """`text` with every control character as its picture (␛) and every lone surrogate as �; tab and line feed stay.

    What a model wrote can then neither steer a terminal nor break an encoder.
    """
    text = text.replace("\r\n", "\n").translate(_VISIBLE)
    return "".join("\ufffd" if unicodedata.category(sign) == "Cs" or 0x80 <= ord(sign) < 0xA0 else sign for sign in text)


def one_line(text: str) -> str:
    """`visible` text on one line, without the signs that turn the direction of writing in a terminal."""
    return " ".join("".join(sign for sign in visible(text) if sign not in _TURNING).split())


_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def points_text(rate: float) -> str:
    """A rate as percentage points: whole, with one decimal only under ten; 100 only when nothing is missing."""
    if not math.isfinite(rate):
        return NOTHING
    points = rate * 100
    if points == 0:
        return "0"
    if abs(points) < 0.05:
        return "<0.1"
    if abs(points) < 9.95:
        return f"{points:.1f}"
    return "99" if 99 < points < 100 else f"{points:.0f}"


def rate_text(rate: float | None) -> str:
    """A rate as a percentage."""
    return NOTHING if rate is None or not math.isfinite(rate) else f"{points_text(rate)} %"


def setting_text(rate: float) -> str:
    """A rate somebody chose, exactly as chosen: "80 %", "2.5 %"."""
    return f"{rate * 100:.6g} %"


def interval_text(interval: Interval | None) -> str:
    """A score with its interval: "86 % (78–91)"."""
    if interval is None or not math.isfinite(interval.value):
        return NOTHING
    return f"{points_text(interval.value)} % ({_bound_text(interval.low)}–{_bound_text(interval.high)})"


def gain_text(interval: Interval) -> str:
    """A paired difference in points, always signed: "+12 points (+4.0 to +20)"."""
    return f"{_signed(interval.value)} points ({_signed(interval.low)} to {_signed(interval.high)})"


def probability_text(probability: float | None) -> str:
    """A probability in whole per cent; never "0 %" or "100 %", since nothing measured is ever that sure."""
    if probability is None or not math.isfinite(probability):
        return NOTHING
    if probability > 0.99:
        return ">99 %"
    if probability < 0.01:
        return "<1 %"
    return f"{probability * 100:.0f} %"


def seconds_text(seconds: float | None) -> str:
    """A duration in the unit that keeps it short: "340 ms", "5.2 s", "14 min", "3.1 h", "2.5 days"."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 0.001:
        return "<1 ms" if seconds > 0 else "0 s"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{number_text(seconds / 86400)} days"


def usd_text(usd: float | None) -> str:
    """An amount of money with as many decimals as it takes to see it."""
    if usd is None or not math.isfinite(usd):
        return NOTHING
    if 0 < usd < 0.0001:
        return "<$0.0001"
    if 0 < usd < 0.01:
        return f"${usd:.4f}"
    if usd < 100:
        return f"${usd:.2f}" if usd else "$0"
    return f"${number_text(usd)}"


def cost_text(cost: Cost) -> str:
    """What 1,000 calls cost: dollars when a price is known, else machine time."""
    if cost.usd_per_call is not None:
        return usd_text(cost.usd_per_call * CALLS)
    return seconds_text(cost.seconds_per_call * CALLS)


def tokens_text(cost: Cost) -> str:
    """Tokens of one call, prompt and answer."""
    tokens = cost.prompt_tokens_per_call + cost.completion_tokens_per_call
    return f"{number_text(tokens)} tokens" if tokens > 0 else "no tokens"


def number_text(value: float) -> str:
    """A number with thousands set off: three significant digits under 100, whole above."""
    if not math.isfinite(value):
        return NOTHING
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"


def counted(count: int, noun: str) -> str:
    """ "1 row", "12 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def cache_line(*, read_back: int, asked: int, broken: int, used: bool, anew: Sequence[str] = ()) -> str:
    """How many answers were read back from earlier climbs and how many asked for.

    `anew`: what a model computed besides, of which nothing is kept from climb to climb.
    """
    tail = f" Damaged in the cache, and asked anew: {broken:,}." if broken else ""
    if not used:
        return f"Answers: {asked:,} asked; the cache was not used."
    if read_back and not asked:
        more = f" Computed anew: {', '.join(anew)}." if anew else ""
        return f"Answers: all {read_back:,} were read back from earlier climbs; none was asked anew.{more}{tail}"
    return f"Answers: {read_back:,} read back from earlier climbs, {asked:,} asked.{tail}"


def replay_line(noise: Mapping[str, float]) -> str:
    """What asking test rows again one by one has shown, with the count behind it; empty when none were."""
    rows = noise.get("replayed_rows", 0.0)
    if not rows >= 1:
        return ""
    each = [
        f"{one_line(key.removeprefix(REPLAYED_OF))} {number_text(noise[key])}" for key in noise if key.startswith(REPLAYED_OF)
    ]
    answers, scores = noise.get("answers_changed_by_batching"), noise.get("scores_changed_by_batching")
    return (
        f"Noise: {number_text(rows)} test rows asked again one by one ({', '.join(each)}): "
        f"{rate_text(answers)} of answers and {rate_text(scores)} of scores changed."
    )


def _bound_text(rate: float) -> str:
    # a bound is an estimate already: capping it at 99 as a score is would narrow the interval
    return "100" if 0.995 <= rate < 1 else points_text(rate)


def _signed(rate: float) -> str:
    if abs(rate) < 0.0005:
        return "0"
    text = points_text(abs(rate))
    return text if text == NOTHING else f"{'−' if rate < 0 else '+'}{text}"
