"""The reference pages, written from the code: `python -m stepladder.interfaces.cli.reference DIR`.

With `--check` nothing is written; exit code 1 names the pages that are out of date. Equal code gives equal pages.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from stepladder.data.checks.finding import Check
from stepladder.data.checks.registry import CHECKS, NEEDS
from stepladder.domain import errors
from stepladder.domain.grader_settings import JudgeMessage, SamplingParams
from stepladder.domain.task import DataSettings, GraderSettings, OutputSettings, Settings, TaskSettings
from stepladder.files import write_text
from stepladder.interfaces import exit_codes
from stepladder.interfaces.cli.main import app
from stepladder.service.serving.serve_file import ServeSettings
from stepladder.techniques.ladder import LADDER

HEAD = "<!-- Written by `make docs` from the code; change the code, not this page. -->"

PLAIN_TYPES = {str: "text", Path: "path", int: "whole number", float: "number", bool: "true or false"}
BOUNDS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))

EXIT_MEANINGS = {
    "OK": "Done. For `climb`: a verdict, or undecided. For `demo`: any verdict.",
    "TARGET_NOT_REACHED": "`climb`: no rung reaches the target. `score`: below the target, or worse than recorded.",
    "USAGE": "The command, or what it was asked, does not make sense here.",
    "DATA": "The task, its data, or a run cannot be used; for `check`, a finding blocks.",
    "ENGINE": "A model or a server failed. For `doctor`: something that a climb needs is missing.",
    "BUDGET": "The money or time allowed is used up.",
    "OUR_FAULT": "A fault in Stepladder itself.",
    "INTERRUPTED": "Stopped from outside; the same command continues.",
}
"""What each constant of `interfaces/exit_codes.py` tells a script."""

OUTPUT_SHAPES = {
    "`schema`": OutputSettings(json_schema="answer.schema.json"),
    "`labels`": OutputSettings(labels=("yes", "no")),
    "`regex`": OutputSettings(regex="[a-z]+"),
    "none of them (free text)": OutputSettings(),
}
"""One example of each shape an output may have, to ask which grader it gets."""


# Commands -------------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments and options."""
    root: Any = typer.main.get_command(app)
    parts = ["# Commands", str(root.help), _table(["option", "type", "default", "what"], _options(root))]
    for path, command in walk_commands():
        arguments = [
            [_code(parameter.name.upper()), *_type_and_default(command, parameter), _cell(parameter.help)]
            for parameter in command.params
            if parameter.param_type_name == "argument"
        ]
        parts += [f"## `stepladder {path}`", str(command.help)]
        if arguments:
            parts.append(_table(["argument", "type", "default", "what"], arguments))
        options = _options(command)
        if options:
            parts.append(_table(["option", "type", "default", "what"], options))
    parts.append("Every command takes `--help`. Progress goes to stderr, results to stdout. See also [exit codes](errors.md).")
    return _page(parts)


def walk_commands() -> Iterator[tuple[str, Any]]:
    """(words after `stepladder`, command) of everything that can be run, in the order of `--help`."""
    yield from _walk(typer.main.get_command(app), "")


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from _walk(child, f"{path} {name}".strip())


def _options(command: Any) -> list[list[str]]:
    return [
        [", ".join(map(_code, parameter.opts)), *_type_and_default(command, parameter), _cell(parameter.help)]
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden and parameter.name not in _OF_TYPER
    ]


_OF_TYPER = ("help", "install_completion", "show_completion")


def _type_and_default(command: Any, parameter: Any) -> tuple[str, str]:
    hints = get_type_hints(inspect.unwrap(command.callback))
    if getattr(parameter, "is_flag", False):
        return "switch", "off"
    least = getattr(parameter, "min", None)
    kind = _type_text(hints[parameter.name]) + (f" ≥ {least:g}" if least is not None else "")
    if parameter.required:
        return kind, "required"
    return kind, "" if parameter.default is None else _code(_value_text(parameter.default))


# Settings -------------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every key of `task.toml`, and of `serve.toml`."""
    parts = [
        "# Settings: `task.toml`",
        "A task is a folder with a `task.toml`. Names of files are relative to that folder. A key nobody knows is an error.",
    ]
    for heading, model in settings_tables():
        parts += [f"## {heading}", _after_name(_prose(inspect.getdoc(model))), _fields_table(model)]
        if model is DataSettings:
            parts.append("Give either `examples`, or `train` with `test`.")
        if model is OutputSettings:
            parts.append("Give at most one of `schema`, `labels` and `regex`.")
    parts += ["## `[[graders]]`", "The first decides, the rest are reported. Each has a `type`: see [graders](graders.md)."]
    parts += ["## `serve.toml`", _after_name(_prose(inspect.getdoc(ServeSettings))), _fields_table(ServeSettings)]
    return _page(parts)


def settings_tables(model: type[Settings] = TaskSettings, path: str = "") -> Iterator[tuple[str, type[Settings]]]:
    """(heading, model) of the file's top and of every table in it; graders have a page of their own."""
    yield (f"`[{path}]`" if path else "Top of the file"), model
    for name, field in model.model_fields.items():
        inner = f"{path}.{name}" if path else name
        annotation: Any = field.annotation
        if _is_settings(annotation):
            yield from settings_tables(annotation, inner)
        elif get_origin(annotation) is tuple and _is_settings(get_args(annotation)[0]):
            yield f"`[[{inner}]]`", get_args(annotation)[0]
        elif _is_settings_by_name(annotation):
            yield f'`[{inner}."NAME"]`', get_args(annotation)[1]


def _fields_table(model: type[Settings]) -> str:
    rows = [
        [_code(field.alias or name), _field_type(field), _field_default(field), _cell(field.description)]
        for name, field in model.model_fields.items()
    ]
    return _table(["key", "type", "default", "what"], rows)


def _field_type(field: FieldInfo) -> str:
    if _is_settings(field.annotation):
        return "table"
    if _is_settings_by_name(field.annotation):
        return "tables"
    bounds = [f"{sign} {getattr(rule, name):g}" for rule in field.metadata for name, sign in BOUNDS if hasattr(rule, name)]
    return " ".join([_type_text(field.annotation), ", ".join(bounds)]).strip()


def _field_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None or field.default_factory is not None or field.default == ():
        return ""
    return _code(_value_text(field.default))


def _is_settings(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _is_settings_by_name(annotation: Any) -> bool:
    return get_origin(annotation) is dict and _is_settings(get_args(annotation)[1])


# Errors, rungs, graders -----------------------------------------------------------------------------------------------


def errors_page() -> str:
    """Exit codes, and every error a user may see."""
    codes = [[str(code), EXIT_MEANINGS[name]] for name, code in exit_constants()]
    classes = [[_code(kind.__name__), str(_code_of(kind)), _cell(_prose(inspect.getdoc(kind)))] for kind in error_classes()]
    return _page(
        [
            "# Errors and exit codes",
            "An error says where, what is wrong, and what to do. From Python it is an exception of `stepladder.domain.errors`; "
            "on the command line it is one line on stderr and an exit code. "
            "`STEPLADDER_DEBUG=1` shows the whole traceback instead.",
            "## Exit codes",
            _table(["code", "meaning"], codes),
            "## Errors",
            _table(["error", "exit code", "when"], classes),
        ]
    )


def exit_constants() -> list[tuple[str, int]]:
    """Names and values of the exit codes, by value."""
    found = [(name, value) for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)]
    return sorted(found, key=lambda pair: pair[1])


def error_classes() -> list[type[errors.StepladderError]]:
    """Every error class in the order of its file."""
    found = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in found if issubclass(kind, errors.StepladderError)]


def _code_of(kind: type[errors.StepladderError]) -> int:
    return next((code for known, code in exit_codes.EXIT_CODES.items() if issubclass(kind, known)), exit_codes.OUR_FAULT)


def rungs_page() -> str:
    """Every rung in the order of climbing."""
    rows = [[str(number), _code(rung.name), "yes" if rung.tuned else "no"] for number, rung in enumerate(LADDER, start=1)]
    parts = [
        "# Rungs",
        "In the order of climbing. [The ladder](../explanation/ladder.md) says more about each; `[rungs] skip` leaves some out.",
        _table(["", "rung", "trains weights"], rows),
    ]
    for rung in LADDER:
        module = sys.modules[type(rung).__module__]
        parts += [f"## `{rung.name}`", _after_name(_prose(inspect.getdoc(module))), _prose(inspect.getdoc(type(rung)))]
    return _page(parts)


def graders_page() -> str:
    """Every grader with its settings, and the ones used when the task names none."""
    parts = [
        "# Graders",
        "A grader gives every answer a score from 0 to 1, or leaves it ungraded and says why. Ungraded is never a zero.",
    ]
    for model in get_args(get_args(GraderSettings)[0]):
        parts += [f"## `{model.model_fields['type'].default}`", _prose(inspect.getdoc(model)), *_grader_table(model)]
    for title, inner in (("`input` of a model judge", JudgeMessage), ("`sampling_params` of a model judge", SamplingParams)):
        parts += [f"## {title}", _prose(inspect.getdoc(inner)), *_grader_table(inner)]
    defaults = [[shape, _code(_default_grader(output))] for shape, output in OUTPUT_SHAPES.items()]
    calls = "Where some of the references are tool calls, `tool_calls` decides instead."
    return _page([*parts, "## Without `[[graders]]`", _table(["`[output]` has", "grader"], defaults), calls])


def _grader_table(model: type[Settings]) -> list[str]:
    rows = [
        [_code(name), _field_type(field), _field_default(field), _cell(field.description)]
        for name, field in model.model_fields.items()
        if name != "type"
    ]
    return [_table(["key", "type", "default", "what"], rows)] if rows else []


def _default_grader(output: OutputSettings) -> str:
    settings = TaskSettings(name="probe", instruction="probe", data=DataSettings(examples="probe.jsonl"), output=output)
    return settings.decided_graders()[0].type


def checks_page() -> str:
    """Every data check: its code, what it finds, what it needs."""
    rows = [[_code(check.code), _cell(check.what), _cell(_parts(check))] for check in CHECKS]
    return _page(
        [
            "# Data checks",
            "`stepladder check` runs all of them, and `climb` before anything else. "
            "[Data checks](../explanation/data-checks.md) says how grave each kind is and why. "
            "A finding that blocks ends `check` and `climb` with exit code 3, unless `[data] accept` names its code.",
            _table(["code", "finds", "not run without"], rows),
        ]
    )


def _parts(check: Check) -> str:
    more = [f"sees more with {NEEDS[part]}" for part in check.sharper_with]
    return "; ".join([*(NEEDS[part] for part in check.needs), *more])


# Words and tables -----------------------------------------------------------------------------------------------------


def _type_text(annotation: Any) -> str:
    """A type in words; None is left out, since the default says it."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(inside[0])
    if origin is Literal:
        return " or ".join(_code(str(one)) for one in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_text(one) for one in inside if one is not type(None)))
    if origin is dict:
        return "texts by name" if inside[1] is str else "tables by name"
    if origin is list:
        return f"{_type_text(inside[0])}, repeatable"
    if origin is tuple:
        return "list of tables" if inside[0] not in PLAIN_TYPES else f"list of {PLAIN_TYPES[inside[0]]}s"
    return PLAIN_TYPES[annotation]


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _prose(text: str | None) -> str:
    """A docstring with every paragraph on one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))


def _after_name(text: str) -> str:
    """A docstring without the name it begins with, which stands in the heading: "`[data]`: where …" is "Where …"."""
    _, colon, rest = text.partition("`: ")
    return rest[0].upper() + rest[1:] if colon else text


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [headers, ["---"] * len(headers), *rows])


def _page(parts: Sequence[str]) -> str:
    return "\n\n".join([HEAD, *(part for part in parts if part)]) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "errors.md": errors_page,
    "rungs.md": rungs_page,
    "graders.md": graders_page,
    "checks.md": checks_page,
}


def stale_pages(folder: Path) -> list[Path]:
    """Pages in `folder` that are missing or say something else than the code."""
    paths = {folder / name: build for name, build in PAGES.items()}
    return [path for path, build in paths.items() if not path.is_file() or path.read_text(encoding="utf-8") != build()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the pages lie")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    options = parser.parse_args(arguments)
    if options.check:
        stale = stale_pages(options.folder)
        for path in stale:
            print(f"{path}: out of date; run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    for name, build in PAGES.items():
        write_text(options.folder / name, build())
    return 0


if __name__ == "__main__":
    sys.exit(main())
