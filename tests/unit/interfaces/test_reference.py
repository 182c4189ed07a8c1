"""The docs say what the code does: generated pages are current, nothing is missing, links and shown commands are real."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import stepladder
from stepladder.domain import errors
from stepladder.domain.task import TaskSettings
from stepladder.interfaces import exit_codes
from stepladder.interfaces.cli import reference
from stepladder.interfaces.cli.main import app
from stepladder.interfaces.pytest_plugin import Scoring
from stepladder.service.serving.serve_file import ServeSettings
from stepladder.techniques.ladder import LADDER

REPOSITORY = Path(__file__).resolve().parents[3]
DOCS = REPOSITORY / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
README_SECTIONS = (
    "The verdict",
    "Two commands",
    "Quick start on your own data",
    "How it decides",
    "File tree",
    "How to change it",
)
README_TABLES = ("What won where", "Results on public data")
README_FURTHER = (*README_TABLES, "OpenAI's API on your own machine")  # between how it decides and the file tree
TABLE_OF_LOG = ("snips", "disfluent-qa", "tickets-60")

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """What stands in the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def sections(text: str) -> dict[str, str]:
    """Second-level headings with what stands below them."""
    parts = re.split(r"^## (.+)$", without_blocks(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_generated_pages_are_current() -> None:
    assert reference.stale_pages(REFERENCE) == [], "run `make docs`"


def test_equal_code_gives_equal_pages_and_check_finds_them_current(tmp_path: Path) -> None:
    assert reference.main([str(tmp_path)]) == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == set(reference.PAGES)
    assert reference.main([str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert reference.main(["--check", str(tmp_path)]) == 0


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_check_names_the_stale_page_and_writes_nothing(tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    reference.main([str(tmp_path)])
    page = tmp_path / "settings.md"
    if harm == "changed":
        page.write_text(read(page).replace("minimum_gain", "least_gain"), encoding="utf-8")
    else:
        page.unlink()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert reference.main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "settings.md" in said
    assert "commands.md" not in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_every_command_has_a_section_with_all_its_arguments_and_options() -> None:
    found = sections(read(REFERENCE / "commands.md"))
    commands = dict(all_commands())
    assert {"demo", "plan", "climb", "predict", "report", "doctor", "models pull", "models list"} <= set(commands)
    assert {f"`stepladder {path}`" for path in commands} == set(found)
    for path, command in commands.items():
        section = found[f"`stepladder {path}`"]
        assert command.help in section
        for parameter in command.params:
            names = [parameter.name.upper()] if parameter.param_type_name == "argument" else parameter.opts
            assert all(f"`{name}`" in section for name in names), f"{path}: {names}"
            assert parameter.help.replace("|", "\\|") in section


def test_every_setting_stands_under_its_table_with_its_description() -> None:
    found = sections(read(REFERENCE / "settings.md"))
    graders = read(REFERENCE / "graders.md")
    schema = TaskSettings.model_json_schema(by_alias=True)
    seen = 0
    for place, key, description in setting_keys(schema, schema, ""):
        text = graders if place == "`[[graders]]`" else found[place]
        assert f"| `{key}` |" in text, f"{place} {key} is missing"
        assert description in text, f"{place} {key} is not described"
        seen += 1
    assert seen > 40


def test_every_key_of_the_servers_file_is_described() -> None:
    section = sections(read(REFERENCE / "settings.md"))["`serve.toml`"]
    for key, field in ServeSettings.model_fields.items():
        assert f"| `{key}` |" in section
        assert str(field.description) in section


def setting_keys(schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    """(heading, key, description) by pydantic's own JSON Schema, another way than the generator goes."""
    heading = f"`[{path}]`" if path else "Top of the file"
    for key, value in schema["properties"].items():
        yield heading, key, value["description"]
        inner = f"{path}.{key}" if path else key
        for reference_ in re.findall(r"#/\$defs/(\w+)", json.dumps(value)):
            target = root["$defs"][reference_]
            if value.get("type") == "array":
                for own, field in target["properties"].items():
                    if own != "type":
                        yield f"`[[{inner}]]`", own, field["description"]
            elif "additionalProperties" in value:
                for own, field in target["properties"].items():
                    yield f'`[{inner}."NAME"]`', own, field["description"]
            else:
                yield from setting_keys(target, root, inner)


def test_every_error_class_and_exit_code_is_listed() -> None:
    text = read(REFERENCE / "errors.md")
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.StepladderError)]
    assert len(classes) >= 10
    for kind in classes:
        built = kind.__new__(kind)
        assert f"| `{kind.__name__}` | {exit_codes.exit_code(built)} |" in text
        assert kind.__doc__, f"{kind.__name__} has no docstring"
    for _, code in reference.exit_constants():
        assert f"| {code} | " in text


def test_every_rung_stands_in_order_in_the_reference_and_has_a_section_in_the_explanation() -> None:
    names = [f"`{rung.name}`" for rung in LADDER]
    assert list(sections(read(REFERENCE / "rungs.md"))) == names
    explained = [heading for heading in sections(read(DOCS / "explanation" / "ladder.md")) if heading in names]
    assert explained == names


def test_every_environment_variable_of_ours_is_documented() -> None:
    code = "".join(read(path) for path in (REPOSITORY / "src").rglob("*.py"))
    variables = set(re.findall(r"\bSTEPLADDER_[A-Z_]+\b", code))
    assert len(variables) >= 4
    page = read(DOCS / "how-to" / "models-and-machine.md")
    assert [name for name in sorted(variables) if f"| `{name}` |" not in page] == []


@by_name
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_blocks(read(page)))
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Anchors as GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(read(page)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_docs_is_reached_from_the_index() -> None:
    index = read(DOCS / "index.md")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page.name != "index.md"]
    assert [page for page in pages if f"({page})" not in index] == []


def test_the_readme_is_one_sentence_and_then_its_sections_in_their_order() -> None:
    text = read(REPOSITORY / "README.md")
    assert tuple(sections(text)) == (*README_SECTIONS[:4], *README_FURTHER, *README_SECTIONS[4:])
    opening = re.split(r"^## ", text, flags=re.MULTILINE)[0].removeprefix("# Stepladder").strip()
    assert opening.startswith("Stepladder ")
    assert opening.endswith(".")
    assert not re.search(r"[.!?]\s", opening)
    assert "<!-- table:demo -->" in sections(text)["The verdict"]
    assert re.search(r"```sh\nmake demo .*\nmake test .*\n```", text)
    assert all("<!-- table:" in sections(text)[name] for name in README_TABLES)


def test_every_room_stands_in_the_readmes_file_tree() -> None:
    tree = read(REPOSITORY / "README.md").split("## File tree")[1]
    rooms = [path.name for path in (REPOSITORY / "src" / "stepladder").iterdir() if (path / "__init__.py").exists()]
    assert [room for room in rooms if f"\n  {room}/ " not in tree] == []


@pytest.mark.parametrize("name", TABLE_OF_LOG)
def test_the_log_has_a_place_for_each_table(name: str) -> None:
    text = read(DOCS / "log.md")
    assert text.count(f"<!-- table:real:{name} -->") == text.count(f"<!-- /table:real:{name} -->") == 1


@by_name
def test_the_commands_shown_exist_with_their_options(page: Path) -> None:
    commands = dict(all_commands())
    for line in shell_lines(read(page)):
        words = line.split("#")[0].split(">")[0]
        found = re.match(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?stepladder (.*)", words)
        if found is None:
            continue
        arguments = shlex.split(found.group(1))
        path = next((path for path in commands if arguments[: len(path.split())] == path.split()), None)
        assert path is not None, line
        known = {option for parameter in commands[path].params for option in parameter.opts}
        assert [word for word in arguments if word.startswith("-") and word not in known] == [], line


@by_name
def test_the_make_targets_shown_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", read(REPOSITORY / "Makefile"), flags=re.MULTILINE))
    shown = [line.split()[1] for line in shell_lines(read(page)) if line.startswith("make ")]
    assert [target for target in shown if target not in targets] == []


def shell_lines(text: str) -> list[str]:
    return [line.strip() for block in blocks(text, "sh") for line in block.splitlines() if line.strip()]


@by_name
def test_the_pieces_of_task_toml_and_serve_toml_shown_are_valid(page: Path) -> None:
    for block in blocks(read(page), "toml"):
        shown = tomllib.loads(block)
        if shown.keys() <= ServeSettings.model_fields.keys():
            ServeSettings.model_validate(shown)
            continue
        TaskSettings.model_validate({"name": "x", "instruction": "x", "data": {"examples": "x.jsonl"}, **shown})


@by_name
def test_the_python_shown_compiles_and_uses_public_names(page: Path) -> None:
    for block in blocks(read(page), "python"):
        compile(block, str(page), "exec")
        names = re.findall(r"\bstepladder\.(\w+)", block)
        assert [name for name in names if name not in (*stepladder.__all__, *vars(Scoring))] == []


@by_name
def test_the_json_shown_is_json(page: Path) -> None:
    for block in blocks(read(page), "json"):
        for line in block.splitlines():
            assert isinstance(json.loads(line), dict)


@by_name
def test_no_page_names_an_index_or_a_path_of_some_machine(page: Path) -> None:
    assert not re.search(r"/home/|/tmp/|pypi\.|download\.pytorch", read(page))


def all_commands() -> Iterator[tuple[str, Any]]:
    """(words after `stepladder`, command), walked here once more."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", child) for inner, child in command.commands.items())
        else:
            yield name, command


def test_every_formula_that_names_a_source_has_it_in_the_list_and_every_source_is_used() -> None:
    text, sources = read(DOCS / "explanation" / "how-it-decides.md").split("## Sources\n")
    surname = r"[A-Z][A-Za-zé]+"
    cited = set(re.findall(rf"({surname})(?:(?:, | and ){surname})* (\d{{4}})\b", text))
    listed = {
        (re.findall(surname, line.split(" (")[0].split(" and ")[0].split(", ")[0])[-1], line.split("(")[1][:4])
        for line in sources.strip().splitlines()
    }
    assert cited == listed
    assert len(listed) == len(sources.strip().splitlines()) >= 15
