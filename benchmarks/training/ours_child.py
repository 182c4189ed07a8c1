"""One measurement of stepladder, in a process of its own: `python -m training.ours_child ORDER.json`.

It trains through the loop, presets and passes that `stepladder tune` trains through. The GEMM ceiling, the start of the adapters
and the comparison with a rival's recorded steps are made here, too.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from stepladder.domain.task import LoraSettings
from stepladder.models.loading import load
from stepladder.models.prefix.rows import EncodedRow
from stepladder.models.prefix.trie import build_trie
from stepladder.training.adapters import adapted, adapter_tensors, fast_attention, set_adapter_tensors
from stepladder.training.compiling import compile_where_it_pays
from stepladder.training.loop import TrainStep, build_optimizer, train
from stepladder.training.memory import reused_memory
from stepladder.training.presets import TrainSettings, choose_settings
from stepladder.training.verify import choose_path
from training.flops import Shape, useful_flops, work_of_stretches
from training.gpu import write_random_model
from training.process import answer, device_peak, die_first, now, peak_bytes, read_order
from training.systems import ALPHA, LEARNING_RATE, RANK
from training.workloads import Row, workload_of

IMPORTED_BYTES = peak_bytes()
B_SPREAD = 0.02  # of the B matrices in a parity run: none may be zero, or A would get no gradient
CEILING_ROWS = 1536  # tokens of one product: about what a pass of ours or a rival's micro-batch holds
CEILING_SECONDS = 0.4


def encode(rows: Sequence[Row]) -> list[EncodedRow]:
    encoded = []
    for number, row in enumerate(rows):
        masked = len(row.token_ids) - row.learned
        encoded.append(EncodedRow(str(number), row.token_ids, (0.0,) * masked + (1.0,) * row.learned))
    return encoded


def settings_for(model: Any, rows: int) -> TrainSettings:
    """Our own presets but for what all systems have in common."""
    config = model.config.get_text_config(decoder=True)
    wanted = LoraSettings(rank=RANK, alpha=ALPHA, learning_rate=LEARNING_RATE, epochs=1000, batch_size=rows)
    return choose_settings(
        wanted,
        rows=rows,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        model_type=config.model_type,
        context_tokens=config.max_position_embeddings,
        seed=0,
    )


def shape_of(model: Any) -> Shape:
    return Shape.of_config(model.config.get_text_config(decoder=True).to_dict())


class Ready:
    """The model with an adapter in it, as `tune` prepares both. Use as a context."""

    def __init__(self, order: dict[str, Any], rows: Sequence[EncodedRow], dtype: str | None) -> None:
        self._stack = ExitStack()
        self.model = _quantised(order) if order["quantised"] else load(order["model"], device=order["device"], dtype=dtype).model
        self.settings = settings_for(self.model, len(rows))
        if order.get("tokens_per_pass"):
            self.settings = replace(self.settings, tokens_per_pass=order["tokens_per_pass"])
        self._longest = max(map(len, rows))

    def __enter__(self) -> Ready:
        self._stack.enter_context(reused_memory())
        attention = fast_attention(self.model, longest=self._longest, tokens_per_pass=self.settings.tokens_per_pass)
        self._stack.enter_context(attention)
        self.wrapped = self._stack.enter_context(adapted(self.model, self.settings))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


def _quantised(order: dict[str, Any]) -> Any:
    """The model in NF4 with double quantisation, as QLoRA wants it."""
    wanted = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        order["model"], dtype=torch.bfloat16, quantization_config=wanted, device_map={"": order["device"]}
    )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # else the first forward repacks the weights, and gradients go wrong
            module.support_avx512bf16_for_cpu = False
    return model.eval().requires_grad_(False)


def measure(order: dict[str, Any], rows: list[EncodedRow]) -> dict[str, Any]:
    """Speed over whole optimizer steps, the first of which is not counted, and the peak of the process."""
    at_least, at_most = order["seconds"]
    with Ready(order, rows, None) as ready:
        if order["adapter"] is not None:
            set_adapter_tensors(ready.wrapped, load_file(order["adapter"]))
        model = ready.wrapped.get_base_model()
        notes: list[str] = []
        path = choose_path(model, rows, notes.append)
        compile_where_it_pays(path, model, rows, ready.settings, notes.append)
        optimizer = build_optimizer(ready.wrapped, ready.settings)
        began = now(torch)
        started, steps, seconds, warm_up = 0.0, 0, 0.0, 0.0
        for event in train(model, optimizer, rows, [], ready.settings, path=path):
            if not isinstance(event, TrainStep):
                continue
            if not started:
                started = now(torch)
                warm_up = started - began
                continue
            steps, seconds = steps + 1, now(torch) - started
            if seconds >= at_least or seconds * (1 + 1 / steps) > at_most:
                break
        stretches = (
            [(node.start, len(node.token_ids)) for node in build_trie(rows)]
            if path.name != "stock"
            else [(0, len(row)) for row in rows]
        )
        work = work_of_stretches(stretches, sum(len(row.labelled) for row in rows))
        return {
            "seconds": seconds,
            "tokens": steps * sum(map(len, rows)),
            "computed_tokens": steps * work.tokens,
            "flops": steps * useful_flops(shape_of(model), work),
            "batches": steps,
            "warm_up_seconds": warm_up,
            "peak_memory_bytes": peak_bytes() - IMPORTED_BYTES,
            **device_peak(torch),
            "dtype": str(model.dtype).removeprefix("torch."),
            "setting": f"as `tune` trains: {path.name} path, {ready.settings.tokens_per_pass} tokens a pass",
            "notes": notes,
        }


def write_start(order: dict[str, Any], rows: list[EncodedRow]) -> dict[str, Any]:
    """The adapter every system starts from, in fp32: B zero as PEFT draws it, or (for parity) small random numbers."""
    with Ready(order, rows, "float32") as ready:
        draw = torch.Generator().manual_seed(1)
        tensors = {name: value.detach().clone() for name, value in adapter_tensors(ready.wrapped).items()}
        for name, value in tensors.items():
            if order["with_b"] and ".lora_B." in name:
                value.copy_(torch.randn(value.shape, generator=draw) * B_SPREAD)
        save_file(tensors, order["adapter"])
        return {"tensors": len(tensors)}


def compare(order: dict[str, Any], rows: list[EncodedRow]) -> dict[str, Any]:
    """Our loss and gradient at the parameters a rival had before each of its steps, against what it recorded.

    Returns:
        Largest |loss - loss'|, largest ‖g - g'‖ / ‖g'‖ over all tensors and steps, smallest cosine of whole gradients.
    """
    folder = Path(order["folder"])
    loss_gap = gradient_gap = 0.0
    cosine = 1.0
    with Ready(order, rows, "float32") as ready:
        path = choose_path(ready.wrapped.get_base_model(), rows, lambda note: None)
        for step, expected_loss in enumerate(order["losses"]):
            set_adapter_tensors(ready.wrapped, load_file(folder / f"before-{step}.safetensors"))
            expected = load_file(folder / f"gradient-{step}.safetensors")
            ready.wrapped.zero_grad(set_to_none=True)
            loss = path.backward_loss(rows, tokens_per_pass=ready.settings.tokens_per_pass)
            own = {name: value.grad for name, value in adapter_tensors(ready.wrapped).items()}
            loss_gap = max(loss_gap, abs(loss - expected_loss))
            gaps = [float((own[name] - value).norm() / value.norm()) for name, value in expected.items()]
            gradient_gap = max(gradient_gap, *gaps)
            ours, theirs = (torch.cat([side[name].flatten().double() for name in expected]) for side in (own, expected))
            cosine = min(cosine, float(torch.nn.functional.cosine_similarity(ours, theirs, dim=0)))
    return {"loss_gap_nats": loss_gap, "gradient_gap": gradient_gap, "gradient_cosine": cosine, "path": path.name}


def ceiling(order: dict[str, Any]) -> dict[str, Any]:
    """FLOP a second of matrix products alone, at the shapes of the model's linear layers, forward and back.

    Each shape runs for a while and its fastest call counts; shapes are weighted by the time they take in a layer.
    """
    model = load(order["model"], device=order["device"], dtype=order.get("dtype")).model
    rows = order.get("ceiling_rows", CEILING_ROWS)
    shape, dtype, device = shape_of(model), model.dtype, model.device
    flops = seconds = 0.0
    for inputs, outputs, count in shape.products:
        states = torch.randn(rows, inputs, dtype=dtype, device=device)
        gradient = torch.randn(rows, outputs, dtype=dtype, device=device)
        weight = torch.randn(outputs, inputs, dtype=dtype, device=device) * inputs**-0.5
        best = _fastest(lambda: states @ weight.t()) + _fastest(lambda: gradient @ weight)  # noqa: B023
        flops += count * 4 * rows * inputs * outputs
        seconds += count * best
    return {"flops_per_second": flops / seconds, "rows": rows, "dtype": str(dtype).removeprefix("torch.")}


def _fastest(product: Any) -> float:
    """Seconds of the fastest of many calls."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    product()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < CEILING_SECONDS:
        synchronise()
        started = time.perf_counter()
        product()
        synchronise()
        best = min(best, time.perf_counter() - started)
    return best


def versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in ("stepladder", "torch", "transformers", "peft")}


def main() -> None:
    die_first()
    order = read_order()
    if order["task"] in ("ceiling", "random"):
        result = {"ceiling": ceiling, "random": write_random_model}[order["task"]](order)
    else:
        workload = workload_of(order)
        workload = workload if order["task"] == "measure" else workload.cut()
        config = json.loads((Path(order["model"]) / "config.json").read_text(encoding="utf-8"))
        rows = encode(workload.rows(vocabulary=config["vocab_size"]))
        result = {"measure": measure, "start": write_start, "parity": compare}[order["task"]](order, rows)
    answer(order, {**result, "versions": versions(), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    sys.exit(main())
