"""The command line as a user meets it: separate processes, exit codes, what stands on stdout and stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from stepladder import __version__
from stepladder.data.bundled import NAMES

TASK = 'name = "t"\ninstruction = "Do it."\n[model]\nbase = "fake"\n[data]\nexamples = "rows.jsonl"\n'
ROW = '{{"prompt": "question number {0} about {1}", "completion": "answer {0}"}}'
WORDS = "tea rain ships bread glass winter clocks paint maps owls salt doors".split()

DESCRIBED = {f"stepladder.interfaces.cli.{name}" for name in ("main", "options", "service_commands")}
"""The files in which commands, arguments and options are described."""


def stepladder(*arguments: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"STEPLADDER_CACHE": str(cache)} if cache else {})}
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)


def loaded_by(*command: str) -> set[str]:
    """Every module that a call imports, by the interpreter's own record."""
    called = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=False)
    return {line.rsplit("|", 1)[1].strip() for line in called.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_what_describes_the_commands_and_what_reads_arguments_and_nothing_else(arguments: list[str]) -> None:
    loaded = loaded_by("-m", "stepladder.interfaces.cli.main", *arguments)
    ours = {name for name in loaded if name.split(".")[0] == "stepladder"}
    assert ours <= {"stepladder", "stepladder.interfaces", "stepladder.interfaces.cli", *DESCRIBED}
    others = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"stepladder"}
    allowed = set("typer shellingham annotated_doc typing_extensions click colorama org".split())  # org: `copy` asks for Jython
    # what stands before is no business of ours: the interpreter's own start, with whatever the environment hooks into it
    assert others - {name.split(".")[0] for name in loaded_by("-c", "pass")} <= allowed


def test_no_commands_help_loads_anything_heavy() -> None:
    code = """
import io, sys
from contextlib import redirect_stdout
from stepladder.interfaces.cli.main import app
names = [[command.name or command.callback.__name__] for command in app.registered_commands]
for arguments in [*names, ["models"], ["models", "pull"], ["models", "list"]]:
    with redirect_stdout(io.StringIO()) as shown:
        app([*arguments, "--help"], standalone_mode=False)
    assert "Usage" in shown.getvalue(), arguments
print(*sorted({name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)))
print(*sorted(name for name in sys.modules if name.startswith("stepladder.")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages, ours = (set(line.split()) for line in done.stdout.splitlines())
    models = "torch transformers peft accelerate bitsandbytes tokenizers safetensors llguidance openai fastapi uvicorn"
    sums_and_texts = "numpy scipy sacrebleu bm25s rapidfuzz jinja2 jsonschema_rs pypdf pyarrow rich"
    assert not packages & {*models.split(), *sums_and_texts.split()}
    assert ours == {"stepladder.interfaces", "stepladder.interfaces.cli", *DESCRIBED}


def test_help_and_version_say_what_there_is() -> None:
    shown = stepladder("--help")
    assert shown.returncode == 0
    names = ("demo", "label", "plan", "climb", "tune", "predict", "report", "verdict", "verify", "review", "models", "doctor")
    assert all(name in shown.stdout for name in names)
    assert stepladder("--version").stdout.strip() == f"stepladder {__version__}"


@pytest.mark.parametrize("arguments", [["climb"], ["climb", "x", "--nonsense"], ["fly"], ["demo", "nothing"]])
def test_wrong_usage_exits_2_and_says_what(arguments: Sequence[str], tmp_path: Path) -> None:
    refused = stepladder(*arguments, *(["--folder", tmp_path] if arguments[0] == "demo" else []))
    assert refused.returncode == 2
    assert "stepladder:" in refused.stderr


def test_the_help_of_demo_names_every_bundled_task() -> None:
    shown = stepladder("demo", "--help").stdout
    assert [name for name in NAMES if name not in shown] == []


def good_rows(count: int) -> str:
    return "\n".join(ROW.format(number, WORDS[number % 12]) for number in range(count)) + "\n"


BAD = {
    "not JSON": (good_rows(5) + "{not json\n", 6),
    "wrong keys": (good_rows(5) + '{"question": "a", "reply": "b"}\n', 6),
    "empty answer": (good_rows(5) + '{"prompt": "a", "completion": ""}\n', 6),
    "unknown role": ('{"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}]}\n', 1),
    "mixed shapes": (
        good_rows(5) + '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
        6,
    ),
    "latin-1": (good_rows(5).encode() + '{"prompt": "caf\u00e9", "completion": "b"}\n'.encode("latin-1"), 6),
    "byte order mark": (good_rows(60).encode("utf-8-sig"), 1),
    "UTF-16": (good_rows(5).encode("utf-16"), None),
    "NUL byte": (good_rows(5) + '{"prompt": "a\x00", "completion": "b"}\n', 6),
    "duplicate ids": ('{"id": "x", "prompt": "a", "completion": "b"}\n' * 2, 2),
    "no rows": ("", None),
    "9 rows": (good_rows(9), None),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_data_exits_3_names_the_place_and_writes_nothing(fault: str, tmp_path: Path) -> None:
    content, line = BAD[fault]
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    before = sorted(path.name for path in tmp_path.iterdir())
    refused = stepladder("climb", tmp_path)
    assert refused.returncode == 3, refused.stderr
    assert "rows.jsonl" in refused.stderr
    assert line is None or f"rows.jsonl:{line}:" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_folder_in_place_of_a_file_and_a_missing_file_exit_3(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    assert stepladder("climb", tmp_path).returncode == 3
    (tmp_path / "rows.jsonl").mkdir()
    refused = stepladder("climb", tmp_path)
    assert refused.returncode == 3
    assert "rows.jsonl" in refused.stderr


def test_a_climb_ends_with_its_table_its_json_and_answers_new_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "task.toml").write_text(TASK, encoding="utf-8")
    (folder / "rows.jsonl").write_text(good_rows(24), encoding="utf-8")
    planned = stepladder("plan", folder, "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["lines"]
    assert not (folder / "splits.json").exists()
    climbed = stepladder("climb", folder, "--json")
    assert climbed.returncode == 0, climbed.stderr
    record = json.loads(climbed.stdout)
    assert {rung["name"] for rung in record["rungs"] if rung["status"] == "ran"} >= {"baseline", "prompt", "few-shot", "nearest"}
    shown = stepladder("report", folder)
    assert shown.returncode == 0
    assert record["verdict"]["sentence"].split(".")[0] in " ".join(shown.stdout.split())
    new = tmp_path / "new.csv"
    new.write_text("input\nwhat about tea\nwhat about rain\n", encoding="utf-8")
    for expected_new in (2, 0):
        answered = stepladder("predict", folder, new, "--rung", "prompt")
        assert answered.returncode == 0, answered.stderr
        assert f"{expected_new} new" in answered.stdout
    lines = [json.loads(line) for line in (tmp_path / "new.csv.answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2
    other = stepladder("predict", folder, new, "--rung", "few-shot")
    assert other.returncode == 3
    assert "Choose another --output" in other.stderr
    assert stepladder("predict", folder, new, "--rung", "lora").returncode == 3


def write_repeated(folder: Path, right: int, target: float, instruction: str) -> None:
    """A task for the fake model, which repeats its input: it is right about as many rows as we say."""
    folder.mkdir(exist_ok=True)
    prompts = [f"question number {number} about the year of {WORDS[number % 12]}" for number in range(24)]
    rows = [{"prompt": prompt, "completion": prompt if number < right else "no"} for number, prompt in enumerate(prompts)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    graders = '[[graders]]\ntype = "normalised_match"\n'
    rest = 'accept = ["leak-prompt"]\n[rungs]\nskip = ["baseline", "few-shot", "nearest", "constrained"]\n'
    toml = TASK.replace("Do it.", instruction).replace("[model]", f"target = {target}\n{graders}[model]", 1)
    (folder / "task.toml").write_text(toml + rest, encoding="utf-8")


@pytest.mark.parametrize(
    ("outcome", "code", "right", "target", "instruction"),
    [
        ("sufficient", 0, 24, 0.8, "Repeat it."),
        ("undecided", 0, 12, 0.5, "Repeat it."),
        ("not_reached", 1, 3, 0.9, "Repeat it."),
        ("invalid", 3, 24, 0.8, "Repeat it. So: question number 3 about the year of bread."),
    ],
)
def test_the_exit_code_of_a_climb_tells_its_outcome(
    tmp_path: Path, outcome: str, code: int, right: int, target: float, instruction: str
) -> None:
    write_repeated(tmp_path, right, target, instruction)
    done = stepladder("climb", tmp_path, "--json")
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["verdict"]["outcome"] == outcome


@pytest.mark.parametrize(
    ("outcome", "right", "target"), [("sufficient", 24, 0.8), ("undecided", 12, 0.5), ("not_reached", 3, 0.9)]
)
def test_the_demo_exits_0_on_any_verdict(tmp_path: Path, outcome: str, right: int, target: float) -> None:
    """A task that lies in the demo's folder already is the one it climbs."""
    write_repeated(tmp_path / "tickets", right, target, "Repeat it.")
    done = stepladder("demo", "--folder", tmp_path / "tickets", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"]["outcome"] == outcome


def test_the_demo_exits_0_on_an_invalid_verdict_too(tmp_path: Path) -> None:
    leaking = "Repeat it. So: question number 3 about the year of bread."
    write_repeated(tmp_path / "tickets", 24, 0.8, leaking)
    done = stepladder("demo", "tickets", "--folder", tmp_path / "tickets")
    assert done.returncode == 0, done.stderr
    assert "\nVerdict: invalid" in done.stdout
    assert f"Report: {tmp_path / 'tickets' / 'runs'}" in done.stdout


def test_a_place_that_cannot_be_written_is_named_and_no_fault_of_ours(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(TASK, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(good_rows(24) + "{broken\n", encoding="utf-8")
    copy = tmp_path / "rows.fixed.jsonl"
    copy.mkdir()
    refused = stepladder("check", tmp_path, "--fix")
    assert refused.returncode == 3, refused.stderr
    assert (
        refused.stderr.splitlines()[-1] == f"stepladder: {copy}: Is a directory. Put that right and run the same command again."
    )
    copy.rmdir()
    (tmp_path / "runs").write_text("not a folder", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(good_rows(24), encoding="utf-8")
    refused = stepladder("climb", tmp_path)
    assert refused.returncode == 3, refused.stderr
    assert f"{tmp_path / 'runs'} cannot be made" in refused.stderr.splitlines()[-1]


def test_no_run_and_no_verdict_are_said(tmp_path: Path) -> None:
    refused = stepladder("report", tmp_path)
    assert refused.returncode == 3
    assert "stepladder climb" in refused.stderr


def test_doctor_tells_what_is_installed_as_json() -> None:
    checked = stepladder("doctor", "--json")
    assert checked.returncode == 0, checked.stdout
    assert {check["name"] for check in json.loads(checked.stdout)["checks"]} >= {"train", "constrained", "device", "disk"}


def tiny_task(folder: Path) -> Path:
    """A task whose base model is a tiny random one that lies in its folder."""
    from tiny_model import build_tiny_model

    build_tiny_model(folder / "model", hidden=32)
    lora = "[rungs.lora]\nepochs = 2\nlearning_rate = 0.01\n"
    (folder / "task.toml").write_text(TASK.replace('"fake"', json.dumps(str(folder / "model"))) + lora, encoding="utf-8")
    (folder / "rows.jsonl").write_text(good_rows(60), encoding="utf-8")
    return folder


@pytest.mark.starter
def test_tune_leaves_a_peft_folder_and_a_second_call_finds_it_finished(tmp_path: Path) -> None:
    task = tiny_task(tmp_path)
    first = stepladder("tune", task, "--json", "--device", "cpu")
    assert first.returncode == 0, first.stderr
    done = json.loads(first.stdout)
    folder = Path(done["folder"])
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "stepladder.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert done["steps"] > 0
    assert "Training row 1, learned between" in first.stderr
    again = stepladder("tune", task, "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert "Training row 1" not in again.stderr
    assert f"Adapter: {folder}" in again.stdout
    assert f"step {done['best_step']} of {done['steps']} kept" in again.stdout
