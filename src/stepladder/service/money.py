"""What a climb costs in money, from the tokens its plan counts and the prices in `[use]`, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from stepladder.domain.protocols import Choices
from stepladder.domain.task import TaskSettings
from stepladder.evaluation.cost import hosted_usd
from stepladder.service.figures import counted, usd_text
from stepladder.service.prices import price_lines, tuned_use, use_of
from stepladder.service.workload import Effort, Workload, confirmation_effort, rung_efforts


@dataclass(frozen=True, slots=True)
class Money:
    """Dollars of one climb: `hosted` for tokens of hosted models, `machine` for this machine's time; None = no price given."""

    hosted_models: int
    hosted_tokens: float
    hosted: float | None
    machine: float | None


def predict_money(
    settings: TaskSettings,
    work: Workload,
    choices: Choices,
    hosted_rungs: Sequence[tuple[str, tuple[str, ...]]],
    *,
    seconds: float,
) -> Money:
    """The money of a climb, as if no answer were recorded yet.

    Args:
        hosted_rungs: Every hosted model with the rungs it climbs. Each is taken for a contender, so this is rather too much.
        seconds: Of this machine.
    """
    use = settings.use
    work = replace(work, thinking_tokens=settings.model.thinking_tokens)
    tokens, hosted = 0.0, 0.0
    unpriced = []
    for model, rungs in hosted_rungs:
        effort = sum(rung_efforts(work, choices, rungs=rungs).values(), Effort())
        effort += confirmation_effort(work, choices, tuned=False)
        tokens += effort.sent + effort.answered
        usd = hosted_usd(use_of(settings, model), effort.sent, effort.answered)
        hosted += usd or 0.0
        unpriced += [model] if usd is None else []
    machine = None if use.machine_usd_per_hour is None else seconds / 3600 * use.machine_usd_per_hour
    return Money(len(hosted_rungs), tokens, None if unpriced else hosted, machine)


def money_lines(settings: TaskSettings, money: Money) -> Iterator[str]:
    """The plan's words about money."""
    parts = []
    if money.hosted_models:
        models = counted(money.hosted_models, "hosted model")
        tokens = f"about {money.hosted_tokens:,.0f} tokens of {models}"
        if money.hosted is None:
            parts.append(f"{tokens}, whose price is not known; set `usd_per_million_prompt_tokens` and `…_completion_tokens`")
        else:
            parts.append(f"{usd_text(money.hosted)} for {tokens} (`[budget] usd` ends them at {usd_text(settings.budget.usd)})")
    if money.machine is not None:
        parts.append(f"{usd_text(money.machine)} for this machine's time")
    yield f"Money: {'; '.join(parts)}." if parts else "Money: none; no model is hosted and this machine has no price."
    yield from price_lines(settings)


def tuning_lines(settings: TaskSettings, work: Workload, *, refit: bool) -> Iterator[str]:
    """What the job at `[rungs.hosted]` will read and charge, before a row is sent there."""
    hosted = settings.rungs.hosted
    if hosted.model is None or "hosted" in settings.rungs.skip:
        return
    jobs = work.worlds + refit
    epochs = hosted.epochs_for(work.tune_rows)
    prompt = work.shared_tokens + work.input_tokens
    trained = jobs * epochs * work.tune_rows * (prompt + work.answer_tokens)
    answers = work.worlds * (work.held_out_rows + work.test_rows)
    line = (
        f"Endpoint: {counted(jobs, 'job')} at {hosted.model}, {epochs} passes over {work.tune_rows} rows, about {trained:,.0f} "
        f"tokens to train and {answers:,} answers"
    )
    if hosted.usd_per_million_training_tokens is None:
        yield f"{line}; its prices are not known."
        return
    usd = trained * hosted.usd_per_million_training_tokens / 1e6
    usd += (hosted_usd(tuned_use(settings), answers * prompt, answers * work.answer_tokens)) or 0.0
    yield f"{line}: about {usd_text(usd)} (`[budget] usd` ends all spending at {usd_text(settings.budget.usd)})."


def label_lines(settings: TaskSettings, trained_rows: int) -> Iterator[str]:
    """What keeping a tuned rung up to date costs in labels over the horizon."""
    each, changes = settings.use.label_usd_each, settings.use.retrainings
    if each and changes and trained_rows:
        yield (
            f"Labels: a tuned rung needs its {trained_rows} rows labelled again at each change of the facts, "
            f"{usd_text(trained_rows * each)} each time and {usd_text(trained_rows * each * changes)} over the horizon."
        )
