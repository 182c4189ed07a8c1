"""What computing the layers twice saves of a training step's memory, and what it costs in time.

    .venv/bin/python benchmarks/recompute_step.py [--tokens 4096] [--rounds 3]

One row of so many tokens, the last third learned, through the starter model with LoRA of rank 16: each way in processes of their
own, in turns. Prints the median seconds of a step's forward and backward pass, and by how much the process grew at its largest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median

import torch

from stepladder.models.prefix.paths import FusedPath
from stepladder.models.prefix.rows import EncodedRow
from training.ours_child import Ready
from training.process import peak_bytes

ORDER = {"model": "smollm2-135m-instruct", "quantised": False, "device": "cpu"}
WAYS = {"once": None, "twice": 0}
"""Room for tokens; see `FusedStep`."""
VOCABULARY = 49_152


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="of the row (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="processes each way (%(default)s)")
    parser.add_argument("--way", choices=WAYS, help="measure this one here, once")
    return parser.parse_args()


def measure(way: str, tokens: int) -> dict[str, float]:
    """Seconds of the second step, and bytes that the process grew by."""
    draw = torch.Generator().manual_seed(0)
    token_ids = torch.randint(3, VOCABULARY, (tokens,), generator=draw).tolist()
    row = EncodedRow("row", tuple(token_ids), tuple(float(place >= tokens * 2 // 3) for place in range(tokens)))
    with Ready(ORDER, [row], None) as ready:
        path = FusedPath(ready.wrapped.get_base_model(), room=WAYS[way])
        before, seconds = peak_bytes(), 0.0
        for _ in range(2):
            ready.wrapped.zero_grad(set_to_none=True)
            started = time.perf_counter()
            path.backward_loss([row], tokens_per_pass=tokens)
            seconds = time.perf_counter() - started
        return {"seconds": seconds, "grown": peak_bytes() - before}


def main() -> int:
    options = parse()
    if options.way:
        print(json.dumps(measure(options.way, options.tokens)))
        return 0
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, results in found.items():
            command = [sys.executable, __file__, "--way", way, "--tokens", str(options.tokens)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    seconds, grown = ({way: median(one[name] for one in found[way]) for way in WAYS} for name in ("seconds", "grown"))
    print(
        f"One row of {options.tokens:,} tokens: {seconds['once']:.1f} s and {grown['once'] / 2**20:,.0f} MiB once, "
        f"{seconds['twice']:.1f} s and {grown['twice'] / 2**20:,.0f} MiB with layers computed twice; time "
        f"{seconds['twice'] / seconds['once']:.2f}, memory {grown['twice'] / grown['once']:.2f}; "
        f"medians of {options.rounds}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
