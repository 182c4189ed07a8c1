"""The README's table of the server under load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.promises import PROMISES, Promise

FORMATS = {"s": "{:.0f} ms", "%": "{:.1f} %", "x": "{:.1f} x"}
SCALE = {"s": 1000.0, "%": 100.0, "x": 1.0}


def serving_table(content: Mapping[str, Any]) -> str:
    """One line a promise that was measured, then those that do not hold, then where it ran."""
    rows: Sequence[Mapping[str, Any]] = content["measurements"]
    found = {row["name"]: row for row in rows}
    names = [name for name in PROMISES if name in found]
    if not names:
        return ""
    lines = ["| under load | measured | promised |", "| :-- | --: | --: |"]
    short = []
    for name in names:
        promise, value = PROMISES[name], float(found[name]["value"])
        measured = shown(value, promise.unit)
        lines.append(f"| {promise.what} | {measured} | {_bound(promise)} |")
        if not promise.holds(value):
            short.append(f"- Falls short: {promise.what}: {measured} instead of {_bound(promise)}.")
    return "\n\n".join(["\n".join(lines), *(["\n".join(short)] if short else []), _where(content["machine"])])


def shown(value: float, unit: str) -> str:
    """A figure as people read it; `unit` as in `Promise`."""
    return FORMATS[unit].format(SCALE[unit] * value)


def _bound(promise: Promise) -> str:
    return f"{'at least' if promise.at_least else 'below'} {shown(promise.bound, promise.unit)}"


def _where(machine: Mapping[str, Any]) -> str:
    commit = machine["commit"] + (" with local changes" if machine["dirty"] else "")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Client, server and worker share {machine['cores']} cores of {machine['cpu']}; {machine['model']}, commit {commit}, "
        f"{machine['date']}; {versions}."
    )
