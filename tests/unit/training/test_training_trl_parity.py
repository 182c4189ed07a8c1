"""Our loss, gradients and twenty steps of our own against TRL's SFTTrainer, given the same tensors."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from stepladder.models.prefix.rows import EncodedRow
from stepladder.models.prefix.trie import build_trie
from stepladder.training.adapters import adapted, adapter_tensors, set_adapter_tensors
from stepladder.training.loop import build_optimizer
from stepladder.training.presets import TrainSettings
from stepladder.training.verify import choose_path

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]


class RecordingTrainer(SFTTrainer):  # type: ignore[misc, no-any-unimported]
    """TRL's trainer, keeping what went into each step and what came out of it."""

    steps: list[dict[str, Any]]

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        before = {name: value.detach().clone() for name, value in adapter_tensors(model).items()}
        given = {name: value.clone() for name, value in inputs.items()}
        loss = super().training_step(model, inputs, num_items_in_batch)
        gradients = {name: value.grad.clone() for name, value in adapter_tensors(model).items()}
        rate = self.optimizer.param_groups[0]["lr"]
        self.steps.append({"inputs": given, "parameters": before, "loss": loss.item(), "gradients": gradients, "rate": rate})
        return loss


def trl_steps(
    wrapped: Any, rows: Sequence[EncodedRow], folder: Path, tokenizer: Any, settings: TrainSettings, *, steps: int
) -> list[dict[str, Any]]:
    """`steps` optimizer steps of TRL on `rows` as they are."""
    data = Dataset.from_dict(
        {
            "input_ids": [list(row.token_ids) for row in rows],
            "labels": [
                [token if weight else -100 for token, weight in zip(row.token_ids, row.weights, strict=True)] for row in rows
            ],
        }
    )
    config = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        per_device_train_batch_size=settings.batch_size,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=0.0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
        seed=0,
    )
    trainer = RecordingTrainer(model=wrapped, args=config, train_dataset=data, processing_class=tokenizer)
    trainer.steps = []
    trainer.train()
    return trainer.steps


def rows_of(inputs: dict[str, torch.Tensor]) -> list[EncodedRow]:
    """The rows in a batch of TRL's collator, without their padding."""
    rows = []
    for number in range(len(inputs["input_ids"])):
        real = inputs["attention_mask"][number].bool()
        tokens, labels = inputs["input_ids"][number][real].tolist(), inputs["labels"][number][real].tolist()
        rows.append(EncodedRow(str(number), tuple(tokens), tuple(float(label != -100) for label in labels)))
    return rows


@contextmanager
def adapted_with_b(model: Any, settings: TrainSettings) -> Iterator[Any]:
    """A LoRA whose B matrices are not zero, so that every tensor has a gradient from the first step."""
    with adapted(model, settings) as wrapped:
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in adapter_tensors(wrapped).values():
                value.copy_(torch.randn(value.shape, generator=draw) * 0.05)
        yield wrapped


def assert_parity(
    base: Any, rows: Sequence[EncodedRow], tokenizer: Any, settings: TrainSettings, folder: Path, *, steps: int, levels: int
) -> None:
    """At TRL's parameters loss and gradient are TRL's, and so are the losses of as many steps from the same start.

    Args:
        levels: Depths at which rows of most batches have a computation in common; where there are any, no batch has none.
    """
    ours = copy.deepcopy(base)  # TRL patches the model it is given
    with adapted_with_b(base, settings) as wrapped:
        recorded = trl_steps(wrapped, rows, folder, tokenizer, settings, steps=steps)
    assert len(recorded) == steps
    with adapted_with_b(ours, settings) as wrapped:
        path = choose_path(wrapped.get_base_model(), rows, [].append)
        assert path.name == "fused"
        shared = [levels_of(rows_of(step["inputs"])) for step in recorded]
        assert shared.count(levels) > steps / 2
        assert min(shared) >= min(levels, 1)
        for step in recorded:
            batch = rows_of(step["inputs"])
            set_adapter_tensors(wrapped, step["parameters"])
            wrapped.zero_grad(set_to_none=True)
            loss = path.backward_loss(batch, tokens_per_pass=settings.tokens_per_pass)
            assert abs(loss - step["loss"]) <= 1e-4
            for name, value in adapter_tensors(wrapped).items():
                expected = step["gradients"][name]
                assert expected.norm() > 0, name
                assert (value.grad - expected).norm() <= 1e-4 * expected.norm(), name
    with adapted_with_b(ours, settings) as wrapped:
        path, optimizer = choose_path(wrapped.get_base_model(), rows, [].append), build_optimizer(wrapped, settings)
        for step in recorded:
            optimizer.param_groups[0]["lr"] = step["rate"]
            loss = path.backward_loss(rows_of(step["inputs"]), tokens_per_pass=settings.tokens_per_pass)
            assert abs(loss - step["loss"]) <= 1e-4
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def levels_of(rows: Sequence[EncodedRow]) -> int:
    """How many nodes of several rows lie one behind the other on the path of the row that shares most."""
    nodes = build_trie(rows)
    return max(sum(len(node.rows) > 1 and row in node.rows for node in nodes) for row in range(len(rows)))


def branched_rows(count: int) -> list[EncodedRow]:
    """24 tokens that all have in common, 34 more that every other row has, then own ones: four share at two depths as a rule."""
    draw, rows = random.Random(2), []
    branches = [tuple(draw.randrange(3, 61) for _ in range(34)) for _ in range(2)]
    for number in range(count):
        own = tuple(draw.randrange(3, 61) for _ in range(draw.randint(2, 12)))
        prompt, answer = tuple(range(20, 44)) + branches[number % 2], (*own[: draw.randint(1, 3)], 2)
        weights = (0.0,) * (len(prompt) + len(own)) + (1.0,) * len(answer)
        rows.append(EncodedRow(str(number), prompt + own + answer, weights))
    return rows


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    from tiny_model import build_tiny_tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=build_tiny_tokenizer(), pad_token="<|endoftext|>", eos_token="<|im_end|>")


def test_loss_and_gradients_equal_trl_step_by_step(
    build_llama: Callable[..., Any], quick_settings: TrainSettings, tokenizer: Any, tmp_path: Path
) -> None:
    assert_parity(build_llama(), branched_rows(24), tokenizer, quick_settings, tmp_path, steps=20, levels=2)


def test_rows_without_a_common_prompt_equal_trl_too(
    build_llama: Callable[..., Any], quick_settings: TrainSettings, tokenizer: Any, tmp_path: Path
) -> None:
    draw, rows = random.Random(3), []
    for number in range(12):
        tokens = tuple(draw.randrange(3, 61) for _ in range(draw.randint(4, 20)))
        learned = draw.randint(1, len(tokens) - 1)
        rows.append(EncodedRow(str(number), tokens, (0.0,) * (len(tokens) - learned) + (1.0,) * learned))
    assert_parity(build_llama(), rows, tokenizer, quick_settings, tmp_path, steps=3, levels=0)


@pytest.mark.long
@pytest.mark.starter
def test_the_starter_model_equals_trl(quick_settings: TrainSettings, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from stepladder.domain.messages import Message
    from stepladder.domain.protocols import Conversation
    from stepladder.models.loading import load
    from stepladder.training.tuner import LoraTuner

    loaded = load("smollm2-135m-instruct", device="cpu", dtype="float32")
    tuner = LoraTuner(loaded)
    rows = [
        tuner.encode(
            Conversation(
                str(number),
                (
                    Message("system", "Name the number of the order in the customer's message, and nothing else."),
                    Message("user", f"Hello, my parcel {number * 37} has not come. " + "Please help. " * (number % 3)),
                    Message("assistant", str(number * 37), weight=1),
                ),
            )
        )
        for number in range(1, 13)
    ]
    tokenizer = AutoTokenizer.from_pretrained(str(loaded.folder))
    assert_parity(loaded.model, rows, tokenizer, quick_settings, tmp_path, steps=3, levels=1)
