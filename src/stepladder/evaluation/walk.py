"""The rules without a target: up in the order of cost, and only for a proved gain; and the tuned rungs' second route."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

from stepladder.domain.verdict import Gain, Outcome, Route
from stepladder.evaluation.compare import Contender, Pairing, strongest_untuned
from stepladder.evaluation.cost import costs_less
from stepladder.evaluation.gains import PROVED, SAME, rows_to_prove
from stepladder.evaluation.ruling import Ruling

LIKELY = 0.5  # P(gain ≥ minimum_gain) from which an unproved dearer rung leaves the question open

Proves = Callable[[Gain], bool]


def walk_up(eligible: Sequence[Contender], pairing: Pairing) -> Ruling:
    """What the contenders, in adoption order, come to without a target."""

    def proves(move: Gain) -> bool:
        return move.probability_better >= PROVED and _large_enough(move, pairing)

    chosen, beaten, unproved = _walk(eligible, pairing, proves)
    return replace(_weighed(chosen, beaten, eligible, pairing), unproved=unproved)


def _weighed(chosen: Contender, beaten: Contender | None, eligible: Sequence[Contender], pairing: Pairing) -> Ruling:
    """The rung the walk ended on, against those that run for less and those that may yet prove better."""
    takeover = cheaper_to_run(chosen, eligible, pairing)
    final = takeover or chosen
    hardest = {rung.rung: _hardest(final, rung, eligible, pairing) for rung in _after(final, eligible)}
    odds = {name: move.probability_minimum for name, (_, move) in hardest.items()}
    rivals = [rung for rung in eligible if odds.get(rung.rung, 0.0) >= LIKELY]
    if rivals:
        best = max(rivals, key=lambda rung: rung.mean)
        against, move = hardest[best.rung]
        rows = _rows_to_decide(rivals, final, eligible, pairing)
        return Ruling(Outcome.UNDECIDED, best, None, odds[best.rung], rows, odds=odds, against=against, proof=move)
    if takeover is not None:
        return taken_over(chosen, takeover, pairing, odds)
    if beaten is not None:
        proof = pairing.gain(beaten, chosen)
        return Ruling(Outcome.SUFFICIENT, chosen, Route.GAIN, proof.probability_better, odds=odds, against=beaten, proof=proof)
    nothing_better = 1 - max(odds.values()) if odds else None
    nearest, gap = _nearest(chosen, eligible, odds, pairing)
    return Ruling(Outcome.SUFFICIENT, chosen, Route.CHEAPEST, nothing_better, odds=odds, against=nearest, proof=gap)


def _walk(eligible: Sequence[Contender], pairing: Pairing, proves: Proves) -> tuple[Contender, Contender | None, dict[str, Gain]]:
    """Where the walk ends, what the rung there has beaten last, and by rung it passed over the gain that was not proved."""
    chosen, beaten, unproved = eligible[0], None, {}
    for rung in eligible[1:]:
        hurdles = _hurdles(chosen, rung, eligible)
        moves = [pairing.gain(hurdle, rung) for hurdle in hurdles]
        missed = next((move for move in moves if not proves(move)), None)
        if missed is None:
            chosen, beaten = rung, hurdles[-1]
        else:
            unproved[rung.rung] = missed
    return chosen, beaten, unproved


def _hurdles(standing: Contender, rung: Contender, eligible: Sequence[Contender]) -> list[Contender]:
    """Whom `rung` has to beat: the rung the walk stands on and, for a tuned rung, the strongest untuned contender."""
    strongest = strongest_untuned(eligible) if rung.tuned else None
    return [standing] if strongest is None or strongest is standing else [standing, strongest]


def _hardest(standing: Contender, rung: Contender, eligible: Sequence[Contender], pairing: Pairing) -> tuple[Contender, Gain]:
    """Whom `rung` is least likely to beat by `minimum_gain`, of all it has to beat; and its gain over that one."""
    moves = [(hurdle, pairing.gain(hurdle, rung)) for hurdle in _hurdles(standing, rung, eligible)]
    return min(moves, key=lambda move: move[1].probability_minimum)


def _large_enough(move: Gain, pairing: Pairing) -> bool:
    return move.interval.value >= pairing.minimum_gain - SAME


def _after(rung: Contender, eligible: Sequence[Contender]) -> Iterator[Contender]:
    """Those later in adoption order or (where a tuned rung took over) with the higher total cost."""
    place = eligible.index(rung)
    for at, other in enumerate(eligible):
        if at > place or costs_less(rung.cost, other.cost):
            yield other


def _rows_to_decide(rivals: Sequence[Contender], final: Contender, eligible: Sequence[Contender], pairing: Pairing) -> int | None:
    """The least rows in all at which the walk would leave nothing open if the rates stayed as they are; None where none would.

    Rows prove a gain of `minimum_gain` or more, sooner or later. They do not make a smaller one large enough.
    """

    def large_enough(standing: Contender, rung: Contender) -> bool:
        return all(_large_enough(pairing.gain(hurdle, rung), pairing) for hurdle in _hurdles(standing, rung, eligible))

    def decide(rows: int) -> bool:
        chosen, _, _ = _walk(eligible, pairing, lambda move: _large_enough(move, pairing) and (sizes[move] or rows + 1) <= rows)
        stands = cheaper_to_run(chosen, eligible, pairing) or chosen
        return not any(large_enough(stands, rung) for rung in _after(stands, eligible))

    if not all(large_enough(final, rung) for rung in rivals):
        return None
    moves = [pairing.gain(one, other) for one, other in permutations(eligible, 2)]
    sizes = {move: rows_to_prove(move) for move in moves}
    return next((rows for rows in sorted({size for size in sizes.values() if size is not None}) if decide(rows)), None)


def _nearest(
    chosen: Contender, eligible: Sequence[Contender], odds: dict[str, float], pairing: Pairing
) -> tuple[Contender | None, Gain | None]:
    """What the cheapest contender is weighed against: the likeliest to be better of those that cost no less in all.

    Without such a one, the tuned rung that costs less in all and is likeliest to be no worse.
    """
    others = [rung for rung in eligible if rung is not chosen]
    dearer = [rung for rung in others if not costs_less(rung.cost, chosen.cost)]
    if dearer:
        nearest = max(dearer, key=lambda rung: odds[rung.rung])
        return nearest, _hardest(chosen, nearest, eligible, pairing)[1]
    if not others:
        return None, None
    nearest = max(others, key=lambda rung: pairing.gain(chosen, rung).probability_not_worse)
    return nearest, pairing.gain(chosen, nearest)


def cheaper_to_run(chosen: Contender, candidates: Sequence[Contender], pairing: Pairing) -> Contender | None:
    """The second route: the cheapest tuned rung that costs less in all and is proved not worse by `minimum_gain`."""
    return next(
        (
            rung
            for rung in candidates
            if rung.tuned
            and rung is not chosen
            and costs_less(rung.cost, chosen.cost)
            and pairing.gain(chosen, rung).probability_not_worse >= PROVED
        ),
        None,
    )


def taken_over(chosen: Contender, takeover: Contender, pairing: Pairing, odds: dict[str, float]) -> Ruling:
    """A tuned rung takes the place of the chosen one on the second route."""
    proof = pairing.gain(chosen, takeover)
    return Ruling(
        Outcome.SUFFICIENT, takeover, Route.CHEAPER_TO_RUN, proof.probability_not_worse, odds=odds, against=chosen, proof=proof
    )
