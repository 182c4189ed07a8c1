"""`stepladder chat`: rung and base side by side, in a terminal and in a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scored_climb import scored_climb
from small_tasks import write_task
from stepladder.domain.errors import RunError
from stepladder.service.chat import open_chat
from stepladder.service.climb import climb
from terminal import screen

TURNS = ("A heron by the gate.", "And a perch?")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A climb by a fake model that is found by name again: it repeats what it is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("chat") / "things"
        left_out = ["baseline", "classifier", "nearest", "lora", "lora+nearest", "lora+constrained", "constrained"]
        world = write_task(folder, 130, rungs=f"skip = {json.dumps(left_out)}", model='base = "fake"')
        climb(folder, tools=world.tools)
    (path,) = (folder / "runs").iterdir()
    return path


def ask(run: Path, *options: str, turns: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", "chat", str(run), *options]
    return subprocess.run(command, input=turns, capture_output=True, text=True, check=False)


def test_every_line_of_a_pipe_is_a_turn_and_both_sides_answer_it(run: Path) -> None:
    done = ask(run, "--rung", "few-shot", turns="\n".join(TURNS) + "\n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("base: ")] == [f"base: {turn}" for turn in TURNS]
    assert sum(line.startswith("few-shot: ") for line in lines) == len(TURNS)


def test_json_says_which_weights_answered(run: Path) -> None:
    done = ask(run, "--rung", "few-shot", "--json", turns=TURNS[0] + "\n")
    [turn] = [json.loads(line) for line in done.stdout.splitlines()]
    assert turn["turn"] == TURNS[0]
    assert [answer["rung"] for answer in turn["answers"]] == ["few-shot", "base"]
    assert all(len(answer["model_sha256"]) == 64 and answer["adapter_sha256"] is None for answer in turn["answers"])


def test_in_a_terminal_both_answers_stand_side_by_side_and_the_talk_ends_by_esc(run: Path) -> None:
    with screen("chat", run, "--rung", "few-shot") as shown:
        shown.until("Esc ends")
        shown.press(TURNS[0] + "\r")
        shown.until(r"few-shot[^\n]+base")  # names are bold: between them stand codes, too
        shown.until("heron by the gate")
        shown.until("> ")
        shown.press("/new\r")
        shown.until("A new talk")
        shown.press("\x1b")
        assert shown.end() == 0


def test_ctrl_c_ends_the_talk(run: Path) -> None:
    with screen("chat", run, "--rung", "few-shot") as shown:
        shown.until("Esc ends")
        shown.press("\x03")
        assert shown.end() in (0, 130)


def test_what_was_said_is_part_of_the_next_turn_until_a_new_talk(run: Path) -> None:
    talk = open_chat(run, rung="few-shot")
    heard: list[str] = []
    base = talk.voices[1]
    base.answer("one two", heard.append)
    assert heard == ["one", " two"]
    base.answer("three", heard.append)
    assert [turn.content for turn in base.turns] == ["one two", "one two", "three", "three"]
    talk.forget()
    assert base.turns == []


def test_a_rung_that_was_not_fitted_is_named(run: Path) -> None:
    with pytest.raises(RunError, match="no fitted rung 'lora'"):
        open_chat(run, rung="lora")
    with pytest.raises(RunError, match="recorded answers cannot talk"):
        open_chat(run, rung="recorded")


@pytest.mark.starter
def test_a_turn_without_an_answer_says_why_and_is_no_part_of_the_talk(tmp_path: Path) -> None:
    turns = "\n".join(["A heron by the gate.", "And a perch?", "And a trout?"]) + "\n"
    with scored_climb(tmp_path / "things", rate=1.0) as scene:
        answer = scene.server.answer
        scene.server.answer = lambda request: {} if "perch" in request["messages"][-1]["content"] else answer(request)
        plain = ask(scene.run, "--rung", "prompt", turns=turns)
        asked = [turn["content"] for turn in scene.server.requests[-1]["messages"] if turn["role"] == "user"]
        as_json = ask(scene.run, "--rung", "prompt", "--json", turns=turns)
    assert plain.returncode == 0, plain.stderr
    lost = [line for line in plain.stdout.splitlines() if "no answer" in line]
    assert [line.partition(":")[0] for line in lost] == ["prompt", "base"]
    assert all("did not answer in its protocol's shape" in line for line in lost)
    assert sum("heron" in text for text in asked) == 1
    assert not any("perch" in text for text in asked)
    answers = [json.loads(line)["answers"] for line in as_json.stdout.splitlines()]
    assert [[bool(one["fault"]) for one in both] for both in answers] == [[False, False], [True, True], [False, False]]
    assert all(bool(one["answer"]) != bool(one["fault"]) for both in answers for one in both)
