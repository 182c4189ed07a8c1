"""One measurement of a rival, in a process and an environment of its own: `python -m training.rival_child ORDER.json`.

TRL and Unsloth run through the trainers their users run (`SFTTrainer`), with their own loop, collator and optimizer. Only the
step is watched: `training_step` is where the clock starts and stops. Nothing of stepladder is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.process import answer, device_peak, die_first, forget_peak, now, peak_bytes, read_order
from training.systems import ALPHA, LEARNING_RATE, RANK, TARGETS, Setting, search_ends_by
from training.workloads import Row, in_micro_batches, typical, workload_of

ORDER = read_order()
SETTING = Setting(**ORDER["setting"])
SYSTEM: str = ORDER["system"]
QUANTISED: bool = ORDER["quantised"]
if SETTING.compiled:  # Unsloth reads it when the model is prepared
    os.environ["UNSLOTH_CPU_COMPILE"] = "1"
if SYSTEM.startswith("unsloth"):
    import unsloth  # noqa: F401  (before all others: it replaces parts of them)

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch.utils.data import SequentialSampler  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

IMPORTED_BYTES = peak_bytes()


class Finished(Exception):
    """The measurement is over; the trainer's loop need not go on."""


@dataclass
class Clock:
    """Times whole micro-batches of a running trainer.

    It stops at the end of a step once `at_least_seconds` are over, and before any micro-batch that would lead beyond
    `at_most_seconds`.
    """

    tokens: list[int]  # real ones of each micro-batch of a step
    at_least_seconds: float
    at_most_seconds: float
    started: float = 0.0
    seconds: float = 0.0
    batches: int = 0
    padded_tokens: int = 0

    def ends_before_next(self) -> bool:
        if not self.batches:
            return False
        elapsed = now(torch) - self.started
        whole_step = self.batches % len(self.tokens) == 0
        if whole_step:  # the optimizer's step belongs to the time
            self.seconds = elapsed
        return (whole_step and elapsed >= self.at_least_seconds) or elapsed * (1 + 1 / self.batches) > self.at_most_seconds

    def result(self) -> dict[str, Any]:
        done = sum(self.tokens[number % len(self.tokens)] for number in range(self.batches))
        return {"seconds": self.seconds, "tokens": done, "computed_tokens": self.padded_tokens, "batches": self.batches}


def width(inputs: Any) -> int:
    """Positions that a micro-batch puts through the model, padding included."""
    return int(inputs["input_ids"].numel())


class WatchedTrainer(SFTTrainer):
    """The trainer as it is, with rows in the order given and a watched step."""

    watch: Callable[[Any, Callable[[Any, Any], Any], Any, Any, Any], Any]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        def step(inputs: Any, items: Any) -> Any:
            return super(WatchedTrainer, self).training_step(model, inputs, items)

        return type(self).watch(self, step, model, inputs, num_items_in_batch)

    def batch_of(self, rows: Sequence[Row]) -> Any:
        """A micro-batch as the trainer's own loader would make it."""
        return self._prepare_inputs(self.data_collator([_features(row) for row in rows]))

    def try_out(self, step: Callable[[Any, Any], Any], model: Any, rows: Sequence[Row]) -> tuple[float, int]:
        """Seconds of one forward and backward pass over `rows`, and the process's peak in it; nothing is learned."""
        batch, items = self.batch_of(rows), sum(row.learned for row in rows)
        forget_peak()
        started = now(torch)
        step(batch, torch.tensor(items))
        seconds = now(torch) - started
        model.zero_grad(set_to_none=True)
        return seconds, peak_bytes() - IMPORTED_BYTES


def _features(row: Row) -> dict[str, list[int]]:
    return {"input_ids": list(row.token_ids), "labels": row.labels}


def build_trainer(rows: Sequence[Row], *, dtype: str, rows_per_step: int, clip: float) -> WatchedTrainer:
    """A trainer over the step's rows, repeated without end, with our adapter's start in its adapter."""
    arguments = SFTConfig(
        output_dir=ORDER["folder"],
        use_cpu=ORDER["device"] == "cpu",
        bf16=SETTING.autocast and dtype == "bfloat16",
        gradient_checkpointing=SETTING.checkpointing,
        padding_free=SETTING.padding_free,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        per_device_train_batch_size=SETTING.micro_batch,
        gradient_accumulation_steps=max(1, rows_per_step // SETTING.micro_batch),
        num_train_epochs=1000,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=clip,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    data = Dataset.from_list([_features(row) for row in rows])
    longest = max(len(row.token_ids) for row in rows)
    model, more = _unsloth_model(dtype, longest) if SYSTEM.startswith("unsloth") else _trl_model(arguments, dtype)
    trainer = WatchedTrainer(model=model, args=arguments, train_dataset=data, **more)
    if ORDER["adapter"] is not None:
        _start_from(trainer.model, ORDER["adapter"])
    return trainer


def _trl_model(arguments: Any, dtype: str) -> tuple[Any, dict[str, Any]]:
    """As TRL's documentation does it: a path, and a PEFT configuration."""
    from transformers import AutoTokenizer, BitsAndBytesConfig

    arguments.model_init_kwargs = {"dtype": dtype, "attn_implementation": SETTING.attention}
    if QUANTISED:
        arguments.model_init_kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), lora_dropout=0.0, task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(ORDER["model"])
    return ORDER["model"], {"peft_config": lora, "processing_class": tokenizer}


def _unsloth_model(dtype: str, longest: int) -> tuple[Any, dict[str, Any]]:
    """As Unsloth's documentation does it, in 4 bits only where all systems are: they have to have the same weights."""
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name=ORDER["model"],
        max_seq_length=longest,
        dtype=getattr(torch, dtype),
        load_in_4bit=QUANTISED,
        attn_implementation=SETTING.attention,
        use_gradient_checkpointing="unsloth" if SETTING.checkpointing else False,
    )
    wrapped = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        target_modules=list(TARGETS),
        use_gradient_checkpointing="unsloth" if SETTING.checkpointing else False,
    )
    return wrapped, {"processing_class": tokenizer}


def _trained(model: Any) -> dict[str, Any]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def _start_from(model: Any, adapter: str) -> None:
    start, own = load_file(adapter), _trained(model)
    if own.keys() != start.keys():
        odd = sorted(own.keys() ^ start.keys())
        raise SystemExit(f"The rival trains other tensors than we do: {len(odd)} differ, the first is {odd[0]}.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(start[name])


def measure(rows: Sequence[Row]) -> dict[str, Any]:
    """Speed and peak memory over whole micro-batches, behind a warm-up of a row or two that is not counted."""
    size = SETTING.micro_batch
    ordered = in_micro_batches(rows, size, by_length=SETTING.by_length)
    trainer = build_trainer(ordered, dtype="bfloat16", rows_per_step=len(rows), clip=1.0)
    batches = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    clock = Clock([sum(len(row.token_ids) for row in batch) for batch in batches], *ORDER["seconds"])
    warm_up = 0.0

    def watch(self: Any, step: Callable[[Any, Any], Any], model: Any, inputs: Any, items: Any) -> Any:
        nonlocal warm_up
        if not clock.batches:
            for count in (min(2, size), size) if SETTING.compiled else (min(2, size),):  # a new size is compiled for
                warm_up += self.try_out(step, model, typical(rows, count))[0]
            clock.started = now(torch)
        elif clock.ends_before_next():
            raise Finished
        loss = step(inputs, items)
        clock.batches += 1
        clock.padded_tokens += width(inputs)
        clock.seconds = now(torch) - clock.started
        return loss

    _run(trainer, watch)
    return {
        **clock.result(),
        "warm_up_seconds": warm_up,
        "peak_memory_bytes": peak_bytes() - IMPORTED_BYTES,
        **device_peak(torch),
    }


def search(rows: Sequence[Row]) -> dict[str, Any]:
    """Peak and seconds a row at each micro-batch asked for, as long as time and memory last.

    Peaks are of the longest rows, seconds of typical ones (the same where all are equally long).
    """
    trainer = build_trainer(rows, dtype="bfloat16", rows_per_step=len(rows), clip=1.0)
    longest = sorted(rows, key=lambda row: -len(row.token_ids))
    peaks: dict[int, int] = {}
    seconds: dict[int, float] = {}
    limit, latest = ORDER["memory_limit_bytes"], ORDER["seconds"][1]
    ended_by = ""

    def watch(self: Any, step: Callable[[Any, Any], Any], model: Any, inputs: Any, items: Any) -> Any:
        nonlocal ended_by
        self.try_out(step, model, typical(rows, 2 if SETTING.compiled else 1))
        spent = 0.0
        for size in ORDER["micro_batches"]:
            if SETTING.compiled:  # a size met for the first time is compiled for: not what a training waits for again
                self.try_out(step, model, typical(rows, size))
            took, peaks[size] = self.try_out(step, model, longest[:size])
            spent += took
            if ORDER["of_longest_only"] or len(longest[0].token_ids) == len(longest[-1].token_ids):
                seconds[size] = took / size
            else:
                typically = self.try_out(step, model, typical(rows, size))[0]
                spent += typically
                seconds[size] = typically / size
            ended_by = search_ends_by(peaks, seconds, spent=spent, took=took, limit=limit, allowed=latest)
            if ended_by:
                break
        raise Finished

    _run(trainer, watch)
    return {"peaks": peaks, "seconds_per_row": seconds, "ended_by": ended_by or "all sizes"}


def record_parity(rows: Sequence[Row]) -> dict[str, Any]:
    """A few fp32 steps over the cut: the parameters before each, its loss and its gradient, kept for the comparison."""
    size = SETTING.micro_batch
    trainer = build_trainer(rows, dtype="float32", rows_per_step=len(rows), clip=0.0)
    folder, losses, done = Path(ORDER["folder"]), [0.0], 0
    per_step = len(rows) // size

    def watch(self: Any, step: Callable[[Any, Any], Any], model: Any, inputs: Any, items: Any) -> Any:
        nonlocal done
        if done % per_step == 0:
            if done == per_step * ORDER["steps"]:
                raise Finished
            save_file(
                {name: value.detach().clone() for name, value in _trained(self.model).items()}, _before(folder, done // per_step)
            )
        loss = step(inputs, items)
        losses[-1] += float(loss)
        done += 1
        if done % per_step == 0:
            gradients = {name: value.grad.clone() for name, value in _trained(self.model).items()}
            save_file(gradients, folder / f"gradient-{done // per_step - 1}.safetensors")
            losses.append(0.0)
        return loss

    _run(trainer, watch)
    return {"losses": losses[: ORDER["steps"]]}


def _before(folder: Path, step: int) -> Path:
    return folder / f"before-{step}.safetensors"


def _run(trainer: WatchedTrainer, watch: Callable[..., Any]) -> None:
    WatchedTrainer.watch = watch  # type: ignore[method-assign]
    try:
        trainer.train()
    except Finished:
        return
    raise SystemExit("The trainer ended before the measurement did.")


def versions() -> dict[str, str]:
    from importlib import metadata

    names = ("torch", "transformers", "peft", "trl", *(("unsloth", "unsloth_zoo") if SYSTEM.startswith("unsloth") else ()))
    return {name: metadata.version(name) for name in names}


def main() -> None:
    die_first()
    workload = workload_of(ORDER)
    vocabulary = json.loads((Path(ORDER["model"]) / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    if ORDER["task"] == "parity":
        result = record_parity(workload.cut().rows(vocabulary=vocabulary))
    else:
        rows = workload.rows(vocabulary=vocabulary)
        result = measure(rows) if ORDER["task"] == "measure" else search(rows)
    answer(ORDER, {**result, "versions": versions(), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    sys.exit(main())
