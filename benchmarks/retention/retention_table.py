"""The calibration's figures as a table in docs/decisions/011; needs no model. Run it after `calibrate.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(BENCHMARKS))

from tables import replace_region  # noqa: E402 - as a script the folder above is not on the path

RESULT = BENCHMARKS / "results" / "retention.json"
DECISION = BENCHMARKS.parent / "docs" / "decisions" / "011-general-abilities-block.md"
COLUMNS = (
    ("general text", "general text [bound], %", 100.0),
    ("multiple choice", "multiple choice, points", 100.0),
    ("instructions", "instructions, points", 100.0),
    ("self-stopping", "self-stopping, points", 100.0),
    ("repetition", "repetition, points", 100.0),
    ("refusals", "refusals, points", 100.0),
    ("KL, general prompts", "KL general, nats", 1.0),
    ("KL, task inputs", "KL task, nats", 1.0),
)


def table(tunes: list[Mapping[str, Any]]) -> str:
    """One row a tune or remedy, one column a measure; losses, positive = worse."""
    lines = ["| tune | " + " | ".join(head for _, head, _ in COLUMNS) + " |", "|:--|" + "--:|" * len(COLUMNS)]
    for tune in tunes:
        measures = {one["name"]: one["loss"] for one in tune["measures"]}
        cells = [_cell(name, measures.get(name), times) for name, _, times in COLUMNS]
        lines.append(f"| {tune['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, loss: Mapping[str, Any] | None, times: float) -> str:
    if loss is None:
        return "–"
    value = f"{times * loss['value']:+.1f}" if times > 1 else f"{loss['value']:.2f}"
    return f"{value} [{times * loss['high']:+.1f}]" if name == "general text" else value


def filled(text: str) -> str:
    """The decision with the table of the recorded figures in it."""
    tunes = json.loads(RESULT.read_text(encoding="utf-8"))["tunes"]
    return replace_region(text, "retention", table(tunes), where=DECISION)


if __name__ == "__main__":
    DECISION.write_text(filled(DECISION.read_text(encoding="utf-8")), encoding="utf-8")
