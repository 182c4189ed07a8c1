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
) -> Iterator[TrainStep | Evaluation]:
    """Train the parameters of `optimizer` on `rows`, continuing behind `after_step`.

    The loss of a step is the objective's over its rows, however they are split into passes. Where an objective compares
    rows, `rows` and `held_out` hold its groups one behind the other, and a batch is so many groups.

    Between two yields nothing is half done: parameters and optimizer belong to the step last yielded.

    Raises:
        ModelError: The loss or its gradient is not a number, or the first step does not reach a part of the adapter.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    together = objective.loss.together
    groups = len(rows) // together
    steps, per_epoch = settings.steps(groups), settings.steps_per_epoch(groups)
    for step, batch in settings.batches(groups, after_step=after_step):
        rate = settings.learning_rate_at(step, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = [row for index in batch for row in rows[index * together : (index + 1) * together]]
        loss = path.backward_loss(chosen, tokens_per_pass=settings.tokens_per_pass, loss=objective.loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise _diverged(step, loss, chosen, rate)
        if step == 1:
            check_every_part_learns(model)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield TrainStep(step, step / per_epoch, rate, loss, sum(map(len, chosen)))
        if settings.evaluates_after(step, groups):
            losses = objective.judge(path, held_out, tokens_per_pass=settings.tokens_per_pass)
            yield Evaluation(step, tuple(losses))


def build_optimizer(model: Any, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over everything in `model` that is trained, in the model's own order."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )


def check_every_part_learns(model: Any) -> None:
    """Whether each B matrix got a gradient (A's is zero at first, since B starts at zero): an inert adapter learns nothing.

    Raises:
        ModelError: Some got none; named.
    """
    inert = [
        name.replace(".lora_B.default.weight", "")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".lora_B." in name and (parameter.grad is None or not parameter.grad.any())
    ]
    if inert:
        shown = ", ".join(inert[:3]) + (f" and {len(inert) - 3} more" if len(inert) > 3 else "")
        raise ModelError(
            f"after the first step the adapter has no gradient at {shown}.",
            "This architecture does not train this way; please report it with the model's name.",
        )


class Diverged(ModelError):
    """The loss or its gradient is no number any more."""


def _diverged(step: int, loss: float, rows: Sequence[EncodedRow], rate: float) -> Diverged:
    names = ", ".join(row.id for row in rows[:8])
    return Diverged(
        f"training broke at step {step}: the loss is {loss:g} or its gradient is not finite (rows {names}).",
        f"Lower [rungs.lora] learning_rate (it is {rate:.2g} here), or look at these rows.",
    )
