"""The README's table of answering speed: medians over the rounds, every rung beside every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from generation.compare import RATIO, same_text
from generation.systems import MUST_REACH, RUNGS, SYSTEMS

HEADERS = (
    "rung",
    "system",
    "examples/s",
    "prompt tokens computed",
    "answer tokens",
    "peak memory",
    "stepladder ÷ this",
    "wanted",
)


def generation_table(content: Mapping[str, Any]) -> str:
    """One line a rung and system, then whether the answers are the same, latencies, and where it ran. Empty without rows."""
    rows: Sequence[Mapping[str, Any]] = content["rows"]
    lines = []
    for rung in RUNGS:
        for system in SYSTEMS:
            own = [row for row in rows if row["rung"] == rung and row["system"] == system]
            if own:
                lines.append(_line(rung, system, own))
    if not lines:
        return ""
    rule = [":--", ":--", *["--:"] * (len(HEADERS) - 2)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [HEADERS, rule, *lines])
    said = [f"- {entry['rung']}: {same_text(entry)}" for entry in content["same_answers"]]
    said += [
        f"- {entry['rung']}: a single answer takes {entry['p50_seconds']:.2f} s (median of {entry['rows']}), "
        f"{entry['p95_seconds']:.2f} s (95th percentile); warm, no drafts."
        for entry in content["latency"]
    ]
    said += [
        f"- Holding every row to a JSON grammar ({entry['schema']}) adds {entry['cost']:.0%} to a batch."
        for entry in content["grammar"]
    ]
    return "\n\n".join(part for part in (table, "\n".join(said), _provenance(rows)) if part)


def _line(rung: str, system: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    ratios = [row[RATIO] for row in rows if row[RATIO] is not None]
    wanted = MUST_REACH.get(rung, {}).get(system)
    return [
        rung,
        system,
        f"{median(row['examples_per_second'] for row in rows):.2f}",
        f"{median(row['prefill_tokens'] for row in rows):,.0f}",
        f"{median(row['decode_tokens'] for row in rows):,.0f}",
        f"{median(row['peak_memory_bytes'] for row in rows) / 1e9:.1f} GB",
        f"{median(ratios):.1f}" if ratios else "–",
        "" if wanted is None else f"≥ {wanted:g}",
    ]


def _provenance(rows: Sequence[Mapping[str, Any]]) -> str:
    def all_of(values: Sequence[str]) -> str:
        return ", ".join(sorted(set(values)))

    machines = all_of([f"{row['machine']['cores']} cores of {row['machine']['cpu']}" for row in rows])
    versions = all_of([f"{name} {version}" for row in rows for name, version in row["versions"].items()])
    rounds, examples = max(row["round"] for row in rows), all_of([str(row["examples"]) for row in rows])
    dates = all_of([row["machine"]["date"] for row in rows])
    return (
        f"{examples} test rows of SNIPS, medians of {rounds} rounds; {machines}, {dates}; "
        f"{all_of([row['dtype'] for row in rows])}; commit {all_of([row['commit'] for row in rows])}; {versions}."
    )
