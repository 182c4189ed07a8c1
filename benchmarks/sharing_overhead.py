"""What looking for a shared prefix costs where there is none: rows that begin differently, and a batch of one.

    .venv/bin/python benchmarks/sharing_overhead.py

The starter model with LoRA of rank 16. A step "as tuned" looks for what its rows share before it computes them; a "plain" one
puts the same rows through the same passes without comparing them; "stock" is the model's own modules and autograd. Steps are
interleaved; medians are printed and written to benchmarks/results/sharing.json. Some minutes; run nothing else meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "benchmarks" / "real")]

from climb_result import describe_machine  # noqa: E402

from stepladder.files import write_text  # noqa: E402
from stepladder.models.prefix import fused  # noqa: E402
from stepladder.models.prefix.paths import FusedPath, StockPath  # noqa: E402
from stepladder.models.prefix.rows import EncodedRow  # noqa: E402
from stepladder.models.prefix.trie import ROOT, Node  # noqa: E402
from stepladder.training.verify import choose_path  # noqa: E402
from training.ours_child import Ready, encode  # noqa: E402
from training.workloads import WORKLOADS  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "sharing.json"
ORDER = {"model": "smollm2-135m-instruct", "quantised": False, "device": "cpu"}
ROWS, ROUNDS, WARM_UPS = 8, 15, 2
ALLOWED = 1.03


def batches(vocabulary: int) -> dict[str, list[EncodedRow]]:
    """Rows of uneven length that begin differently, and one row alone, short and long."""
    uneven = encode(WORKLOADS["B"].first(ROWS).rows(vocabulary=vocabulary))
    long = encode(WORKLOADS["D"].first(1).rows(vocabulary=vocabulary))
    return {f"{ROWS} rows of B": uneven, "a short row": [min(uneven, key=len)], "a row of 1,024 tokens": long}


def apart(rows: Sequence[EncodedRow], **options: Any) -> tuple[Node, ...]:
    """Every row by itself, whatever it has in common with others."""
    return tuple(Node(ROOT, 0, row.token_ids, (place,), place + 1) for place, row in enumerate(rows))


def measure(rows: Sequence[EncodedRow]) -> dict[str, float]:
    """Median seconds of a step, forward and back, each way."""
    taken: dict[str, list[float]] = {"as tuned": [], "plain": [], "stock": []}
    with Ready(ORDER, rows, None) as ready:
        model, tokens_per_pass = ready.wrapped.get_base_model(), ready.settings.tokens_per_pass
        chosen, stock = choose_path(model, rows, print), StockPath(model, share=False)
        assert isinstance(chosen, FusedPath)
        for number in range(WARM_UPS + ROUNDS):
            for name, times in taken.items():
                path = stock if name == "stock" else chosen
                ready.wrapped.zero_grad(set_to_none=True)
                with patch.object(fused, "build_trie", apart) if name == "plain" else nullcontext():
                    started = time.perf_counter()
                    path.backward_loss(rows, tokens_per_pass=tokens_per_pass)
                    if number >= WARM_UPS:
                        times.append(time.perf_counter() - started)
    return {name: median(times) for name, times in taken.items()}


def main() -> int:
    """Exit code 1 when looking for a prefix costs more than 3 %."""
    machine, found = describe_machine(REPOSITORY), []
    for name, rows in batches(vocabulary=49_152).items():
        seconds = measure(rows)
        ratio = seconds["as tuned"] / seconds["plain"]
        found.append({"batch": name, "seconds": seconds, "ratio_to_plain": ratio})
        said = ", ".join(f"{way} {1000 * one:.0f} ms" for way, one in seconds.items())
        print(f"{name}: {said}; as tuned ÷ plain {ratio:.3f}", flush=True)
    write_text(RESULT, json.dumps({"batches": found, "rounds": ROUNDS, "machine": machine}, indent=1) + "\n")
    return int(max(one["ratio_to_plain"] for one in found) > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
