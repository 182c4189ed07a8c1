"""What a test can show, before anything is spent on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.stats import binom

from stepladder.evaluation.gains import PROVED
from stepladder.evaluation.statistics import CROSS_FIT_INFLATION, SeedSpread, beta_at_least

REACHED = 0.9
"""P(score ≥ target) from which a rung counts as sufficient; at 1 - REACHED and below, the target counts as not reached."""

MOST_ROWS = 100_000
"""No plan asks for more rows than this; where it would, the answer is "no test of practical size"."""


def pass_mark(target: float, n: int, *, cross_fit: bool = False) -> int | None:
    """Least number of right answers among `n` with P(score ≥ target) ≥ .9; None when even `n` of `n` do not show it."""
    effective = n / (CROSS_FIT_INFLATION if cross_fit else 1.0)
    if n < 1 or beta_at_least(1.0, effective, target) < REACHED:
        return None
    return _least(lambda right: beta_at_least(right / n, effective, target) >= REACHED, 0, n)


def chance_to_pass(rate: float, target: float, n: int, *, cross_fit: bool = False) -> float:
    """Probability that a rung with a true `rate` meets the pass mark of `n` pass/fail rows, exactly."""
    mark = pass_mark(target, n, cross_fit=cross_fit)
    return 0.0 if mark is None else float(binom.sf(mark - 1, n, rate))


def power(n: int, gain: float, loss_rate: float = 0.05) -> float:
    """Probability that a true `gain` is proved by `n` pass/fail rows (P(better) ≥ .95), exactly.

    `loss_rate` = share of rows the better rung breaks; it fixes `loss_rate + gain` of the rows that it fixes.
    """
    win_rate = loss_rate + gain
    differing = loss_rate + win_rate
    if n < 1 or differing <= 0:
        return 0.0
    if win_rate + loss_rate > 1 + 1e-12:
        raise ValueError("a gain and twice the loss rate cannot exceed 1")
    counts = np.arange(n + 1)
    needed = _wins_needed(n)
    chances = binom.pmf(counts, n, min(differing, 1.0)) * binom.sf(needed - 1, counts, win_rate / differing)
    return float(chances.sum())


@lru_cache(maxsize=256)
def _wins_needed(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Least wins that prove a gain, shape (n + 1,) for k = 0 … n differing rows.

    Uses P(Beta(wins + 1, k - wins + 1) > ½) = P(Bin(k + 1, ½) ≤ wins).
    """
    return np.asarray(binom.ppf(PROVED, np.arange(n + 1) + 1, 0.5), dtype=np.float64)


@lru_cache(maxsize=256)
def smallest_provable_gain(
    n: int, loss_rate: float = 0.05, power_wanted: float = 0.8, *, cross_fit: bool = False
) -> float | None:
    """Smallest true gain that `n` rows prove with the wanted power; None when they prove none."""
    n = int(n / (CROSS_FIT_INFLATION if cross_fit else 1.0))
    largest = 1 - 2 * loss_rate
    if power(n, largest, loss_rate) < power_wanted:
        return None
    low, high = 0.0, largest
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(n, middle, loss_rate) >= power_wanted else (middle, high)
    return high


@lru_cache(maxsize=256)
def rows_to_show(gain: float, loss_rate: float = 0.05, power_wanted: float = 0.8, *, cross_fit: bool = False) -> int | None:
    """Rows at which a true `gain` is proved with the wanted power; None above `MOST_ROWS`."""
    if gain <= 0:
        return None
    rows = _search(lambda n: power(n, gain, loss_rate) >= power_wanted, 1)
    return rows if rows is None or not cross_fit else int(np.ceil(rows * CROSS_FIT_INFLATION))


def more_rows_for(n: int, gain: float = 0.05, loss_rate: float = 0.05, *, cross_fit: bool = False) -> int | None:
    """Rows to add to `n` until a true `gain` (five points by default) is proved with power .8; None above `MOST_ROWS`."""
    rows = rows_to_show(gain, loss_rate, cross_fit=cross_fit)
    return None if rows is None else max(0, rows - n)


def rows_to_decide(
    rate: float, target: float, *, rows_per_effective: float = 1.0, at_least: int = 1, seeds: SeedSpread | None = None
) -> int | None:
    """Test size at which the observed `rate` decides about the target: P ≥ .9 above it, P ≤ .1 below it.

    Args:
        rows_per_effective: Rows that carry as much as one independent pass/fail row (clusters, cross-fitting).
        at_least: Smallest size to consider.
        seeds: The spread between training seeds. More rows lessen only what chance has of it.
    Returns:
        None when the rate lies so near the target, or the seeds so far apart, that no practical test decides.
    """

    def decides(n: int) -> bool:
        probability = beta_at_least(rate, n / rows_per_effective, target, 0.0 if seeds is None else seeds.over(n))
        return probability >= REACHED if rate >= target else probability <= 1 - REACHED

    return _search(decides, at_least)


def _search(holds: Callable[[int], bool], start: int) -> int | None:
    """Least n ≥ start for which `holds`, taking it to stay true from there on; None above `MOST_ROWS`."""
    high = max(start, 1)
    while not holds(high):
        if high >= MOST_ROWS:
            return None
        high = min(2 * high, MOST_ROWS)
    return _least(holds, max(start, high // 2), high)


def _least(holds: Callable[[int], bool], low: int, high: int) -> int:
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def false_pass_rate(target: float, n: int, contenders: int, *, shortfall: float = 0.05, cross_fit: bool = False) -> float:
    """Chance that at least one of so many contenders, each `shortfall` under the target, meets the pass mark of `n` rows.

    Exact for pass/fail answers that are independent between contenders, the worst case: contenders that fail on the same
    rows pass by luck together, hence less often.
    """
    one = chance_to_pass(max(target - shortfall, 0.0), target, n, cross_fit=cross_fit)
    return 1.0 - (1.0 - one) ** contenders
