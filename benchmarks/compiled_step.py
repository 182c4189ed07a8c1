"""What compiled kernels save of a training step: plain and compiled passes over the same rows, in turns.

    .venv/bin/python benchmarks/compiled_step.py [--workloads A,B] [--rounds 5] [--tokens-per-pass N]

Prints, for each workload, the median seconds of a step's forward and backward pass both ways, what compiling took, and how far
both gradients lie apart. Compiled code from an earlier run is taken from the cache; the folder to empty for a first one is named.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from statistics import median
from typing import Any

import torch

from stepladder.models.prefix import compiled
from stepladder.models.prefix.paths import FusedPath
from stepladder.models.pull import pull_manifest
from training.ours_child import Ready, encode
from training.workloads import WORKLOADS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="A,B", help="which, by name (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="steps each way, after one that is not counted (%(default)s)")
    parser.add_argument("--tokens-per-pass", type=int, help="other than `tune` would take")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="name or folder; default: the starter model")
    return parser.parse_args()


def step(path: FusedPath, wrapped: Any, rows: Any, tokens_per_pass: int) -> tuple[float, torch.Tensor]:
    """Seconds of one step's passes, and the gradient of the whole adapter."""
    wrapped.zero_grad(set_to_none=True)
    started = time.perf_counter()
    path.backward_loss(rows, tokens_per_pass=tokens_per_pass)
    seconds = time.perf_counter() - started
    return seconds, torch.cat([value.grad.flatten() for value in wrapped.parameters() if value.grad is not None])


def compare(name: str, options: argparse.Namespace) -> str:
    order = {"quantised": False, "model": str(pull_manifest(options.model).folder), "device": "cpu"}
    with Ready(order | {"tokens_per_pass": options.tokens_per_pass}, rows := encode(rows_of(name)), None) as ready:
        model = ready.wrapped.get_base_model()
        started = time.perf_counter()
        (paths := {"plain": FusedPath(model), "compiled": FusedPath(model)})["compiled"].compile()
        compiling = time.perf_counter() - started
        taken: dict[str, list[float]] = {way: [] for way in paths}
        gradients = {}
        for number in range(options.rounds + 1):
            for way, path in paths.items():
                seconds, gradients[way] = step(path, ready.wrapped, rows, ready.settings.tokens_per_pass)
                if number:
                    taken[way].append(seconds)
        gap = float((gradients["compiled"] - gradients["plain"]).norm() / gradients["plain"].norm())
        plain, fast = median(taken["plain"]), median(taken["compiled"])
        return (
            f"{name}: {plain:.2f} s plain, {fast:.2f} s compiled, ratio {plain / fast:.2f}; compiling took {compiling:.0f} s; "
            f"gradients differ by {gap:.1%}; passes of {ready.settings.tokens_per_pass} tokens"
        )


def rows_of(name: str) -> Any:
    return WORKLOADS[name].rows(vocabulary=49_152)


def main() -> int:
    options = parse()
    for name in options.workloads.split(","):
        print(compare(name, options), flush=True)
    folder = os.environ[compiled.CACHE_VARIABLE]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; compiled code lies in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
