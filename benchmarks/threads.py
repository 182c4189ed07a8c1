"""Does it pay to let waiting threads sleep? Answers a second with torch's spinning and without, alone and beside another process.

Each cell is a fresh process (the setting counts only before torch is imported); rounds are interleaved; medians are printed and
written to benchmarks/results/threads.json. Takes some minutes; run nothing else meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

RESULT = Path(__file__).resolve().parent / "results" / "threads.json"
ROUNDS = 3
SETTINGS = {"spinning": None, "sleeping": "5000"}  # GOMP_SPINCOUNT
WORKER = """
import time
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.loading import load
engine = TransformersEngine(load("smollm2-135m-instruct"))
prompts = [Prompt(str(row), (Message("user", " ".join(str(word * (row + 3) % 997) for word in range(30))),)) for row in range(8)]
engine.generate(prompts[:1], Decoding(2))
started = time.perf_counter()
engine.generate(prompts, Decoding(12))
print(len(prompts) / (time.perf_counter() - started))
"""
BUSY = "import torch\na = torch.rand(1500, 1500)\nwhile True: a = torch.tanh(a @ a)"


def answers_per_second(spin_count: str | None, *, beside_another: bool) -> float:
    """One measurement in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    if spin_count is not None:
        environment["GOMP_SPINCOUNT"] = spin_count
    other = subprocess.Popen([sys.executable, "-c", BUSY], env=environment) if beside_another else None
    try:
        done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True, env=environment)
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(done.stdout)


def main() -> None:
    measured: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, spin_count in SETTINGS.items():
            for beside_another in (False, True):
                key = f"{name}, {'beside a busy process' if beside_another else 'alone'}"
                measured.setdefault(key, []).append(answers_per_second(spin_count, beside_another=beside_another))
    medians = {key: round(median(values), 2) for key, values in measured.items()}
    for key, value in medians.items():
        print(f"{key}: {value} answers a second")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"answers_per_second": medians, "rounds": ROUNDS, "cpus": os.cpu_count()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
