"""Rotary embeddings that change with the length of the text: a row's numbers are those it has alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from small_architectures import UNSTEADY, VOCAB, build
from stepladder.models.prefix.anatomy import NotRead, read_anatomy
from stepladder.models.prefix.forward import supports_sharing
from stepladder.models.prefix.paths import StockPath
from stepladder.models.prefix.ropes import unsteady_rope
from stepladder.models.prefix.rows import EncodedRow


def rows_around_the_threshold() -> list[EncodedRow]:
    """Rows of 18, 19, 44, 47 and 44 tokens that share 14."""
    draw = random.Random(0)
    shared = [draw.randrange(3, VOCAB) for _ in range(14)]
    lists = [(*shared, *(draw.randrange(3, VOCAB) for _ in range(own))) for own in (4, 5, 30, 33, 30)]
    return [EncodedRow(f"row-{n}", ids, (0.0,) * (len(ids) - 3) + (1.0,) * 3) for n, ids in enumerate(lists)]


def alone(architecture: str, row: EncodedRow) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Σ nll of a row and its gradient by a stock model that has never seen another row."""
    model = build(architecture)
    logits = model(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0, :-1]
    loss = (cross_entropy(logits, torch.tensor(row.token_ids[1:]), reduction="none") * torch.tensor(row.weights[1:])).sum()
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in model.named_parameters()}


@pytest.mark.parametrize("architecture", UNSTEADY)
@pytest.mark.parametrize("tokens_per_pass", [10_000, 20])
def test_rows_on_both_sides_of_the_threshold_have_the_loss_and_gradient_of_each_alone(
    architecture: str, tokens_per_pass: int
) -> None:
    rows = rows_around_the_threshold()
    singles = [alone(architecture, row) for row in rows]
    total = sum(row.weight for row in rows)
    model = build(architecture)
    path = StockPath(model, share=False)
    loss = path.backward_loss(rows, tokens_per_pass=tokens_per_pass)
    assert loss == pytest.approx(float(sum(nats for nats, _ in singles)) / total, abs=1e-6)
    for name, value in model.named_parameters():
        expected = sum(gradients[name] for _, gradients in singles) / total
        assert (value.grad - expected).norm() <= 1e-5 * expected.norm(), name
    means = path.row_nll(rows, tokens_per_pass=tokens_per_pass)
    assert means == pytest.approx([float(nats) / row.weight for (nats, _), row in zip(singles, rows, strict=True)], abs=1e-5)


@pytest.mark.parametrize("architecture", UNSTEADY)
def test_neither_the_written_out_passes_nor_a_shared_prefix_takes_such_a_model(architecture: str) -> None:
    model = build(architecture)
    kind = architecture.split("-")[1]
    assert unsteady_rope(model) == kind
    with pytest.raises(NotRead, match=f"its rotary embedding is {kind}"):
        read_anatomy(model)
    assert f"its rotary embedding is {kind}" in str(supports_sharing(model))


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("gpt_neox", {}),
        ("gemma3_text", {}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}}),
    ],
    ids=["default", "by kind of layer", "linear"],
)
def test_angles_by_the_position_alone_are_steady(architecture: str, settings: dict[str, Any]) -> None:
    assert unsteady_rope(build(architecture, **settings)) is None
