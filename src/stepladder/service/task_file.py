"""A `task.toml` written for a person: every guess with its reason beside it, and the settings worth knowing as comments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepladder.domain.task import BudgetSettings, ModelSettings, Settings, TaskSettings, UseSettings

LONGEST_LINE = 110
OFFERED: tuple[tuple[str, type[Settings], tuple[tuple[str, Any], ...]], ...] = (
    ("use", UseSettings, (("calls_per_month", 1000), ("machine_usd_per_hour", 0.4), ("data_may_leave", False))),
    ("budget", BudgetSettings, (("minutes", 30),)),
)
"""Settings shown as comments, with the value they are shown with; their own descriptions say what they do."""


@dataclass(frozen=True, slots=True)
class TaskText:
    """What goes into the file. `data` by key; `why` by key of any table, one line each; `above` stands over the instruction."""

    name: str
    heading: Sequence[str]  # comment lines
    instruction: str
    above: str
    data: Mapping[str, str]
    graders: Sequence[str]
    why: Mapping[str, str]
    schema: str | None = None
    labels: Sequence[str] = ()
    model: str | None = None


def write_toml(task: TaskText) -> str:
    """The whole file."""
    lines = [
        *(f"# {_words(line)}" for line in task.heading),
        "# The settings page of the docs has every key.",
        f"name = {toml_text(task.name)}",
        "",
        *([f"# {_words(task.above)}"] if task.above else []),
        f"instruction = {toml_paragraph(task.instruction)}",
        *_offer(TaskSettings, (("target", 0.85), ("minimum_gain", 0.03))),
        "",
        "[data]",
    ]
    for key, value in task.data.items():
        lines += _setting(key, toml_text(value), task.why.get(key, ""))
    lines += ["", "[output]", *_output(task), ""]
    for number, grader in enumerate(task.graders):
        lines += ["[[graders]]", f"type = {toml_text(grader)}  # {'decides' if number == 0 else 'is reported'}", ""]
    lines.append("[model]")
    if task.model is not None:
        lines.append(f"base = {toml_text(task.model)}")
    else:
        lines += _offer(ModelSettings, (("base", ModelSettings().base),))
    for table, settings, keys in OFFERED:
        lines += ["", f"[{table}]", *_offer(settings, keys)]
    return "\n".join(lines) + "\n"


def toml_text(text: str) -> str:
    """A TOML basic string; JSON's escapes are TOML's, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_paragraph(text: str) -> str:
    """A string over several lines where the text has several."""
    if "\n" not in text:
        return toml_text(text)
    return '"""\n' + "\n".join(toml_text(line)[1:-1] for line in text.split("\n")) + '"""'


def _output(task: TaskText) -> list[str]:
    why = task.why.get("output", "")
    if task.schema is not None:
        return _setting("schema", toml_text(task.schema), why)
    if task.labels:
        listed = f"[{', '.join(toml_text(label) for label in task.labels)}]"
        if len(listed) > LONGEST_LINE:
            listed = "[\n" + "".join(f"    {toml_text(label)},\n" for label in task.labels) + "]"
        return _setting("labels", listed, why)
    return [
        f"# Free text: {_words(why)}.",
        '# For a closed list: labels = ["…"]. For JSON: schema = "file.json". Or: regex = "…".',
    ]


def _setting(key: str, value: str, why: str) -> list[str]:
    """One setting, its reason in a comment above it."""
    return [*([f"# {_words(why[:1].upper() + why[1:])}."] if why else []), f"{key} = {value}"]


def _offer(settings: type[Settings], keys: Sequence[tuple[str, Any]]) -> list[str]:
    return [f"# {key} = {json.dumps(value)}  # {settings.model_fields[key].description}" for key, value in keys]


def _words(text: str) -> str:
    """Text that may stand in a comment: one line, no control characters."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
