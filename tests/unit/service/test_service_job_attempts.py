"""What one attempt at a job takes over from those before it, and by what its answers are graded."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepladder.domain.messages import Example, Input, Message, ToolCall
from stepladder.service.job_comparison import choose_grader
from stepladder.service.job_training import adopt_checkpoints


def checkpoint(place: Path, step: int, text: str = "") -> Path:
    folder = place / "adapter.checkpoints" / "digest" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_text(text or str(step))
    return folder


def attempts(tmp_path: Path, *numbers: int) -> list[Path]:
    places = [tmp_path / str(number) for number in numbers]
    for place in places:
        place.mkdir()
        (place / "training_file.jsonl").write_text("{}")
    return places


def steps(place: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in place.glob("adapter.checkpoints/*/step-*/adapter.safetensors")}


def test_the_checkpoints_of_the_attempt_before_are_taken_over_and_its_folder_goes(tmp_path: Path) -> None:
    first, second = attempts(tmp_path, 9, 10)  # by number, not by name
    checkpoint(first, 1)
    checkpoint(first, 2)
    adopt_checkpoints(second)
    assert steps(second) == {"step-000001": "1", "step-000002": "2"}
    assert not first.exists()


def test_an_attempt_that_was_killed_before_it_took_over_anything_is_passed_over(tmp_path: Path) -> None:
    first, second, third = attempts(tmp_path, 1, 2, 3)
    checkpoint(first, 1, "old")
    half = second / ".adapter.checkpoints.coming" / "digest" / "step-000001"
    half.mkdir(parents=True)
    adopt_checkpoints(third)
    assert steps(third) == {"step-000001": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_of_two_attempts_the_newer_ones_checkpoints_count(tmp_path: Path) -> None:
    first, second, third = attempts(tmp_path, 1, 2, 3)
    checkpoint(first, 1, "old")
    checkpoint(second, 5, "new")
    adopt_checkpoints(third)
    assert steps(third) == {"step-000005": "new"}


def test_what_an_earlier_attempt_still_writes_does_not_reach_the_later_one(tmp_path: Path) -> None:
    first, second = attempts(tmp_path, 1, 2)
    written = checkpoint(first, 1, "whole")
    half = written.parent / ".step-000002.x.tmp"
    half.mkdir()
    (half / "adapter.safetensors").write_text("half")
    adopt_checkpoints(second)
    assert steps(second) == {"step-000001": "whole"}
    assert not list(second.rglob(".*"))


def test_a_first_attempt_has_nothing_to_take_over(tmp_path: Path) -> None:
    (place,) = attempts(tmp_path, 1)
    adopt_checkpoints(place)
    assert [path.name for path in place.iterdir()] == ["training_file.jsonl"]


def rows(*answers: str) -> list[Example]:
    return [Example(Input.of(f"q{number}", f"r{number}"), Message("assistant", answer)) for number, answer in enumerate(answers)]


def called() -> list[Example]:
    call = ToolCall("1", "look_up", "{}")
    return [Example(Input.of("q"), Message("assistant", "", tool_calls=(call,))), *rows("text")]


@pytest.mark.parametrize(
    ("examples", "name"),
    [
        (rows(*["yes", "no"] * 6), "labels"),
        (rows('{"a": 1}', '{"a": 2}', "[1]"), "json_fields"),
        (rows('{"a": 1}', "and now some words"), "chrf"),
        (rows("1", "2", "3"), "chrf"),
        (called(), "tool_calls"),
    ],
)
def test_a_grader_follows_from_what_the_answers_look_like(examples: list[Example], name: str) -> None:
    assert choose_grader(examples).name == name
