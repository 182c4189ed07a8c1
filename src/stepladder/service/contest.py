"""The contenders answer the test rows, once, after every choice has been made; then the verdict.

In cross-fitting each fold names its own contenders from its own training part. What is compared is then a role: "best untuned
(nearest or few-shot)" is whatever these rules call the best untuned rung, and the rung that most folds gave it stands first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from stepladder.domain.climb import GradedRow, RungStatus
from stepladder.domain.errors import BudgetError
from stepladder.domain.protocols import ModelIdentity, Predictor
from stepladder.domain.retention import Retention
from stepladder.domain.sealed import Opened
from stepladder.domain.verdict import Cost, Verdict
from stepladder.evaluation.compare import Contender, Contenders, name_contenders
from stepladder.evaluation.cost import adoption_cost, order_for_adoption
from stepladder.evaluation.ruling import VerdictInputs
from stepladder.evaluation.statistics import noise_floor, seed_disagreement
from stepladder.evaluation.verdict import decide
from stepladder.service.figures import REPLAYED_OF
from stepladder.service.labelling import rows_to_label_again
from stepladder.service.leaks import find_accepted, find_leaks
from stepladder.service.prices import tuned_use, use_of
from stepladder.service.replay import Replay, replay_alone
from stepladder.service.rung_run import RungRun, renamed
from stepladder.service.setup import Base
from stepladder.storage.run_folder import RunFolder

OR = " or "
ROLES = ("zero-shot", "nominee", "best untuned", "tuned champion")


@dataclass(frozen=True)
class Contest:
    """What the test rows said. `roles` names each contender's parts; `runs` the rung runs behind it, one a world."""

    verdict: Verdict
    inputs: VerdictInputs  # all that the verdict depends on; it can be derived again from these
    contenders: tuple[Contender, ...]  # in adoption order
    roles: Mapping[str, tuple[str, ...]]
    runs: Mapping[str, tuple[RungRun, ...]]
    rows: tuple[GradedRow, ...]
    clusters: NDArray[np.int64]
    cross_fit: bool
    noise: Mapping[str, float] = field(default_factory=dict)

    def named(self, rung: str) -> Contender | None:
        return next((contender for contender in self.contenders if contender.rung == rung), None)


@dataclass(frozen=True)
class Seat:
    """One contender before it has answered: its name, roles, and the rung that holds the part in every world."""

    name: str
    roles: tuple[str, ...]
    runs: tuple[RungRun, ...]


def hold_contest(
    base: Base,
    run: RunFolder,
    runs: Sequence[RungRun],
    opened: Opened,
    *,
    cross_fit: bool,
    deadline: float,
    retention: Sequence[Retention] = (),
    growth: tuple[str, ...] = (),
) -> Contest:
    """Name the contenders, let them answer, replay some rows alone (with time to spare, until `deadline`), decide."""
    seats = name_seats(base, runs, retention)
    answers = {seat.name: _answer_test(base, seat, opened) for seat in seats}
    rows = [row for answered in answers.values() for row in answered]
    replays = replay_alone(base, run, {seat.name: seat.runs for seat in seats}, rows, opened, deadline=deadline)
    contenders = [
        _contender(base, seat, answers[seat.name], replays.get(seat.name, Replay()), blocked=_blocked(base, seat, retention))
        for seat in seats
    ]
    ids = [row.id for row in rows if row.rung == seats[0].name and row.seed == 0]
    clusters = np.asarray([base.data.clusters[row] for row in ids], dtype=np.int64)
    settings = base.task.settings
    ordered = order_for_adoption(contenders)
    inputs = VerdictInputs(
        contenders=tuple(ordered),
        target=settings.target,
        minimum_gain=settings.minimum_gain,
        clusters=tuple(int(cluster) for cluster in clusters),
        cross_fit=cross_fit,
        openings=opened.openings,
        base_parameters=base.engine.identity.parameters,
        larger_models_compared=any(ran.status is RungStatus.RAN and " @ " in ran.name for ran in runs),
        max_latency_seconds=settings.use.max_latency_seconds,
        leaks=find_leaks(base.data, [ran.world for ran in runs]),
        accepted_leaks=find_accepted(base.data, [ran.world for ran in runs]),
        learned_before=base.data.splits.learned_before,
        seed=base.options.seed,
        why_nothing_tuned=_why_nothing_tuned(runs, contenders),
        data_may_leave=settings.use.data_may_leave,
        growth=growth,
        left_out=_left_out(runs),
        calls_total=settings.use.calls_total,
        tune_anyway=base.options.tune_anyway,
        split_growth=base.data.splits.growth,
        not_comparable=tuple(dict.fromkeys((*_apart(runs), *_unmeasured(seats, retention)))),
    )
    return Contest(
        decide(inputs),
        inputs,
        tuple(ordered),
        {seat.name: seat.roles for seat in seats},
        {seat.name: seat.runs for seat in seats},
        tuple(rows),
        clusters,
        cross_fit,
        {**replay_noise(replays, len(ids)), **seed_noise(contenders)},
    )


def _apart(runs: Sequence[RungRun]) -> list[str]:
    """Compared models whose scores may not stand beside the base's."""
    apart = [ran for ran in runs if ran.status is RungStatus.NOT_COMPARABLE]
    return [f"Not compared: {ran.name.partition(' @ ')[2]}. {ran.reason}" for ran in apart]


def _unmeasured(seats: Sequence[Seat], retention: Sequence[Retention]) -> list[str]:
    """Contenders that nobody compared with their base, where that rules nothing out."""
    seated = {(ran.name, ran.world.fold) for seat in seats for ran in seat.runs}
    return [one.unknown for one in retention if one.unknown and (one.rung, one.fold) in seated]


def name_seats(base: Base, runs: Sequence[RungRun], retention: Sequence[Retention] = ()) -> list[Seat]:
    """Who holds which role, from the validation rows of each world alone."""
    by_world: dict[int | None, list[RungRun]] = {}
    for ran in runs:
        if ran.status is RungStatus.RAN:
            by_world.setdefault(ran.world.fold, []).append(ran)
    blocked = {fold: {one.rung: one.blocked for one in retention if one.fold == fold} for fold in by_world}
    named = {fold: name_validated(base, ran, blocked[fold]) for fold, ran in by_world.items()}
    holders: dict[str, tuple[RungRun, ...]] = {}
    for role, attribute in zip(ROLES, ("zero_shot", "nominee", "best_untuned", "tuned"), strict=True):
        names = {fold: getattr(chosen, attribute) for fold, chosen in named.items()}
        if all(name is not None for name in names.values()):
            holders[role] = tuple(_find(by_world[fold], name) for fold, name in names.items())
    seats: dict[tuple[str, ...], list[str]] = {}
    for role, held in holders.items():
        seats.setdefault(tuple(ran.name for ran in held), []).append(role)
    result = []
    for parts, roles in seats.items():
        rungs = [rung for rung, _ in Counter(parts).most_common()]
        name = rungs[0] if len(rungs) == 1 else f"{roles[0]} ({OR.join(rungs)})"
        result.append(Seat(name, tuple(roles), holders[roles[0]]))
    return result


def name_validated(base: Base, runs: Sequence[RungRun], blocked: Mapping[str, str] | None = None) -> Contenders:
    """The contenders by these rungs' validation rows.

    `blocked` says by name why a rung may not be recommended. Where that leaves no tuned rung, the best of them answers all the
    same: it is shown with its score, and ruled out by the verdict.
    """
    validated = [_validated(base, ran) for ran in runs if ran.status is RungStatus.RAN]
    named = _named(base, [replace(one, blocked=(blocked or {}).get(one.rung, "")) for one in validated])
    return named if named.tuned is not None else replace(named, tuned=_named(base, validated).tuned)


def _named(base: Base, validated: Sequence[Contender]) -> Contenders:
    settings = base.task.settings
    return name_contenders(
        validated,
        target=settings.target,
        minimum_gain=settings.minimum_gain,
        max_latency_seconds=settings.use.max_latency_seconds,
    )


def _validated(base: Base, ran: RungRun) -> Contender:
    """A rung with its validation scores, in the shape the rules take.

    Latencies are shares of a batch, so they can only be too low: a rung they rule out is too slow for certain.
    """
    latencies = [row.latency_seconds for row in answered(ran.rows)] or [0.0]
    return Contender(
        ran.name,
        ran.technique.tuned,
        _scores(ran.rows),
        measured_cost(base, ran, ran.rows),
        _cut_share(ran.rows),
        latency_p50_seconds=float(np.quantile(latencies, 0.5)),
        latency_p95_seconds=float(np.quantile(latencies, 0.95)),
    )


def _find(runs: Sequence[RungRun], name: str) -> RungRun:
    return next(ran for ran in runs if ran.name == name)


def _answer_test(base: Base, seat: Seat, opened: Opened) -> list[GradedRow]:
    """Test answers of a contender over all worlds and all its seeds, graded.

    Raises:
        BudgetError: The money does not last. No verdict is made of the rest, since whom to leave out is a choice.
    """
    rows: list[GradedRow] = []
    base.watcher.progress.start(f"test: {seat.name}")
    for ran in seat.runs:
        marker = ran.marker or base.marker
        examples = ran.world.test.open(opened)
        inputs = [example.input for example in examples]
        for seed, predictor in enumerate(_seeds(ran)):
            try:
                answers = predictor.predict(inputs)
            except BudgetError as error:
                raise BudgetError(
                    f"'{seat.name}' could not answer all test rows. {error.problem}",
                    "Raise `[budget] usd` and climb again: this run is continued, and what is paid for is kept.",
                ) from error
            graded = marker.rows(ran.name, "test", examples, answers, fold=ran.world.fold, seed=seed)
            rows += renamed(graded, seat.name)
    base.watcher.progress.finish()
    return rows


def _seeds(ran: RungRun) -> list[Predictor]:
    """The rung once for each training seed; once where nothing was trained, or in a fold."""
    assert ran.predictor is not None
    of_seeds = getattr(ran.predictor, "seed_predictors", None)
    if of_seeds is None or ran.world.fold is not None:
        return [ran.predictor]
    return list(of_seeds())


def _contender(base: Base, seat: Seat, rows: Sequence[GradedRow], replay: Replay, *, blocked: str) -> Contender:
    seeds = sorted({row.seed for row in rows})
    latencies = replay.latencies or tuple(row.latency_seconds for row in answered(rows)) or (0.0,)
    return Contender(
        rung=seat.name,
        tuned=seat.runs[0].technique.tuned,
        scores=np.stack([_scores([row for row in rows if row.seed == seed]) for seed in seeds]),
        cost=measured_cost(base, seat.runs[0], rows, seconds=float(np.mean([ran.seconds for ran in seat.runs]))),
        cut_share=_cut_share(rows),
        unanswered_share=_mean([float(row.unanswered) for row in rows]),
        latency_p50_seconds=float(np.quantile(latencies, 0.5)),
        latency_p95_seconds=float(np.quantile(latencies, 0.95)),
        blocked=blocked,
        hosted=_identity(base, seat.runs[0]).hosted and any(row.prompt_tokens for row in rows),
    )


def _blocked(base: Base, seat: Seat, retention: Sequence[Retention]) -> str:
    """Why a tuned seat may not be recommended: in some world its model forgot too much, or nobody could look."""
    if not seat.runs[0].technique.tuned:
        return ""
    known = {(one.rung, one.fold): one for one in retention}
    found = [known.get((ran.name, ran.world.fold)) for ran in seat.runs]
    if any(one is None for one in found) and base.task.settings.use.other_tasks:
        return "`[use] other_tasks` is true, and its general abilities were not measured."
    return next((one.blocked for one in found if one is not None and one.blocked), "")


def _why_nothing_tuned(runs: Sequence[RungRun], contenders: Sequence[Contender]) -> str:
    """Why the first tuned rung is absent where no contender is tuned; empty where one is."""
    tuned = [ran for ran in runs if ran.technique.tuned]
    if any(contender.tuned for contender in contenders):
        return ""
    absent = next((ran for ran in tuned if ran.status is not RungStatus.RAN), None)
    if absent is None:
        return "no tuned rung could be named by its validation rows."
    first_sentence = absent.reason.partition(". ")[0].rstrip(".")
    return f"{absent.name}: {absent.status.value}. {first_sentence}.".removesuffix(" .")


def _left_out(runs: Sequence[RungRun]) -> tuple[str, ...]:
    """Tuned rungs that the budget did not hold, where none was climbed; one that was and may not be used is another matter."""
    tuned = [ran for ran in runs if ran.technique.tuned]
    if any(ran.status is RungStatus.RAN for ran in tuned):
        return ()
    return tuple(dict.fromkeys(ran.name for ran in tuned if ran.status is RungStatus.OVER_BUDGET))


def measured_cost(base: Base, ran: RungRun, rows: Sequence[GradedRow], seconds: float | None = None) -> Cost:
    """What adopting a rung costs, from the tokens and seconds of its own answers."""
    identity = _identity(base, ran)
    rows = answered(rows)
    settings = base.task.settings
    if ran.technique.name == "hosted":
        use, training_usd = tuned_use(settings), ran.recipe.get("usd")
    else:
        use, training_usd = use_of(settings, ran.name.partition(" @ ")[2] or settings.model.base), 0.0
    charged = identity.served and use.usd_per_million_prompt_tokens is not None  # also by a server on this machine
    return adoption_cost(
        use,
        prompt_tokens_per_call=_mean([row.prompt_tokens for row in rows]),
        completion_tokens_per_call=_mean([row.completion_tokens for row in rows]),
        seconds_per_call=_mean([row.latency_seconds for row in rows]),
        seconds_once=(ran.seconds if seconds is None else seconds) + _borrowed_seconds(ran),
        tuned=ran.technique.tuned,
        hosted=identity.hosted or charged,
        training_usd=training_usd,
        labelled_rows=rows_to_label_again(ran),
    )


def answered(rows: Sequence[GradedRow]) -> list[GradedRow]:
    """Rows that a model answered: the others have no tokens and no latency of their own."""
    return [row for row in rows if not row.unanswered]


def _identity(base: Base, ran: RungRun) -> ModelIdentity:
    return ran.context.engine.identity if ran.context is not None else base.engine.identity


def _borrowed_seconds(ran: RungRun) -> float:
    """Training that another rung paid for: whoever adopts `lora+constrained` has to train, too."""
    trained = sum(float(adapter["seconds"]) for adapter in ran.recipe.get("adapters", ()))
    return trained if trained > ran.seconds else 0.0


def replay_noise(replays: Mapping[str, Replay], test_rows: int) -> dict[str, float]:
    """How far answers move when only the batch changes, over all contenders that were asked again."""
    rows = sum(replay.rows for replay in replays.values())
    if rows == 0:
        return {}
    scores = sum(replay.changed_scores for replay in replays.values()) / rows
    return {
        "replayed_rows": float(rows),
        "answers_changed_by_batching": sum(replay.changed_answers for replay in replays.values()) / rows,
        "scores_changed_by_batching": scores,
        "batching_floor": noise_floor(scores, test_rows),
        **{f"{REPLAYED_OF}{name}": float(replay.rows) for name, replay in replays.items()},
    }


def seed_noise(contenders: Sequence[Contender]) -> dict[str, float]:
    """How far scores move when only the training seed changes."""
    noise = {}
    for contender in contenders:
        if contender.seeds > 1:
            disagreement = seed_disagreement(contender.scores)
            noise[f"seed_disagreement {contender.rung}"] = disagreement
            noise[f"seed_floor {contender.rung}"] = noise_floor(disagreement, contender.items)
    return noise


def _scores(rows: Sequence[GradedRow]) -> NDArray[np.float64]:
    return np.asarray([np.nan if row.score is None else row.score for row in rows], dtype=np.float64)


def _cut_share(rows: Sequence[GradedRow]) -> float:
    return _mean([float(row.cut) for row in rows])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
