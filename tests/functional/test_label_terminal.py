"""`stepladder label` in a real terminal, with somebody who presses keys."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from small_tasks import LABELS, SCENES, THINGS
from terminal import Screen, last_question, screen

KIND = {thing: label for label, things in THINGS.items() for thing in things}
CHOICES = r"4 tree\r\n"


def write_inputs(path: Path, count: int) -> list[str]:
    texts = [
        f"A {THINGS[LABELS[number % 4]][number // 4 % 15]} {SCENES[number * 7 % 8]} ({number * 37 % 101})."
        for number in range(count)
    ]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return texts


def write_task(folder: Path, output: str = f"labels = {json.dumps(LABELS)}", more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    text = (
        'name = "things"\ninstruction = "Say what kind of thing it is."\n[data]\nexamples = "examples.jsonl"\n'
        f'[output]\n{output}\n[model]\nbase = "fake"\n[rungs]\nskip = ["classifier"]\n{more}'
    )
    (folder / "task.toml").write_text(text, encoding="utf-8")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def key_for(question: str) -> str:
    """What a person who knows the things presses."""
    thing = question.split()[1]
    return str(LABELS.index(KIND[thing]) + 1)


def press_right(shown: Screen, count: int) -> list[str]:
    """Answer so many questions; their heads and texts, as they stood on the screen."""
    seen = []
    for _ in range(count):
        head, body = last_question(shown.until(CHOICES))
        seen.append(f"{head}\n{body}")
        shown.press(key_for(body))
    return seen


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=240)


def test_sixty_inputs_become_fifty_labelled_rows_and_a_verdict(tmp_path: Path) -> None:
    texts = write_inputs(tmp_path / "inputs.txt", 60)
    folder = write_task(tmp_path / "things")
    (folder / "examples.jsonl").write_text("", encoding="utf-8")
    refused = run("climb", folder)
    assert refused.returncode == 3
    assert "stepladder label" in refused.stderr
    with screen("label", folder, tmp_path / "inputs.txt") as shown:
        first = press_right(shown, 50)
        second = press_right(shown, 20)
        assert shown.end() == 0
        assert "50 of 50 rows are labelled" in shown.all
        assert "you gave the same answer twice on 20 of 20 rows, 100 % (84–100)" in shown.all
        assert "To show a gain of 5 points: about" in shown.all
    assert all("draft:" in question for question in first)
    assert not any("draft:" in question for question in second)  # blind
    asked_again = [question.splitlines()[1] for question in second]
    asked_first = [question.splitlines()[1] for question in first]
    assert [text for text in asked_first if text in asked_again] != asked_again  # in another order
    rows = lines(folder / "examples.jsonl")
    assert len({row["id"] for row in rows}) == 50
    assert {row["prompt"] for row in rows} <= set(texts)
    assert all(row["completion"] == KIND[row["prompt"].split()[1]] for row in rows)
    assert {row["source"] for row in rows} == {"human", "accepted"}  # some drafts were right
    assert all((row["source"] == "accepted") == (row["completion"] == "bird") for row in rows)  # the fake drafts "bird"
    climbed = run("climb", folder, "--json")
    assert climbed.returncode == 0, climbed.stderr
    record = json.loads(climbed.stdout)
    assert record["verdict"]["rung"]
    assert record["split_sizes"]["test"] == 50
    done = run("label", folder, "--json")  # nothing is left to ask: no terminal is needed
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["labelled"], summary["left"], summary["agreement"]["exact"]["value"]) == (50, 10, 1.0)


def test_nothing_is_lost_whatever_ends_it_and_the_same_command_goes_on(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 30)
    folder = write_task(tmp_path / "things")
    options = ("--count", "12", "--again", "4")
    kept: list[dict[str, Any]] = []
    for end in ("Ctrl-C", "kill -9", "closed terminal", "q"):
        file = () if kept else (tmp_path / "inputs.txt",)  # the inputs are remembered
        with screen("label", folder, *file, *options) as shown:
            assert press_right(shown, 2)[0].startswith(f"{len(kept) + 1} of 12")
            shown.until(CHOICES)  # the second answer is kept when the third question stands there
            if end == "Ctrl-C":
                shown.press("\x03")
                assert shown.end() == 130
                assert "nothing is lost" in shown.all
            elif end == "kill -9":
                shown.kill(signal.SIGKILL)
            elif end == "closed terminal":
                shown.hang_up()
            else:
                shown.press("q")
                assert shown.end() == 0
                assert "8 of 12 rows are labelled" in shown.all
        rows = lines(folder / "examples.jsonl")
        assert rows[: len(kept)] == kept
        assert len(rows) == len(kept) + 2
        kept = rows
    with screen("label", folder, *options) as shown:
        assert press_right(shown, 4 + 2)[-1].startswith("once more 2 of 4")
        shown.until(CHOICES)
        shown.kill(signal.SIGKILL)  # in the second round
    with screen("label", folder, *options) as shown:
        assert press_right(shown, 2)[0].startswith("once more 3 of 4")
        assert shown.end() == 0
    rows = lines(folder / "examples.jsonl")
    assert rows[:8] == kept
    assert len({row["prompt"] for row in rows}) == len(rows) == 12


def test_skipping_and_undoing(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 20)
    folder = write_task(tmp_path / "things")
    with screen("label", folder, tmp_path / "inputs.txt", "--count", "5", "--again", "0") as shown:
        _, skipped = last_question(shown.until(CHOICES))
        shown.press("s")
        _, regretted = last_question(shown.until(CHOICES))
        wrong = str(LABELS.index(KIND[regretted.split()[1]]) % 4 + 1)
        shown.press("4" if wrong != "4" else "3")
        shown.until(CHOICES)
        shown.press("u")
        _, back = last_question(shown.until(CHOICES))
        assert back.splitlines()[0] == regretted.splitlines()[0]
        shown.press(key_for(back))
        press_right(shown, 4)
        assert shown.end() == 0
    rows = lines(folder / "examples.jsonl")
    assert len(rows) == 5
    assert skipped.splitlines()[0] not in {row["prompt"] for row in rows}
    assert all(row["completion"] == KIND[row["prompt"].split()[1]] for row in rows)


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["kind", "note", "count", "urgent"],
    "properties": {
        "kind": {"type": "string", "enum": list(LABELS)},
        "note": {"type": ["string", "null"]},
        "count": {"type": "integer", "minimum": 1},
        "urgent": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}


def test_json_is_answered_field_by_field_and_checked(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 12)
    folder = write_task(tmp_path / "things", 'schema = "a.schema.json"')
    (folder / "a.schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    with screen("label", folder, tmp_path / "inputs.txt", "--count", "2", "--again", "1") as shown:
        shown.until("e edits it.*\r\n")
        shown.press("e")
        shown.until("4 tree\r\n")
        shown.press("2")
        shown.until("note: ")
        shown.press("wet\r")
        shown.until("count: ")
        shown.press("\x150\r")  # the schema wants 1 at least
        shown.until("1 true   2 false\r\n")
        shown.press("1")
        shown.until("tags: ")
        shown.press("[oops\r")
        shown.until("That is not JSON")
        shown.press('\x15["a"]\r')
        shown.until("That cannot be kept: .*count")
        shown.until("goes through the fields.*\r\n")
        shown.press("\r")
        shown.until("4 tree\r\n")
        shown.press("\r")  # Enter keeps what was there
        shown.until("note: wet")
        shown.press("\r")
        shown.until("count: ")
        shown.press("\x7f3\r")
        shown.until("1 true   2 false\r\n")
        shown.press("\r")
        shown.until("tags: ")
        shown.press("\r")
        shown.until("2 of 2")
        shown.until("Enter accepts the draft.*\r\n")
        shown.press("\r")
        shown.until("once more 1 of 1")
        shown.until("goes through the fields.*\r\n")
        shown.press("\r")
        shown.until("kind: 1 bird   2 fish")
        shown.press("2")
        shown.until("note: ")
        shown.press("\r")
        shown.until("count: ")
        shown.press("x\r")
        shown.until("That is not a whole number")
        shown.press("\x153\r")
        shown.until("2 false\r\n")
        shown.press("1")
        shown.until("tags: ")
        shown.press("\r")
        assert shown.end() == 0
        assert re.search(r"By json_fields, your two answers agree to", shown.all)
    first, second = lines(folder / "examples.jsonl")
    assert first["completion"] == '{"kind": "fish", "note": "wet", "count": 3, "urgent": true, "tags": ["a"]}'
    assert first["source"] == "human"
    assert second["source"] == "accepted"


def test_free_text_is_edited_on_a_line_and_pasted_line_breaks_do_not_end_it(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 8)
    folder = write_task(tmp_path / "things", "style = false")
    with screen("label", folder, tmp_path / "inputs.txt", "--count", "3", "--again", "0") as shown:
        shown.until("e edits it.*\r\n")
        shown.press("e")
        shown.until("> A ")
        shown.press("\x01Well: \x05 Größe\x1b[D\x1b[D\x7f!\x1b[F.\r")
        shown.until("2 of 3")
        shown.until("n writes anew.*\r\n")
        shown.press("n")
        shown.until("> ")
        shown.press("\x1b[200~two\r\nlines\x1b[201~ here\r")
        shown.until("3 of 3")
        shown.until("e edits it.*\r\n")
        shown.press("\r")
        assert shown.end() == 0
    rows = lines(folder / "examples.jsonl")
    assert rows[0]["completion"] == f"Well: {rows[0]['prompt']} Gr!ße."
    assert rows[1]["completion"] == "two\nlines here"
    assert [row["source"] for row in rows] == ["human", "human", "accepted"]
    assert rows[2]["completion"] == rows[2]["prompt"]  # the fake repeats the input


def test_a_longer_text_may_be_written_in_the_persons_own_editor(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 8)
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import sys, pathlib\npathlib.Path(sys.argv[1]).write_text('from the editor\\nand more\\n')\n", encoding="utf-8"
    )
    folder = write_task(tmp_path / "things", "style = false")
    arguments = ("label", folder, tmp_path / "inputs.txt", "--count", "1", "--again", "0")
    with screen(*arguments, EDITOR=f"{sys.executable} {editor}") as shown:
        shown.until("o opens your editor.*\r\n")
        shown.press("o")
        assert shown.end() == 0
    (row,) = lines(folder / "examples.jsonl")
    assert (row["completion"], row["source"]) == ("from the editor\nand more", "human")


def test_a_folder_without_a_task_becomes_one_by_four_questions(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 14)
    folder = tmp_path / "things"
    with screen("label", folder, tmp_path / "inputs.txt", "--count", "10", "--again", "0") as shown:
        shown.until("as you would tell a colleague: ")
        shown.press('Say "what" it is.\r')
        shown.until("3 free text\r\n")
        shown.press("1")
        shown.until("separated by commas: ")
        shown.press("bird, fish, tool, tree\r")
        shown.until("Model .*: ")
        shown.press("fake\r")
        press_right(shown, 10)
        assert shown.end() == 0
    assert len(lines(folder / "examples.jsonl")) == 10
    planned = run("plan", folder)
    assert planned.returncode == 0, planned.stderr


def test_a_folder_without_a_task_asks_for_json_fields(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 4)
    folder = tmp_path / "things"
    with screen("label", folder, tmp_path / "inputs.txt", "--count", "1", "--again", "0") as shown:
        shown.until("colleague: ")
        shown.press("Fill in.\r")
        shown.until("3 free text\r\n")
        shown.press("2")
        for number, field in enumerate(("kind: bird, fish", "urgent: yes/no", ""), 1):
            shown.until(f"field {number}: ")
            shown.press(f"{field}\r")
        shown.until("Model .*: ")
        shown.press("fake\r")
        shown.until("Enter accepts the draft.*\r\n")
        shown.press("\r")
        assert shown.end() == 0
    (row,) = lines(folder / "examples.jsonl")
    assert json.loads(row["completion"]) == {"kind": "bird", "urgent": False}


def test_without_a_terminal_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 12)
    refused = run("label", tmp_path / "new", tmp_path / "inputs.txt")
    assert refused.returncode == 2
    assert "stepladder init" in refused.stderr
    assert not (tmp_path / "new").exists()
    folder = write_task(tmp_path / "things")
    refused = run("label", folder, tmp_path / "inputs.txt")
    assert refused.returncode == 2
    assert "asks a person" in refused.stderr
    assert not (folder / "examples.jsonl").exists()


def test_a_teacher_answers_rows_alone_that_only_teach(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 40)
    folder = write_task(tmp_path / "things")
    rows = [json.dumps({"prompt": f"What is a {thing}?", "completion": kind}) for thing, kind in KIND.items()]
    (folder / "examples.jsonl").write_text("\n".join(rows[::5]) + "\n", encoding="utf-8")
    arguments = ("label", folder, tmp_path / "inputs.txt", "--count", "12", "--again", "0", "--teacher-rows", "9")
    assert run(*arguments).returncode == 2
    taught = run(*arguments, "--teacher", "fake:wise", "--json")
    assert taught.returncode == 0, taught.stderr
    assert json.loads(taught.stdout)["sources"]["teacher"] == 9
    assert json.loads(taught.stdout)["test_rows"] == 12
    added = lines(folder / "examples.jsonl")[12:]
    assert [(row["source"], row["completion"]) for row in added] == [("teacher", "bird")] * 9
    hosted = run("label", folder, "--count", "12", "--teacher-rows", "1", "--teacher", "openai:some-model")
    assert hosted.returncode == 2
    assert "data_may_leave" in hosted.stderr


def test_a_second_labeller_of_the_same_task_is_kept_out(tmp_path: Path) -> None:
    write_inputs(tmp_path / "inputs.txt", 12)
    folder = write_task(tmp_path / "things")
    with screen("label", folder, tmp_path / "inputs.txt") as shown:
        shown.until(CHOICES)
        refused = run("label", folder)
        assert refused.returncode == 2
        assert "another process labels" in refused.stderr
        shown.press("q")
        assert shown.end() == 0


def test_a_half_answered_table_keeps_its_answers_and_the_rest_is_asked(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "things")
    toml = (folder / "task.toml").read_text(encoding="utf-8").replace("examples.jsonl", "sheet.csv")
    (folder / "task.toml").write_text(toml, encoding="utf-8")
    texts = write_inputs(tmp_path / "inputs.txt", 16)
    cells = [f'"{text}",{KIND[text.split()[1]] if number < 9 else ""},w{number}' for number, text in enumerate(texts)]
    (folder / "sheet.csv").write_text("text,label,ward\n" + "\n".join(cells) + "\n", encoding="utf-8")
    with screen("label", folder, "--count", "14", "--again", "0") as shown:
        assert press_right(shown, 5)[0].startswith("10 of 14")
        assert shown.end() == 0
    rows = lines(folder / "sheet.labelled.jsonl")
    assert [row["prompt"] for row in rows[:9]] == texts[:9]
    assert all(row["metadata"]["ward"].startswith("w") for row in rows)
    assert {row.get("source", "given") for row in rows[:9]} == {"given"}
    assert run("plan", folder).returncode == 0
