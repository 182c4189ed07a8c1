"""The scripts of `benchmarks/` import one another as scripts do: from the folder they lie in."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
sys.path[:0] = [
    *(str(BENCHMARKS / name) for name in ("real", "retention", "planted", "curve")),
    str(BENCHMARKS),
]
