"""The README's table of training speed: medians over the rounds, every workload beside every other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepladder.domain.errors import DataError
from training.results import RATIO, medians
from training.systems import SYSTEMS
from training.workloads import WORKLOADS

HEADERS = (
    *("rows", "system", "examples/s", "tokens/s", "computed tokens/s"),
    *("useful TFLOP/s", "of the products' ceiling", "peak memory", "stepladder ÷ this"),
)


def load_training(path: Path) -> Mapping[str, Any] | None:
    """What `bench_train.py` has written; None without it.

    Raises:
        DataError: The file is not JSON.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(path, None, f"not JSON: {error}.", "Run benchmarks/bench_train.py again.") from error
    assert isinstance(content, dict)
    return content


def training_table(content: Mapping[str, Any]) -> str:
    """One line a workload and system; what the workloads and settings are; where it ran. Empty as long as there is A alone.

    A is the mix that shared prefixes gain most on: by itself it would say too much.
    """
    rows: Sequence[dict[str, Any]] = content["rows"]
    measured = [name for name in WORKLOADS if any(row["workload"] == name for row in rows)]
    if not measured or measured == ["A"]:
        return ""
    lines = []
    for workload in measured:
        for system in SYSTEMS:
            found = medians(rows, workload, system)
            if found is not None:
                lines.append(_line(found))
    rule = [":--", ":--", *["--:"] * (len(HEADERS) - 2)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [HEADERS, rule, *lines])
    mixes = "\n".join(
        f"- **{name}**: {WORKLOADS[name].what}; {len(WORKLOADS[name].own)} rows an optimizer step." for name in measured
    )
    return "\n\n".join(part for part in (table, mixes, _settings(rows), _left_out(content), _provenance(rows)) if part)


def _line(row: Mapping[str, Any]) -> list[str]:
    ratio = row[RATIO]
    return [
        row["workload"],
        row["system"],
        f"{row['examples_per_second']:.2f}",
        f"{row['nominal_tokens_per_second']:,.0f}",
        f"{row['computed_tokens_per_second']:,.0f}",
        f"{row['useful_tflops']:.3f}",
        f"{row['fraction_of_gemm_ceiling']:.0%}",
        f"{row['peak_memory_bytes'] / 1e9:.1f} GB",
        "–" if ratio is None else f"{ratio:.1f}",
    ]


def _settings(rows: Sequence[Mapping[str, Any]]) -> str:
    """The setting of every system, workload by workload where they differ."""
    lines = []
    for system in SYSTEMS:
        by_setting: dict[str, list[str]] = {}
        for row in rows:
            if row["system"] == system and row["workload"] not in by_setting.setdefault(row["setting"], []):
                by_setting[row["setting"]].append(row["workload"])
        if by_setting:
            lines.append(
                f"- {system}: " + "; ".join(f"{', '.join(sorted(names))}: {words}" for words, names in by_setting.items())
            )
    return "\n".join(lines)


def _left_out(content: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- {one['workload']} {one['system']} left out: {' '.join(one['reason'].split())}" for one in content["left_out"]
    )


def _provenance(rows: Sequence[Mapping[str, Any]]) -> str:
    """Machine, commits, dates, rounds and versions in one line."""
    machines = {f"{row['machine']['cores']} cores of {row['machine']['cpu']}" for row in rows}
    versions: dict[str, set[str]] = {}
    for row in rows:
        for name, version in row["versions"].items():
            versions.setdefault(name, set()).add(version)
    rounds: dict[str, int] = {}
    for row in rows:
        rounds[row["workload"]] = max(rounds.get(row["workload"], 0), row["round"])

    def all_of(name: str) -> str:
        return ", ".join(sorted({row[name] for row in rows}))

    dates = ", ".join(sorted({row["machine"]["date"] for row in rows}))
    counted = ", ".join(f"{count} ({name})" for name, count in rounds.items())
    return (
        f"Medians of {counted} rounds; {' and '.join(sorted(machines))}, {dates}; weights {all_of('dtype')}, adapters fp32, "
        f"rank 16 on all linear layers; commit {all_of('commit')}; "
        + ", ".join(f"{name} {' / '.join(sorted(found))}" for name, found in sorted(versions.items()))
        + "."
    )
