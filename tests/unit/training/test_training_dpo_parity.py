"""Preference tuning against TRL's DPOTrainer, given the same tensors, parameters and reference at every step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from stepladder.models.prefix.paths import FusedPath
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.adapters import adapted, adapter_tensors, set_adapter_tensors
from stepladder.training.objectives import Dpo, DpoLoss, log_probabilities
from stepladder.training.presets import TrainSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
BETA = 0.1


class RecordingTrainer(DPOTrainer):  # type: ignore[misc, no-any-unimported]
    """TRL's trainer, keeping what went into each step and what came out of it. The policy is pushed away before the second."""

    steps: list[dict[str, Any]]

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        return dataset  # token ids already

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        if len(self.steps) == 1:
            push(policy(model), seed=7)
        before = {name: value.detach().clone() for name, value in policy(model).items()}
        given = {name: value.clone() for name, value in inputs.items()}
        self._metrics["train"].clear()
        loss = super().training_step(model, inputs, num_items_in_batch)
        kept = {name: self._metrics["train"][f"logps/{name}"][-1] for name in ("chosen", "rejected")}
        gradients = {name: value.grad.clone() for name, value in policy(model).items()}
        self.steps.append({"inputs": given, "parameters": before, "loss": loss.item(), "gradients": gradients, **kept})
        return loss


def policy(wrapped: Any) -> dict[str, torch.Tensor]:
    """The trained adapter's parameters; TRL keeps the reference beside it as another adapter."""
    return {name: value for name, value in wrapped.named_parameters() if ".default." in name}


def push(tensors: dict[str, torch.Tensor], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in tensors.values():
            value.add_(torch.randn(value.shape, generator=draw) * 0.05)


def rows_of(inputs: dict[str, torch.Tensor]) -> list[EncodedRow]:
    """Chosen and rejected by turns, without padding; TRL's batch holds all chosen rows, then all rejected ones."""
    pairs = len(inputs["input_ids"]) // 2
    rows = []
    for number in (place for pair in range(pairs) for place in (pair, pairs + pair)):
        real = inputs["attention_mask"][number].bool()
        learned = inputs["completion_mask"][number][real].tolist()
        rows.append(EncodedRow(str(number), tuple(inputs["input_ids"][number][real].tolist()), tuple(map(float, learned))))
    return rows


def trl_steps(wrapped: Any, rows: Sequence[EncodedRow], folder: Path, tokenizer: Any, *, steps: int) -> list[dict[str, Any]]:
    def both(row: EncodedRow) -> tuple[list[int], list[int]]:
        return list(row.token_ids[: row.labelled[0]]), list(row.token_ids[row.labelled[0] :])

    data = Dataset.from_list(
        [
            {"prompt_ids": both(chosen)[0], "chosen_ids": both(chosen)[1], "rejected_ids": both(rejected)[1]}
            for chosen, rejected in zip(rows[0::2], rows[1::2], strict=True)
        ]
    )
    config = DPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        beta=BETA,
        max_length=None,
        per_device_train_batch_size=4,
        max_steps=steps,
        learning_rate=1e-2,
        max_grad_norm=0.0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        seed=0,
    )
    trainer = RecordingTrainer(model=wrapped, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.steps = []
    trainer.train()
    return trainer.steps


@pytest.fixture
def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    from tiny_model import build_tiny_tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=build_tiny_tokenizer(), pad_token="<|endoftext|>", eos_token="<|im_end|>")


def test_log_probabilities_loss_and_gradients_equal_trl_from_ln_two_on(
    build_llama: Callable[..., Any],
    build_pairs: Callable[..., list[EncodedRow]],
    quick_settings: TrainSettings,
    tokenizer: Any,
    tmp_path: Path,
) -> None:
    base = build_llama()
    ours = copy.deepcopy(base)  # TRL patches the model it is given
    with adapted(base, quick_settings) as wrapped:
        push(adapter_tensors(wrapped), seed=1)
        start = {name: value.detach().clone() for name, value in adapter_tensors(wrapped).items()}
        recorded = trl_steps(wrapped, build_pairs(24), tmp_path, tokenizer, steps=6)
    assert recorded[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(recorded[1]["loss"] - math.log(2)) > 1e-3  # a policy that is its reference would prove nothing
    with adapted(ours, quick_settings) as wrapped:
        path = FusedPath(wrapped.get_base_model())
        for number, step in enumerate(recorded):
            rows = rows_of(step["inputs"])
            set_adapter_tensors(wrapped, start)
            objective = Dpo(BETA, tmp_path).begin(path, rows, tokens_per_pass=quick_settings.tokens_per_pass)
            set_adapter_tensors(wrapped, step["parameters"])
            found = log_probabilities(path, rows, tokens_per_pass=quick_settings.tokens_per_pass)
            assert found[0::2].mean().item() == pytest.approx(step["chosen"], abs=1e-4)
            assert found[1::2].mean().item() == pytest.approx(step["rejected"], abs=1e-4)
            wrapped.zero_grad(set_to_none=True)
            loss = path.backward_loss(rows, tokens_per_pass=quick_settings.tokens_per_pass, loss=objective.loss)
            assert isinstance(objective.loss, DpoLoss)
            assert loss == pytest.approx(step["loss"], abs=1e-5)
            if number == 0:
                assert loss == pytest.approx(math.log(2), abs=1e-6)
            for name, value in adapter_tensors(wrapped).items():
                assert value.grad is not None
                expected = step["gradients"][name]
                assert expected.norm() > 0, name
                assert (value.grad - expected).norm() <= 1e-4 * expected.norm(), name
