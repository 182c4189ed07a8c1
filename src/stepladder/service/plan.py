"""Before anything is spent: what these rows can show, how long it will take, and what is left out to fit the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil

from stepladder.domain.protocols import Choices
from stepladder.domain.task import TaskSettings
from stepladder.evaluation.planning import chance_to_pass, more_rows_for, pass_mark, smallest_provable_gain
from stepladder.service.memory import Memory
from stepladder.service.money import Money
from stepladder.service.speeds import Speeds
from stepladder.service.workload import Workload, epoch_tokens, estimate_confirmation, estimate_rungs, trainings

FREE_RUNGS = ("baseline", "recorded", "classifier")
TUNED_RUNGS = ("lora", "lora+constrained", "lora+nearest", "lora+rag", "qlora", "dpo")
KEPT_TO_THE_LAST = ("prompt", "constrained", "few-shot", "nearest", "rag", "lora", "lora+constrained")
"""What a ladder is for; the dear combinations give way first, and none of these for less than `OVERRUN`."""
OVERRUN = 1.25
"""A climb may take a quarter longer than asked for, since a plan is an estimate; beyond that rungs are left out."""
COMPARED = ("prompt", "few-shot")
"""Rungs that models of `[model] compare` climb."""


CLEARLY_BETTER = 0.05
"""How far above the target the rung lies whose chance to pass a plan states."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be tried, for how long, and why not more. `seconds` by rung; `over_budget` names rungs left out.

    `trainings` counts adapters by rung, over all worlds. `memory` is None where the model is not in this process, `money`
    and `memory` both before anything is known of a task.
    """

    choices: Choices
    seconds: dict[str, float]
    confirmation_seconds: float
    over_budget: tuple[str, ...]
    lines: tuple[str, ...]
    tuned_seconds_per_call: float = 0.0  # estimate of a tuned rung's call, batched
    tokens_per_step: float = 0.0  # computed by an optimizer step of the plain fine-tune, evaluations shared out
    refit_seconds: float = 0.0  # of the fit on all rows that ends cross-fitting
    trainings: dict[str, int] = field(default_factory=dict)
    memory: Memory | None = None
    money: Money | None = None

    @classmethod
    def none(cls) -> Plan:
        """No plan: everything may be tried."""
        return cls(Choices(), {}, 0.0, (), ())

    @property
    def total_seconds(self) -> float:
        rungs = sum(seconds for rung, seconds in self.seconds.items() if rung not in self.over_budget)
        return rungs + self.refit_seconds + self.confirmation_seconds

    @property
    def rungs(self) -> tuple[str, ...]:
        """Those that fit the budget."""
        return tuple(rung for rung in self.seconds if rung not in self.over_budget)

    def __str__(self) -> str:
        left_out = dict.fromkeys(self.over_budget, "  (left out)")
        each = [f"  {rung:<18} about {taken / 60:5.1f} min{left_out.get(rung, '')}" for rung, taken in self.seconds.items()]
        last = f"  {'test and replay':<18} about {self.confirmation_seconds / 60:5.1f} min"
        return "\n".join((*self.lines, *each, last))


def make_plan(
    settings: TaskSettings, work: Workload, speeds: Speeds, rungs: tuple[str, ...], *, budget_minutes: float, refit: bool
) -> Plan:
    """Choices that fit `budget_minutes`, dropped one by one in the fixed order, each said in a line.

    Args:
        rungs: Those that apply, in ladder order.
        refit: Whether a last training on all rows follows (cross-fitting).
    """
    budget = budget_minutes * 60.0
    cross = work.worlds > 1
    choices = Choices(folds=work.worlds, seeds=1 if cross else Choices().seeds)

    def seconds_of(chosen: Choices, wanted: tuple[str, ...]) -> float:
        sized = replace(work, worlds=chosen.folds)
        tuned = any(rung in TUNED_RUNGS for rung in wanted)
        total = sum(estimate_rungs(sized, chosen, speeds, rungs=wanted).values())
        again = total / max(1, chosen.folds) if refit else 0.0
        return total + again + estimate_confirmation(sized, chosen, speeds, tuned=tuned)

    kept, whole = rungs, choices
    over: list[str] = []
    while True:
        choices, dropped = _reduce(whole, kept, lambda chosen: seconds_of(chosen, kept) <= budget, cross=cross)  # noqa: B023
        sized = replace(work, worlds=choices.folds)
        taken = estimate_rungs(sized, choices, speeds, rungs=kept)
        left_out = _next_to_leave_out(kept, taken)
        allowed = OVERRUN * budget if set(taken) <= set(KEPT_TO_THE_LAST) else budget
        if seconds_of(choices, kept) <= allowed or left_out is None:
            break
        over.append(left_out)  # and begin anew: what is left may fit without dropping so much
        kept = tuple(rung for rung in kept if rung != left_out)
    sized = replace(work, worlds=choices.folds)
    seconds = estimate_rungs(sized, choices, speeds, rungs=rungs)
    confirmation = estimate_confirmation(sized, choices, speeds, tuned=any(rung in TUNED_RUNGS for rung in kept))
    trained = {rung: count * choices.folds for rung, count in trainings(choices, kept).items()}
    lines = [
        *power_lines(settings, work.all_test_rows(choices.folds), cross_fit=cross),
        *_training_lines(work, trained, refit=refit),
        *_time_lines(seconds_of(choices, kept), budget_minutes, dropped, over),
    ]
    call = (work.shared_tokens + work.input_tokens) / speeds.prompt + work.answer_tokens / speeds.completion
    step = epoch_tokens(work) / max(1, ceil(work.tune_rows / work.batch_size))
    again = sum(seconds[rung] for rung in kept if rung in seconds) / max(1, choices.folds) if refit else 0.0
    return Plan(choices, seconds, confirmation, tuple(over), tuple(lines), call, step, again, trained)


def _reduce(
    choices: Choices, rungs: tuple[str, ...], fits: Callable[[Choices], bool], *, cross: bool
) -> tuple[Choices, list[str]]:
    """Drop one thing after the other, in the fixed order, until the rest fits."""
    dropped: list[str] = []
    for said, lower in _reductions(rungs, cross=cross):
        if fits(choices):
            break
        lowered = lower(choices)
        if lowered != choices:
            choices = lowered
            dropped.append(said)
    return choices, dropped


def _reductions(rungs: tuple[str, ...], *, cross: bool) -> Iterator[tuple[str, Callable[[Choices], Choices]]]:
    """What may be dropped, in order: what is said, and how the choices are lowered."""
    if any(rung in TUNED_RUNGS for rung in rungs):
        yield "the second LoRA prompt", lambda now: replace(now, lora_prompts=1)
        yield "the second seed", lambda now: replace(now, seeds=1)
    if "few-shot" in rungs:
        yield "further orders of the demonstrations", lambda now: replace(now, orders=1)
    yield "prompt forms beyond 6", lambda now: replace(now, forms=min(now.forms, 6))
    yield "prompt forms beyond 3", lambda now: replace(now, forms=min(now.forms, 3))
    yield "all prompt forms but the plain one", lambda now: replace(now, forms=1)
    yield "8 demonstrations and 5 passages", lambda now: replace(now, shots=(2, 4), passages=(1, 3))
    yield "all but 4 demonstrations and 3 passages", lambda now: replace(now, shots=(4,), passages=(3,))
    if cross:
        yield "the fifth fold", lambda now: replace(now, folds=min(now.folds, 4))
        yield "the fourth fold", lambda now: replace(now, folds=min(now.folds, 3))
        yield "the third fold", lambda now: replace(now, folds=min(now.folds, 2))


def _next_to_leave_out(rungs: tuple[str, ...], seconds: dict[str, float]) -> str | None:
    """The dearest of the combinations, then of the rest; a tuned rung goes before the one it stands on."""
    combinations = [rung for rung in rungs if rung in seconds and rung not in KEPT_TO_THE_LAST]
    if combinations:
        return max(combinations, key=lambda rung: seconds[rung])
    if "lora+constrained" in rungs and "lora" in rungs:
        return "lora+constrained"
    rest = [rung for rung in rungs if rung in seconds and rung != "prompt"]
    return max(rest, key=lambda rung: seconds[rung]) if rest else None


def power_lines(settings: TaskSettings, rows: int, *, cross_fit: bool) -> Iterator[str]:
    """What so many test rows can show (design §5, "before spending")."""
    if settings.target is not None:
        needed = pass_mark(settings.target, rows, cross_fit=cross_fit)
        if needed is None:
            yield f"Pass mark: {rows} test rows cannot show {settings.target:.0%}, even if all are right."
        else:
            better = min(1.0, settings.target + CLEARLY_BETTER)
            chance = chance_to_pass(better, settings.target, rows, cross_fit=cross_fit)
            yield (
                f"Pass mark: {needed} of {rows} must be right to show {settings.target:.0%}; "
                f"a rung that truly has {better:.0%} right gets there in {chance:.0%} of all climbs."
            )
    gain = smallest_provable_gain(rows, cross_fit=cross_fit)
    if gain is None:
        yield f"Gains: with {rows} test rows no gain can be proved; label more."
    else:
        harder = smallest_provable_gain(rows, 0.10, cross_fit=cross_fit)
        more = "none" if harder is None else f"{100 * harder:.0f}"
        yield (
            f"Gains: with {rows} test rows only gains of about {100 * gain:.0f} points or more can be proved "
            f"where 5% of the rows get worse, {more} where 10% do."
        )
    missing = more_rows_for(rows, 0.05, cross_fit=cross_fit)
    if missing:
        each = settings.use.label_usd_each
        price = f" (${missing * each:,.0f} to label)" if each else ""
        yield f"To show a gain of 5 points: about {missing:,} more test rows{price}."


def _training_lines(work: Workload, trained: dict[str, int], *, refit: bool) -> Iterator[str]:
    if trained:
        each = ", ".join(f"{rung} {count}" for rung, count in trained.items())
        again = "; one more on all rows if a tuned rung wins" if refit else ""
        passes = "1 pass" if work.epochs == 1 else f"{work.epochs} passes"
        yield f"Trainings: {each}, of at most {passes} over {work.tune_rows} rows{again}."


def _time_lines(seconds: float, budget_minutes: float, dropped: list[str], over: list[str]) -> Iterator[str]:
    if seconds == 0:
        yield f"Time: cannot be told beforehand for this model; the budget is {budget_minutes:g} minutes."
    else:
        more = " It may take that much longer, for what is left is what a ladder is for." if seconds > 60 * budget_minutes else ""
        yield f"Time: about {max(1, round(seconds / 60))} of {budget_minutes:g} minutes.{more}"
    if dropped:
        yield f"Left out to fit the budget: {'; '.join(dropped)}."
    if over:
        yield f"Rungs that do not fit the budget: {', '.join(over)}. Raise `[budget] minutes` to climb them."
