"""After the last step: is what was saved what was trained, does it change anything, and does the model end its turn?"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.paths import Path as ComputePath
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.adapters import reloaded, tensors_read_back

PROBE_ROWS = 2
PROBE_LABELS = 64  # of a row; a large vocabulary makes more of them dear
STOPPING_ROWS = 64
STOPPING_ALARM = 0.95
TOLERANCE = {torch.bfloat16: 0.01, torch.float16: 0.01}  # of the largest logit: one rounding step of bf16 or so, for kernels
TOLERANCE_ELSE = 1e-4


@dataclass(frozen=True, slots=True)
class Stopping:
    """How surely the model ends its turn where the reference answer ends, over `rows` rows of one `part`.

    `share`: of the rows on which an end-of-turn token has more than half of the probability there, so that greedy decoding
    stops; a lower bound, since the likeliest token may have less. `probability`: its mean. `untuned_share`: that of the base,
    asked only where the tuned share is low.
    """

    part: str
    rows: int
    share: float
    probability: float
    untuned_share: float | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """What was measured on the finished adapter. Logits are compared on a few short rows, at their answers."""

    reload_difference: float  # largest, between the trained adapter in memory and the saved one in plain PEFT
    reload_tolerance: float
    change: float  # largest, between the base with and without the adapter
    stopping: Stopping | None  # None where the model has no end-of-turn token

    def lines(self) -> list[tuple[str, str]]:
        """(what, found) for the model card."""
        found = [
            ("saved adapter in plain PEFT", f"logits differ by at most {self.reload_difference:.2g} from those in training"),
            ("change of the base", f"logits move by up to {self.change:.3g}"),
        ]
        if self.stopping is not None:
            stopping = self.stopping
            untuned = "" if stopping.untuned_share is None else f"; untuned {stopping.untuned_share:.0%}"
            share = f"on {stopping.share:.0%} of {stopping.rows} {stopping.part} rows{untuned}"
            meant = "the end-of-turn token has over half of the probability where the answer ends"
            found.append(("ends its turn", f"{share} ({meant}; mean {stopping.probability:.2f})"))
        return found


@torch.no_grad()
def probe_logits(model: Any, rows: Sequence[EncodedRow]) -> list[Tensor]:
    """Logits at the first learned tokens of each row, (labels, vocabulary), through the stock model's own forward."""
    keeps = "logits_to_keep" in signature(model.forward).parameters  # else all of them come, and most are thrown away
    found = []
    for row in rows:
        tokens = torch.tensor([row.token_ids], device=model.device)
        places = torch.tensor([place - 1 for place in row.labelled[:PROBE_LABELS]], device=model.device)
        if keeps:
            found.append(model(input_ids=tokens, use_cache=False, logits_to_keep=places).logits[0])
        else:
            found.append(model(input_ids=tokens, use_cache=False).logits[0, places])
    return found


def shortest(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """The rows that logits are compared on."""
    return sorted(rows, key=len)[:PROBE_ROWS]


def check_saved(
    model: Any, folder: Path, rows: Sequence[EncodedRow], trained: Sequence[Tensor], weights: bytes
) -> tuple[float, float, float]:
    """Load the adapter of `folder` as its users will: (largest difference to `trained`, what is allowed, change of the base).

    Args:
        model: The base without any adapter. rows: Those of `trained`, the logits of the adapter in memory.
        weights: What was to be written to the file of weights; plain PEFT has to read it back bit for bit.
    Raises:
        ModelError: The saved adapter is another or gives other logits than the trained one, or those of the base.
    """
    base = probe_logits(model, rows)
    with reloaded(model, folder) as loaded:
        unlike = _unlike(tensors_read_back(loaded), load(weights))
        saved = probe_logits(loaded, rows)
    if unlike:
        raise ModelError(
            f"the saved adapter is not the trained one: plain PEFT reads {len(unlike)} of its tensors otherwise or not at all "
            f"({unlike[0]}).",
            "Nothing was left at its place, and the checkpoints are whole. Please report it with the model's name.",
        )
    largest = max(float(logits.abs().max()) for logits in trained)
    allowed = TOLERANCE.get(model.dtype, TOLERANCE_ELSE) * max(1.0, largest)
    difference, change = _largest_difference(saved, trained), _largest_difference(saved, base)
    if not difference <= allowed:
        raise ModelError(
            f"the saved adapter is not the trained one: in plain PEFT its logits differ by {difference:.3g} "
            f"(allowed {allowed:.2g}).",
            "Nothing was left at its place, and the checkpoints are whole. Please report it with the model's name.",
        )
    if change == 0:
        raise ModelError(
            "the adapter changes nothing: with it, the base gives the very same logits.",
            "Raise [rungs.lora] learning_rate or epochs; with their default values, please report it with the model's name.",
        )
    return difference, allowed, change


def measure_stopping(
    path: ComputePath,
    rows: Sequence[EncodedRow],
    held_out: Sequence[EncodedRow],
    *,
    stop_ids: Collection[int],
    tokens_per_pass: int,
) -> Stopping | None:
    """Whether the model ends its turn by itself, on held-out rows (on training rows where there are none)."""
    part = "held-out" if held_out else "training"
    endings = [ending for row in held_out or rows if (ending := up_to_its_end(row, stop_ids)) is not None][:STOPPING_ROWS]
    if not endings:
        return None
    chances = [math.exp(-nats) for nats in path.row_nll(endings, tokens_per_pass=tokens_per_pass)]
    return Stopping(part, len(chances), sum(chance > 0.5 for chance in chances) / len(chances), fmean(chances))


def up_to_its_end(row: EncodedRow, stop_ids: Collection[int]) -> EncodedRow | None:
    """The row up to the end-of-turn token of its last answer, with that token alone to be told; None without one."""
    places = [place for place in range(1, len(row)) if row.token_ids[place] in stop_ids and _answers(row, place)]
    if not places:
        return None
    last = places[-1]
    return EncodedRow(row.id, row.token_ids[: last + 1], (0.0,) * last + (1.0,))


def _answers(row: EncodedRow, place: int) -> bool:
    """Whether the token belongs to a learned answer or directly ends one."""
    return row.weights[place] > 0 or row.weights[place - 1] > 0


def _unlike(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are in one of both only, or whose values differ in a bit (or are no numbers)."""
    lone = found.keys() ^ wanted.keys()
    return sorted(lone | {name for name in found.keys() & wanted.keys() if not torch.equal(found[name].cpu(), wanted[name])})


def _largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((left.cpu().double() - right.cpu().double()).abs().max()) for left, right in zip(one, other, strict=True))
