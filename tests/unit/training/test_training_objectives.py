"""Objectives against plain autograd over the stock model: the loss, and the gradient of every adapter tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stepladder.domain.errors import ModelError
from stepladder.models.prefix.losses import MEAN, Learned
from stepladder.models.prefix.paths import FusedPath, Path, StockPath
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.adapters import adapted, adapter_tensors
from stepladder.training.objectives import DpoLoss, Sft, check_pairs, dpo_losses, log_probabilities
from stepladder.training.presets import TrainSettings

BuildModel = Callable[..., Any]
BuildRows = Callable[..., list[EncodedRow]]
PATHS: dict[str, Callable[[Any], Path]] = {
    "fused": FusedPath,
    "stock": lambda model: StockPath(model, share=False),
    "stock, shared": lambda model: StockPath(model, share=True),
}


def stock_log_probabilities(model: Any, rows: Sequence[EncodedRow]) -> Tensor:
    found = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.token_ids]), use_cache=False).logits[0, :-1]
        own = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(row.token_ids[1:])[:, None])[:, 0]
        found.append((own * torch.tensor(row.weights[1:])).sum())
    return torch.stack(found).double()


def perturb(wrapped: Any, seed: int = 1) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in adapter_tensors(wrapped).values():
            value.copy_(torch.randn(value.shape, generator=draw) * 0.1)


def gradients(wrapped: Any) -> dict[str, Tensor]:
    found = {name: value.grad.clone() for name, value in adapter_tensors(wrapped).items()}
    wrapped.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("tokens_per_pass", [10_000, 40, 1])
def test_a_loss_that_compares_rows_is_that_of_autograd_on_every_path_in_any_passes(
    build_llama: BuildModel, build_pairs: BuildRows, quick_settings: TrainSettings, name: str, tokens_per_pass: int
) -> None:
    rows = build_pairs(6)
    reference = [0.7 * number - 9 for number in range(len(rows))]
    with adapted(build_llama(), quick_settings) as wrapped:
        perturb(wrapped)
        model = wrapped.get_base_model()
        expected = dpo_losses(stock_log_probabilities(model, rows), torch.tensor(reference).double(), 0.3).mean()
        expected.backward()
        right = gradients(wrapped)
        loss = DpoLoss(0.3, {row.id: value for row, value in zip(rows, reference, strict=True)})
        found = PATHS[name](model).backward_loss(rows, tokens_per_pass=tokens_per_pass, loss=loss)
        assert found == pytest.approx(expected.item(), abs=1e-5)
        for key, gradient in gradients(wrapped).items():
            assert (gradient - right[key]).norm() <= 1e-4 * right[key].norm(), key


def test_pairs_whose_answers_begin_alike_or_have_no_prompt_in_common_are_exact_too(
    build_llama: BuildModel, quick_settings: TrainSettings
) -> None:
    long = tuple(20 + place % 30 for place in range(40))
    answers = [((7, 8, 9, 2), (7, 8, 10, 11, 2)), ((7, 8, 9, 9, 9, 2), (12, 2)), ((7, 8, 9, 2), (7, 8, 9, 9, 2))]
    prompts = [long, long, (4, 5)]
    rows = [
        EncodedRow(f"{pair}-{side}", prompt + answer, (0.0,) * len(prompt) + (1.0,) * len(answer))
        for pair, (prompt, both) in enumerate(zip(prompts, answers, strict=True))
        for side, answer in enumerate(both)
    ]
    loss = DpoLoss(0.5, {row.id: -5.0 - number for number, row in enumerate(rows)})
    with adapted(build_llama(), quick_settings) as wrapped:
        perturb(wrapped)
        model = wrapped.get_base_model()
        reference = torch.tensor([loss.reference[row.id] for row in rows], dtype=torch.float64)
        dpo_losses(stock_log_probabilities(model, rows), reference, 0.5).mean().backward()
        right = gradients(wrapped)
        for tokens_per_pass in (1, 45, 60, 1000):
            FusedPath(model).backward_loss(rows, tokens_per_pass=tokens_per_pass, loss=loss)
            for key, gradient in gradients(wrapped).items():
                assert (gradient - right[key]).norm() <= 1e-4 * right[key].norm(), key


def test_a_policy_that_is_its_reference_loses_ln_two_and_pulls_the_answers_apart() -> None:
    policy = torch.tensor([-3.0, -4.0, -9.0, -2.0], dtype=torch.float64, requires_grad=True)
    losses = dpo_losses(policy, policy.detach(), 0.1)
    assert losses.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-12)
    (gradient,) = torch.autograd.grad(losses.mean(), policy)
    assert gradient.tolist() == pytest.approx([-0.025, 0.025, -0.025, 0.025])


def test_the_dpo_loss_is_the_negative_log_of_a_logistic() -> None:
    policy, reference = torch.tensor([-3.0, -7.0]), torch.tensor([-4.0, -5.5])
    assert dpo_losses(policy, reference, 0.2).item() == pytest.approx(-F.logsigmoid(torch.tensor(0.2 * (1.0 + 1.5))).item())


def test_weights_count_in_sums_and_means() -> None:
    rows = [EncodedRow("a", (1, 2, 3), (0.0, 1.0, 0.5)), EncodedRow("b", (1, 2), (0.0, 0.25))]
    learned = Learned.of(rows)
    learned.nll.copy_(torch.tensor([2.0, 4.0, 8.0]))
    assert learned.log_probabilities.tolist() == [-4.0, -2.0]
    assert MEAN(learned).item() == pytest.approx(6.0 / 1.75)


def test_the_log_probabilities_of_a_path_are_the_stock_models(build_llama: BuildModel, build_rows: BuildRows) -> None:
    model, rows = build_llama(), build_rows(5)
    found = log_probabilities(StockPath(model, share=True), rows, tokens_per_pass=50)
    assert found.tolist() == pytest.approx(stock_log_probabilities(model, rows).tolist(), rel=1e-5)
    assert Sft().judge(StockPath(model, share=True), rows, tokens_per_pass=50) == pytest.approx(
        [-value / row.weight for value, row in zip(found.tolist(), rows, strict=True)]
    )


def test_a_pair_with_one_answer_twice_is_named() -> None:
    row = EncodedRow("same", (1, 2), (0.0, 1.0))
    with pytest.raises(ModelError, match="preference row same has the same answer twice"):
        check_pairs([row, row])
