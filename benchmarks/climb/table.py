"""A whole climb beside the same as a script: sums of seconds, and the README's table of them. Needs nothing but Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

OURS, SCRIPT = "stepladder", "TRL and generate()"
MUST_REACH = 8.0
"""How many times faster than the script we want to be at least; 20 is the aim."""
PARTS = ("prompt", "constrained", "few-shot", "nearest", "lora")


def script_seconds(steps: Sequence[Mapping[str, Any]], rung: str | None = None) -> float:
    """Of all steps, or of one rung's."""
    return float(sum(step["seconds"] for step in steps if rung is None or step["rung"] == rung))


def raced_seconds(steps: Sequence[Mapping[str, Any]]) -> float:
    """What the script would take with only the rows that the climb asked its candidates, and only the tests it opened."""
    return float(sum(step["seconds"] * step["race_rows"] / max(1, step["rows"]) for step in steps))


def ratios(content: Mapping[str, Any]) -> dict[str, float] | None:
    """The script's seconds over the climb's, end to end and with the climb's rows only; None while something is missing."""
    if not content["climbs"] or content["missing"]:
        return None
    ours = median(one["seconds"] for one in content["climbs"])
    steps, start = content["script"], content["start_seconds"]
    return {"end_to_end": (script_seconds(steps) + start) / ours, "same_rows": (raced_seconds(steps) + start) / ours}


def climb_table(content: Mapping[str, Any]) -> str:
    """Seconds of every rung on both sides, the ratios, and where it ran. Empty while something is missing."""
    found = ratios(content)
    if found is None:
        return ""
    climb, steps = content["climbs"][-1], content["script"]
    lines = [f"| rung | {OURS} | {SCRIPT} |", "|:--|--:|--:|"]
    for rung in PARTS:
        lines.append(f"| `{rung}` | {climb['rungs'].get(rung, 0.0):,.0f} s | {script_seconds(steps, rung):,.0f} s |")
    whole = median(one["seconds"] for one in content["climbs"])
    rest = whole - sum(climb["rungs"].values())
    lines.append(
        f"| loading, checks, verdict, report; of stepladder the test rows | {rest:,.0f} s | {content['start_seconds']:,.0f} s |"
    )
    lines.append(f"| **all** | **{whole:,.0f} s** | **{script_seconds(steps) + content['start_seconds']:,.0f} s** |")
    said = (
        f"The script takes {found['end_to_end']:.1f} times as long (wanted: {MUST_REACH:g}). It asks every candidate all "
        "rows and tests every rung; with only the rows that the climb's races and tests ask, it would take "
        f"{found['same_rows']:.1f} times as long."
    )
    machine = content["climbs"][-1]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['date']}; commit {climb['commit']}; script: {versions}."
    rows = f"SNIPS, 100 training and 150 test rows, with what a climb of {climb['budget_minutes']:g} minutes tries"
    return "\n\n".join(["\n".join(lines), said, f"{rows}; {where}"])
