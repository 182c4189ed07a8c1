"""The training loop. It yields what happened; the caller shows, saves and stops."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.paths import Path
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.objectives import Objective, Sft
from stepladder.training.presets import TrainSettings

LEARNS_FROM_STEP = {1: ("lora_B", "first"), 2: ("lora_A", "second")}
NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One optimizer step. `loss`: the objective's before the step; `tokens`: of its rows, prompts included."""

    step: int
    epoch: float
    learning_rate: float
    loss: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A moment to save. `held_out_nll`: loss of each held-out row (or pair); empty without such rows."""

    step: int
    held_out_nll: tuple[float, ...]


def train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    settings: TrainSettings,
    *,
    path: Path,
    objective: Objective = Sft(),  # noqa: B008 - a frozen value
    after_step: int = 0,
    evaluated: bool = True,
) -> Iterator[TrainStep | Evaluation]:
    """Train the parameters of `optimizer` on `rows`, continuing behind `after_step`.

    The loss of a step is the objective's over its rows, however they are split into passes. Where an objective compares
    rows, `rows` and `held_out` hold its groups one behind the other, and a batch is so many groups.

    Between two yields nothing is half done: parameters and optimizer belong to the step last yielded.

    Args:
        evaluated: Whether the evaluation due after `after_step`, if any, is done; if not, it comes first.
    Raises:
        ModelError: A loss, also of a held-out row, or its gradient is not a number, or the first two steps do not reach a
            part of the adapter.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    together = objective.loss.together
    groups = len(rows) // together
    steps, per_epoch = settings.steps(groups), settings.steps_per_epoch(groups)
    if after_step and not evaluated and settings.evaluates_after(after_step, groups):
        yield evaluate(path, held_out, settings, after_step, objective)
    for step, batch in settings.batches(groups, after_step=after_step):
        rate = settings.learning_rate_at(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = [row for index in batch for row in rows[index * together : (index + 1) * together]]
        loss = path.backward_loss(chosen, tokens_per_pass=settings.tokens_per_pass, loss=objective.loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise _broken(step, loss, chosen, rate, path.row_nll(chosen, tokens_per_pass=settings.tokens_per_pass))
        if step in LEARNS_FROM_STEP:
            check_every_part_learns(model, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield TrainStep(step, step / per_epoch, rate, loss, sum(map(len, chosen)))
        if settings.evaluates_after(step, groups):
            yield evaluate(path, held_out, settings, step, objective)


def evaluate(path: Path, held_out: Sequence[EncodedRow], settings: TrainSettings, step: int, objective: Objective) -> Evaluation:
    """The held-out losses after `step`.

    Raises:
        Diverged: One is not a number; its row is named.
    """
    losses = tuple(objective.judge(path, held_out, tokens_per_pass=settings.tokens_per_pass))
    broken = [row.id for row, nats in zip(held_out[:: objective.loss.together], losses, strict=True) if not math.isfinite(nats)]
    if broken:
        raise Diverged(
            f"training broke at step {step}: the loss of held-out {'row' if len(broken) == 1 else 'rows'} {_listed(broken)} "
            "is not a number.",
            f"Lower [rungs.lora] learning_rate (it is {settings.learning_rate:.2g} here), or look at "
            f"{'this row' if len(broken) == 1 else 'these rows'}.",
        )
    return Evaluation(step, losses)


def build_optimizer(model: Any, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over everything in `model` that is trained, in the model's own order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )


def check_every_part_learns(model: Any, step: int = 1) -> None:
    """Whether each B matrix got a gradient in step 1, each A matrix in step 2: an inert adapter learns nothing.

    B starts at zero, so that A's gradient is zero until B has moved.

    Raises:
        ModelError: Some got none; named.
    """
    matrix, which = LEARNS_FROM_STEP[step]
    inert = [
        name.replace(f".{matrix}.default.weight", "")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and f".{matrix}." in name and (parameter.grad is None or not parameter.grad.any())
    ]
    if inert:
        raise ModelError(
            f"after the {which} step the adapter has no gradient at {_listed(inert)} (matrix {matrix[-1]}).",
            "This architecture does not train this way; please report it with the model's name.",
        )


class Diverged(ModelError):
    """The loss or its gradient is no number any more, or far above where it began."""


def worst_rows(rows: Sequence[EncodedRow], nll: Sequence[float]) -> list[EncodedRow]:
    """The rows whose loss is not a number; where all are numbers, the one of the highest loss."""
    broken = [row for row, nats in zip(rows, nll, strict=True) if not math.isfinite(nats)]
    return broken or [max(zip(rows, nll, strict=True), key=lambda pair: pair[1])[0]]


def _broken(step: int, loss: float, rows: Sequence[EncodedRow], rate: float, nll: Sequence[float]) -> Diverged:
    worst = worst_rows(rows, nll)
    what, these = ("row", "this row") if len(worst) == 1 else ("rows", "these rows")
    return Diverged(
        f"training broke at step {step}: the loss is {loss:g} or its gradient is not finite "
        f"({what} {_listed([row.id for row in worst])}).",
        f"Lower [rungs.lora] learning_rate (it is {rate:.2g} here), or look at {these}.",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
