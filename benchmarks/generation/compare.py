"""The comparison: each measurement in a child process, kept on disk at once; answers compared before a ratio means anything."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from generation.systems import BATCHED, MUST_REACH, ONE_BY_ONE, OURS, RUNGS, SCHEMAS, SETTINGS, SYSTEMS
from real.climb_result import describe_machine
from stepladder.domain.errors import DataError
from stepladder.files import write_text
from stepladder.models.pull import pull_manifest
from training.compare import run_child

BENCHMARKS = Path(__file__).resolve().parents[1]
SECTIONS = ("rows", "same_answers", "latency", "grammar")
RATIO = "ratio_ours_over_this"
LARGEST_MARGIN = 0.25  # logits: below it, rounding in bf16 may decide which of two tokens is written
PATIENCE_SECONDS = 3_600.0

Row = dict[str, Any]


class Results:
    """One JSON object of lists: `rows` (the figures), `same_answers`, `latency`, `grammar`."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: The file is there and is something else.
        """
        self.path = path
        self.content: dict[str, list[Row]] = {name: [] for name in SECTIONS}
        if path.is_file():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                self.content |= {name: list(stored.get(name, ())) for name in SECTIONS}
            except (ValueError, AttributeError, TypeError) as error:
                raise DataError(
                    path, None, f"no results of this benchmark: {error}.", "Move the file away to start anew."
                ) from error

    def find(self, section: str, **keys: Any) -> Row | None:
        """The entry that has these values, if there is one."""
        return next((row for row in self.content[section] if all(row.get(key) == value for key, value in keys.items())), None)

    def add(self, section: str, entry: Mapping[str, Any]) -> None:
        """Keep an entry, on disk at once; ratios are brought up to date."""
        self.content[section].append(dict(entry))
        with_ratios(self.content["rows"])
        write_text(self.path, json.dumps(self.content, indent=1) + "\n")


def with_ratios(rows: Sequence[Row]) -> None:
    """Fill in ours ÷ theirs in examples a second, within the same rung and round; None where ours is missing."""
    ours = {(row["rung"], row["round"]): row["examples_per_second"] for row in rows if row["system"] == OURS}
    for row in rows:
        own = ours.get((row["rung"], row["round"]))
        row[RATIO] = None if own is None else round(own / row["examples_per_second"], 2)


class Comparison:
    """Measures into a results file; whatever stands there already is not done again.

    The scratch folder keeps the rungs' prompts and every system's answers, so that a broken-off comparison can go on.
    """

    def __init__(self, results: Path, model: str, scratch: Path) -> None:
        self.results = Results(results)
        self.folder = pull_manifest(model).folder
        self.machine = describe_machine(BENCHMARKS.parent)
        self.scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)

    def prepare(self, names: Sequence[str], rows: int, datasets: Path) -> None:
        """The prompts of the rungs, once; other rows or rungs than before are written anew."""
        path = self._rungs
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        if {entry["name"] for entry in known} < set(names) or any(len(entry["prompts"]) != rows for entry in known):
            self._child("prepare", names[0], datasets=str(datasets), names=list(names), rows=rows)

    def measure(self, rung: str, system: str, number: int) -> None:
        """One row of the results, and whether the answers are the same once those of all systems are there."""
        if self.results.find("rows", rung=rung, system=system, round=number) is None:
            found = self._child("measure", rung, system=system)
            write_text(self._answers(rung, system), json.dumps(found["answers"]))
            count = len(found["answers"])
            setting = ", ".join(filter(None, (SETTINGS[system], found.get("setting"))))
            self.results.add("rows", {
                "rung": rung, "system": system, "setting": setting, "dtype": found["dtype"], "examples": count,
                "examples_per_second": count / found["seconds"], "prefill_tokens": found["prefill_tokens"],
                "decode_tokens": found["decode_tokens"], "peak_memory_bytes": found["peak_memory_bytes"], RATIO: None,
                "round": number, "threads": found["threads"], "versions": found["versions"],
                "machine": {key: self.machine[key] for key in ("cpu", "cores", "system", "date")},
                "commit": self.machine["commit"] + (" with local changes" if self.machine["dirty"] else ""),
            })  # fmt: skip
            self._say(self.results.content["rows"][-1])
        there = all(self._answers(rung, one).is_file() for one in SYSTEMS)
        for head in ("fp32", "rounded"):
            if there and self.results.find("same_answers", rung=rung, head=head) is None:
                self.results.add("same_answers", {**self._same(rung, rounded_head=head == "rounded"), "head": head})

    def extras(self, rung: str) -> None:
        """Latency of single answers, and what a grammar costs."""
        if self.results.find("latency", rung=rung) is None:
            found = self._child("latency", rung)
            self.results.add("latency", {"rung": rung, **_figures(found)})
        for schema in SCHEMAS if rung == "zero-shot" else ():
            if self.results.find("grammar", schema=schema) is None:
                found = self._child("mask cost", rung, schema=schema)
                self.results.add("grammar", {"rung": rung, "schema": schema, **_figures(found)})

    def summary(self) -> str:
        """What was reached, and what was not."""
        lines = []
        for row in self.results.content["rows"]:
            wanted = MUST_REACH.get(row["rung"], {}).get(row["system"])
            said = "" if wanted is None else f" (wanted: {wanted:g})"
            ratio = "–" if row[RATIO] is None else f"{row[RATIO]:.2f}"
            lines.append(
                f"{row['rung']:<13} {row['system']:<26} {row['examples_per_second']:7.2f} a second  ours ÷ this {ratio}{said}"
            )
        for entry in self.results.content["same_answers"]:
            lines.append(f"{entry['rung']}: {same_text(entry)}")
        for entry in self.results.content["latency"]:
            lines.append(
                f"{entry['rung']}: one answer takes {entry['p50_seconds']:.2f} s (median), {entry['p95_seconds']:.2f} s (95 %)"
            )
        lines += [
            f"A grammar ({entry['schema']}) adds {entry['cost']:.1%} to a batch." for entry in self.results.content["grammar"]
        ]
        return "\n".join(lines)

    def _same(self, rung: str, *, rounded_head: bool = False) -> dict[str, Any]:
        """How many rows differ from generate() one by one, ours and its own batches, and where the first differences lie.

        `generate()` chooses by logits rounded to the model's type, we by fp32; with `rounded_head` ours are asked again, choosing
        as it does: what differs then comes from everything before the head.
        """
        answers = {system: json.loads(self._answers(rung, system).read_text(encoding="utf-8")) for system in SYSTEMS}
        plain = answers[ONE_BY_ONE]
        if rounded_head:
            answers[OURS] = self._child("rounded head", rung)["answers"]

        def differing(system: str) -> list[tuple[int, list[int], list[int]]]:
            pairs = enumerate(zip(plain, answers[system], strict=True))
            return [(number, one, other) for number, (one, other) in pairs if one != other]

        ours, batched = differing(OURS), differing(BATCHED)
        margin, margin_of_batches = (
            max(self._child("margins", rung, pairs=pairs)["margins"]) if pairs else 0.0 for pairs in (ours, batched)
        )
        rows_of_ours, rows_of_batches = ({number for number, *_ in one} for one in (ours, batched))
        only_ours, only_batches = len(rows_of_ours - rows_of_batches), len(rows_of_batches - rows_of_ours)
        return {
            "rung": rung,
            "rows": len(plain),
            "ours_differ": len(ours),
            "batches_differ": len(batched),
            "only_ours_differ": only_ours,
            "only_batches_differ": only_batches,
            "odds_by_luck": odds_by_luck(only_ours, only_batches),
            "largest_margin": margin,
            "largest_margin_of_batches": margin_of_batches,
            "holds": len(ours) <= len(batched) and margin < LARGEST_MARGIN,
        }

    def _child(self, task: str, rung: str, **order: Any) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            order_file, answer_file = Path(folder) / "order.json", Path(folder) / "answer.json"
            order |= {
                "task": task,
                "rung": rung,
                "rungs": str(self._rungs),
                "model": str(self.folder),
                "answer": str(answer_file),
            }
            order_file.write_text(json.dumps(order), encoding="utf-8")
            command = [sys.executable, "-m", "generation.child", str(order_file)]
            return run_child(command, answer_file, PATIENCE_SECONDS, what=f"{rung}, {order.get('system', task)}")

    @property
    def _rungs(self) -> Path:
        return self.scratch / "rungs.json"

    def _answers(self, rung: str, system: str) -> Path:
        return self.scratch / f"{RUNGS.index(rung)}-{SYSTEMS.index(system)}.json"

    def _say(self, row: Row) -> None:
        print(
            f"round {row['round']} {row['rung']}, {row['system']}: {row['examples_per_second']:.2f} examples a second, "
            f"ours ÷ this {row[RATIO]}",
            flush=True,
        )


def odds_by_luck(only_ours: int, only_batches: int) -> float:
    """How likely it is that at least so many of the rows in which one of both differs are ours, were each as likely the other's.

    One-sided exact sign test (McNemar 1947).
    """
    both = only_ours + only_batches
    return float(binomtest(only_ours, both, alternative="greater").pvalue) if both else 1.0


def same_text(entry: Mapping[str, Any]) -> str:
    """One line on whether answers are the same."""
    if entry.get("head") == "rounded":
        kept = "as the rule wants" if entry["holds"] else "the rule does NOT hold so either"
        return (
            f"choosing by rounded logits as generate() does, {entry['ours_differ']} of our answers differ "
            f"(largest margin {entry['largest_margin']:.2f}): {kept}."
        )
    verdict = "the same but for rounding." if entry["holds"] else "NOT the same by the rule."
    return (
        f"{entry['ours_differ']} of {entry['rows']} answers differ from generate() one by one (of its own batches' "
        f"{entry['batches_differ']} do; luck alone makes ours so many {entry['odds_by_luck']:.0%} of the time), "
        f"at a margin of at most {entry['largest_margin']:.2f} logits (its batches': "
        f"{entry['largest_margin_of_batches']:.2f}): {verdict}"
    )


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "versions"}
