"""The record of a climb, reduced to what tables need, with where it ran. No text of any row is ever kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from stepladder.files import read_lines

RECORD_KEYS = ("run", "task", "created", "model", "grader", "regime", "split_sizes", "target", "minimum_gain", "noise")
COUNT_KEYS = ("fixed", "broken", "seconds")
RUNG_KEYS = (
    *("name", "tuned", "status", "reason", "model", "role", "validation", "test", "metrics", "cost"),
    *("latency_p50_seconds", "latency_p95_seconds", "cut_share", "seconds"),
)
RETRIEVAL_KEYS = ("recall", "gold_rows", "closed_book", "retrieved", "oracle_context")  # figures only
VERDICT_KEYS = ("outcome", "rung", "route", "confidence", "sentence", "probability", "needed_test_rows", "reasons")
LIBRARIES = ("stepladder", "torch", "transformers", "peft", "tokenizers", "llguidance", "numpy", "scipy")
SHORTEST_QUOTE = 12  # characters; "unknown" or a year in a message is no row's text
LEFT_OUT = "(left out: it quotes the data)"


def reduce_record(record: Mapping[str, Any], row_texts: Iterable[str]) -> dict[str, Any]:
    """What tables need of a climb's JSON.

    Recipes, histories, changed rows and notes stay behind, since they may quote rows; a reason or sentence that holds one of
    `row_texts` is replaced by `LEFT_OUT`.

    Raises:
        KeyError: The record lacks something every climb records.
    """
    reduced = {key: record[key] for key in (*RECORD_KEYS, *COUNT_KEYS)}
    reduced["rungs"] = [
        {key: rung[key] for key in RUNG_KEYS} | _retrieval(rung["recipe"].get("diagnosis") or {}) for rung in record["rungs"]
    ]
    reduced["verdict"] = {key: record["verdict"][key] for key in VERDICT_KEYS}
    quotes = sorted({text for text in row_texts if len(text) >= SHORTEST_QUOTE})
    return {key: _without_quotes(value, quotes) for key, value in reduced.items()}


def row_texts(folder: Path) -> list[str]:
    """Prompts and completions of all rows of a task folder."""
    return [str(row[key]) for row in _rows(folder) for key in ("prompt", "completion")]


def add_field_metric(reduced: dict[str, Any], folder: Path, field: str) -> None:
    """Add "SPLIT/FIELD right" to every rung's metrics: the share of JSON answers whose top-level `field` equals the reference's.

    Read from the run's `rows.jsonl`; all seeds and folds count alike. Nothing is added where that file is missing.
    """
    path = folder / "runs" / reduced["run"] / "rows.jsonl"
    references = {row["id"]: _field(row["completion"], field) for row in _rows(folder)}
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for line in read_lines(path):
        row = json.loads(line)
        if row["id"] in references:
            hits[row["rung"], row["split"]].append(_field(row["answer"], field) == references[row["id"]])
    for rung in reduced["rungs"]:
        found = {
            f"{split}/{field} right": sum(right) / len(right) for (name, split), right in hits.items() if name == rung["name"]
        }
        rung["metrics"] = {**rung["metrics"], **found}


def describe_machine(repository: Path) -> dict[str, Any]:
    """Commit, versions, processor and date. `dirty` = files other than results differ from the commit."""
    status = _git(repository, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return {
        "commit": _git(repository, "rev-parse", "--short=12", "HEAD"),
        "dirty": bool(status),
        "versions": {"python": platform.python_version(), **_library_versions()},
        "cpu": _cpu_name(),
        "cores": _cores(),
        "system": platform.system(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _retrieval(diagnosis: Mapping[str, Any]) -> dict[str, Any]:
    """Of a rung that retrieves: how often the gold passage was found, and the controls that tell retriever from reader."""
    return {"retrieval": {key: diagnosis[key] for key in RETRIEVAL_KEYS}} if "recall" in diagnosis else {}


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in read_lines(path)]


def _field(answer: str, field: str) -> Any:
    """The value under a key of a JSON object; None when the text is none."""
    try:
        value = json.loads(answer)
    except ValueError:
        return None
    return value.get(field) if isinstance(value, dict) else None


def _without_quotes(value: Any, quotes: list[str]) -> Any:
    if isinstance(value, str):
        return LEFT_OUT if any(quote in value for quote in quotes) else value
    if isinstance(value, Mapping):
        return {key: _without_quotes(item, quotes) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_quotes(item, quotes) for item in value]
    return value


def _git(repository: Path, *arguments: str) -> str:
    """Output of a git command; empty outside a repository or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _library_versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_name() -> str:
    """The processor's trade name where the system tells, else its architecture."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
