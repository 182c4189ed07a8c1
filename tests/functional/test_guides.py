"""The how-to guides do what they say: their commands are run in their order, with the task.toml they show."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, Reply, chat_server, completion, echo
from messages_server import MessagesServer, message
from small_tasks import write_task
from stepladder.domain.task import ModelSettings
from stepladder.service.climb import climb
from terminal import screen

pytestmark = pytest.mark.starter  # the embedder

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "how-to"
WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "peft", "accelerate", "gguf", "llguidance"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from stepladder.interfaces.cli.main import run
run()
"""
"""The command line as it is after an install without extras."""
CLAUDE = "anthropic:CLAUDE-MODEL"
DESKS = {
    "refund": "lamp kettle chair mirror toaster blanket shelf rug candle clock".split(),
    "delivery": "parcel courier van doorstep depot pallet tracking neighbour locker customs".split(),
    "other": "newsletter password catalogue voucher branch opening jobs parking brochure survey".split(),
}
ENDINGS = "since Monday|again this week|for my aunt|as promised by phone|says the letter|near the station|in the end".split("|")
MESSAGES = [
    (f"Something about the {word} {ending} ({number * 37 % 1009}).", desk)
    for number, (desk, word, ending) in enumerate(
        (desk, word, ending)
        for ending in ENDINGS
        for place in range(10)
        for desk, words in DESKS.items()
        for word in [words[place]]
    )
]


def read_guide(name: str) -> str:
    return (GUIDES / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(guide: str) -> list[list[str]]:
    """Arguments of every `stepladder` line the guide shows, in order."""
    lines = [line.split("#")[0].strip() for block in blocks(read_guide(guide), "sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("stepladder ")]


def run(folder: Path, *arguments: str, torch: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {**{name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}, **environment}
    start = ["-m", "stepladder.interfaces.cli.main"] if torch else ["-c", WITHOUT_TORCH]
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=own, timeout=240)


def must_run(folder: Path, *arguments: str, **how: Any) -> str:
    done = run(folder, *arguments, **how)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# From a spreadsheet to a verdict


def test_the_guide_from_a_spreadsheet_leads_to_answers(tmp_path: Path) -> None:
    with (tmp_path / "complaints.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("received", "message", "desk"), *(("2026-01-07", *row) for row in MESSAGES[:40])])
    with (tmp_path / "new.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("message",), ("Where is the courier?",), ("The lamp is cracked.",)])
    shown = commands("from-a-spreadsheet")
    assert [arguments[0] for arguments in shown] == ["init", "climb", "init", "check", "plan", "climb", "report", "predict"]
    for arguments in shown:
        model = ("--model", "fake") if arguments[0] == "init" else ()
        said = must_run(tmp_path, *arguments, *model)
        if arguments[0] == "init":
            assert all(words in said for words in ("message", "desk", "one of 3 labels", "Look at this", "received"))
    assert len((tmp_path / "new.csv.answers.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_the_settings_of_the_guide_go_into_the_task_that_init_wrote(tmp_path: Path) -> None:
    with (tmp_path / "complaints.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("message", "desk"), *MESSAGES[:60]])
    must_run(tmp_path, "init", "complaints", "complaints.csv", "--model", "fake")
    (block,) = blocks(read_guide("from-a-spreadsheet"), "toml")
    toml = tmp_path / "complaints" / "task.toml"
    written = toml.read_text(encoding="utf-8")
    shown = re.findall(r"^(\w+) = .*$", block, flags=re.MULTILINE)
    assert shown == ["target", "minimum_gain", "calls_per_month", "machine_usd_per_hour"]
    for line in block.splitlines():
        if " = " in line:
            written, changed = re.subn(rf"^# {line.split()[0]} = .*$", line, written, flags=re.MULTILINE)
            assert changed == 1, line
    toml.write_text(written, encoding="utf-8")
    assert re.search("show 90%", must_run(tmp_path, "plan", "complaints"))


# OpenAI and Claude only


class Desk(ChatServer):
    """Knows which desk a message belongs to, held to a schema or not."""

    def handle_chat(self, request: dict[str, Any]) -> Reply:
        super().handle_chat(request)
        text = request["messages"][-1]["content"]
        if "Say hello." in text:
            return Reply(body=echo(request))  # the probe of what it can be held to
        desk = next(desk for desk, words in DESKS.items() if any(f" {word} " in f" {text} " for word in words))
        return Reply(body=completion(json.dumps({"label": desk}) if "response_format" in request else desk))


def hosted_task(folder: Path, toml: str) -> None:
    write_jsonl(
        folder / "support-tickets" / "examples.jsonl", [{"prompt": text, "completion": desk} for text, desk in MESSAGES[:40]]
    )
    write_jsonl(folder / "new.jsonl", [{"prompt": "Something about the van again."}])
    (folder / "support-tickets" / "task.toml").write_text(toml, encoding="utf-8")


def test_the_guide_to_hosted_models_climbs_without_torch(tmp_path: Path) -> None:
    toml, _, thinking = blocks(read_guide("hosted-models-only"), "toml")
    assert ModelSettings(**tomllib.loads(thinking)["model"]).thinking_tokens > 0
    shown = commands("hosted-models-only")
    assert [arguments[0] for arguments in shown] == ["check", "plan", "climb", "predict"]
    with chat_server(Desk) as server:
        hosted_task(tmp_path, toml.replace("openai:MODEL", f"{server.url} MODEL").replace(CLAUDE, f"{server.url} CLAUDE-MODEL"))
        for arguments in shown:
            must_run(tmp_path, *arguments, torch=False)
        asked = {request["model"] for request in server.requests}
        held = {request["model"] for request in server.requests if "response_format" in request}
    assert asked == {"MODEL", "CLAUDE-MODEL"}
    assert held == {"MODEL"}  # a compared model does not climb `constrained`
    (path,) = (tmp_path / "support-tickets" / "runs").glob("*/verdict.json")
    status = {rung["name"]: rung["status"] for rung in json.loads(path.read_text(encoding="utf-8"))["record"]["rungs"]}
    for row in re.findall(r"^\| (`.*?) \| (.*) \|$", read_guide("hosted-models-only"), flags=re.MULTILINE):
        for name in re.findall(r"`([\w-]+)`", row[0]):
            if name in ("recorded", "rag") or name not in status:
                continue  # this task has neither documents nor recorded answers
            assert status[name] == ("not applicable" if "not applicable: " in row[1] else "ran"), name
    assert {f"prompt @ {server.url} CLAUDE-MODEL", f"few-shot @ {server.url} CLAUDE-MODEL"} <= set(status)
    assert "delivery" in (tmp_path / "new.jsonl.answers.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("without", "named"),
    [  # what is taken out of the task, and what the refusal names
        (r"^data_may_leave.*\n", "data_may_leave"),
        (r"^usd_per_million.*(base|1\.5)\n", "usd_per_million_prompt_tokens"),
        (r"^\[model\.prices.*\n.*\n.*\n", "usd_per_million_prompt_tokens"),
        (r"^$^", "OPENAI_API_KEY"),
    ],
)
def test_what_is_missing_for_a_hosted_model_is_named_with_the_exit_code_of_the_guide(
    tmp_path: Path, without: str, named: str
) -> None:
    page = read_guide("hosted-models-only")
    codes = dict(re.findall(r"^\| (.*?) \| (\d) \|$", page, flags=re.MULTILINE))
    word = {"data_may_leave": "data_may_leave", "OPENAI_API_KEY": "the key"}.get(named, "prices")
    (code,) = [code for what, code in codes.items() if word in what]
    toml = blocks(page, "toml")[0]
    changed = re.sub(without, "", toml, flags=re.MULTILINE)
    assert (changed == toml) == (named == "OPENAI_API_KEY")
    hosted_task(tmp_path, changed)
    refused = run(tmp_path, "climb", "support-tickets", torch=False)
    assert refused.returncode == int(code), refused.stderr
    assert named in refused.stderr
    assert not (tmp_path / "support-tickets" / "runs").exists()


def claude_desk(request: dict[str, Any]) -> Any:
    text = request["messages"][-1]["content"][-1]["text"]
    desk = next(desk for desk, words in DESKS.items() if any(f" {word} " in f" {text} " for word in words))
    return message(json.dumps({"label": desk}) if "output_config" in request else desk)


def test_claude_as_the_base_climbs_what_the_guide_shows(tmp_path: Path) -> None:
    first, claude, _ = blocks(read_guide("hosted-models-only"), "toml")
    hosted_task(tmp_path, first.split("[model]")[0] + claude)
    refused = run(tmp_path, "climb", "support-tickets", torch=False)
    assert (refused.returncode, "ANTHROPIC_API_KEY" in refused.stderr) == (4, True), refused.stderr
    with chat_server(MessagesServer) as server:
        server.answer = claude_desk
        must_run(tmp_path, "climb", "support-tickets", torch=False, ANTHROPIC_BASE_URL=server.url)
    assert any("output_config" in request for request in server.requests)


def test_a_hosted_teacher_is_priced_as_a_compared_model(tmp_path: Path) -> None:
    hosted_task(tmp_path, blocks(read_guide("hosted-models-only"), "toml")[0])
    (tmp_path / "inputs.txt").write_text("Something about the van.\nSomething about the lamp.\n", encoding="utf-8")
    alone = ("label", "support-tickets", "inputs.txt", "--count", "0", "--again", "0", "--teacher-rows", "1", "--teacher")
    refused = run(tmp_path, *alone, "openai:OTHER")
    assert (refused.returncode, "[model.prices" in refused.stderr) == (3, True), refused.stderr
    refused = run(tmp_path, *alone, CLAUDE)
    assert (refused.returncode, "ANTHROPIC_API_KEY" in refused.stderr) == (4, True), refused.stderr


def test_the_extras_shown_exist() -> None:
    known = tomllib.loads((GUIDES.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    pages = [GUIDES.parents[1] / "README.md", *GUIDES.parent.rglob("*.md")]
    shown = {extra for page in pages for extra in re.findall(r"stepladder\[([\w,]+)\]", page.read_text(encoding="utf-8"))}
    assert shown
    assert {name for extra in shown for name in extra.split(",")} <= set(known)


# Defend the verdict


def test_the_guide_that_defends_a_verdict_runs_on_a_finished_climb(tmp_path: Path) -> None:
    only_prompts = 'skip = ["baseline", "classifier", "lora", "lora+nearest", "lora+constrained"]'
    world = write_task(tmp_path / "support-tickets", 60, rungs=only_prompts)
    climb(tmp_path / "support-tickets", tools=world.tools)
    shown = commands("defend-the-verdict")
    assert {"report", "review", "check"} <= {arguments[0] for arguments in shown}
    for arguments in shown:
        if arguments[0] != "review":
            must_run(tmp_path, *arguments)
            continue
        with screen("review", tmp_path / "support-tickets") as terminal:
            terminal.until(r"1 of \d+")
            terminal.press("q")
            assert terminal.end() == 0
    (folder,) = (tmp_path / "support-tickets" / "runs").glob("*-*")
    told = set(re.findall(r"`(\w+\.(?:jsonl|json|html))`", read_guide("defend-the-verdict")))
    assert {name for name in told if not (folder / name).exists()} == {"splits.json"}  # which lies in the task
    assert (tmp_path / "support-tickets" / "splits.json").is_file()
    line = json.loads((folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {"rung", "id", "split", "score", "answer", "prompt_sha256", "model_sha256", "adapter_sha256"} <= set(line)
