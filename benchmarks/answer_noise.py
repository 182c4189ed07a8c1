"""How far apart the logits of several ways to answer lie in 16 bits, and how many answers differ for it.

    .venv/bin/python benchmarks/answer_noise.py [--rungs zero-shot,tuned] [--rows N] [--datasets DIR]

The rows of `make bench-generate`, answered by `generate()` one by one, in batches of 8 and of 16, by us, and by us with adapters
in fp32 as PEFT computes them. For every pair: rows whose answers differ, and the root mean square of the difference of logits
(of the 20 likeliest tokens, their common shift left out) as long as both have written the same. Prints; writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from generation.child import Recording, generate, whole_answer
from generation.compare import Comparison
from generation.rungs import Rung, read
from generation.systems import RUNGS, TUNED
from real.task_folder import DATASETS, WORK
from stepladder.domain.protocols import Decoding
from stepladder.engines.transformers import continuous, heads
from stepladder.engines.transformers.rows import Row
from stepladder.models.conversation import encode_prompt
from stepladder.models.loading import LoadedModel, load
from stepladder.models.prefix import products
from stepladder.models.prefix.products import LowRank, Product

LIKELIEST = 20
ROWS = 105
Told = list[tuple[list[int], Tensor]]
"""Of every row its answer, and the states (tokens + 1, hidden) that its tokens were chosen from."""


def by_generate(loaded: LoadedModel, rung: Rung, rows_at_once: int) -> Told:
    told: Told = []
    prompts = [encode_prompt(loaded.template, loaded.tokenizer, prompt.messages) for prompt in rung.prompts]
    with ExitStack() as stack:
        model = stack.enter_context(loaded.adapter(Path(rung.adapter))) if rung.adapter else loaded.model
        for first in range(0, len(prompts), rows_at_once):
            seen: list[Tensor] = []
            hook = model.get_output_embeddings().register_forward_pre_hook(
                lambda _, inputs, seen=seen: seen.append(inputs[0][:, -1].float())
            )
            written = generate(loaded, model, prompts[first : first + rows_at_once], rung.max_new_tokens)
            hook.remove()
            for number, ids in enumerate(written):
                answer = whole_answer(ids, loaded.stop_ids)
                told.append((answer, torch.stack([states[number] for states in seen[: len(answer) + 1]])))
    return told


def by_us(loaded: LoadedModel, rung: Rung) -> Told:
    states: dict[int, list[Tensor]] = {}
    choose = heads.next_tokens

    def seen(chooser: Any, found: Tensor, rows: Sequence[Row], allowed: Tensor | None) -> list[int]:
        for row, state in zip(rows, found, strict=True):
            states.setdefault(row.index, []).append(state.float())
        return choose(chooser, found, rows, allowed)

    engine = Recording(loaded)
    with patch.object(continuous, "next_tokens", seen):
        engine.generate(rung.prompts, Decoding(rung.max_new_tokens), adapter=Path(rung.adapter) if rung.adapter else None)
    return [(engine.written[number], torch.stack(states[number])) for number in range(len(rung.prompts))]


@contextmanager
def adapters_in_fp32() -> Iterator[None]:
    """LoRA as PEFT computes it: its inputs, both products and the sum in fp32, rounded once."""
    keep, read_low_rank = Product.__call__, products._low_rank

    def product(self: Product, inputs: Tensor, low_rank: LowRank | None, speakers: Tensor | None) -> Tensor:
        outputs = keep(self, inputs, None, None)
        if low_rank is None:
            return outputs
        assert speakers is None, "one adapter for all rows"
        return torch.addmm(outputs.float(), inputs.float() @ low_rank.down.t(), low_rank.up.t()).to(inputs.dtype)

    wide = patch.object(products, "_low_rank", lambda linears, dtype: read_low_rank(linears, torch.float32))
    with wide, patch.object(Product, "__call__", product):
        yield


def compare(one: Told, other: Told, head: Tensor) -> tuple[int, float]:
    """Answers that differ, and the root mean square of the difference of logits until they do."""
    squares: list[Tensor] = []
    for (ids, states), (others, other_states) in zip(one, other, strict=True):
        alike = next((place for place, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))
        logits, other_logits = (part[: alike + 1] @ head.t() for part in (states, other_states))
        apart = (logits - other_logits).gather(1, logits.topk(LIKELIEST).indices)
        squares.append((apart - apart.mean(dim=1, keepdim=True)).square().mean(dim=1))
    return sum(a != b for (a, _), (b, _) in zip(one, other, strict=True)), float(torch.cat(squares).mean().sqrt())


def report(loaded: LoadedModel, rung: Rung) -> None:
    ways: dict[str, Callable[[], Told]] = {
        "one by one": lambda: by_generate(loaded, rung, 1),
        "batches of 8": lambda: by_generate(loaded, rung, 8),
        "batches of 16": lambda: by_generate(loaded, rung, 16),
        "stepladder": lambda: by_us(loaded, rung),
    }
    told = {name: way() for name, way in ways.items()}
    if rung.name == TUNED:
        with adapters_in_fp32():
            told["stepladder, adapters in fp32"] = by_us(loaded, rung)
    head = loaded.model.get_output_embeddings().weight.detach().float()
    for one, other in combinations(told, 2):
        differ, apart = compare(told[one], told[other], head)
        print(f"{rung.name}: {one} / {other}: {differ} of {len(rung.prompts)} answers differ, logits by {apart:.4f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", default=",".join(RUNGS), help="which, by name; default: all")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="name or folder; default: the starter model")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    options = parser.parse_args()
    names = options.rungs.split(",")
    scratch = WORK / f"generation-{options.rows}"
    Comparison(scratch / "unused.json", options.model, scratch).prepare(names, options.rows, options.datasets)
    loaded = load(options.model, device="cpu", dtype="bfloat16")
    for name in names:
        report(loaded, read(scratch / "rungs.json", name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
