"""A climb decided by a model judge: refused unchecked, held against people, remembered."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from judges import fenced, judge
from small_tasks import LABELS, World, write_task
from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import DataError, PrivacyError
from stepladder.domain.protocols import Engine, Prompt
from stepladder.service.climb import Climb, climb
from stepladder.service.show import ladder_lines

SKIP = 'skip = ["classifier", "lora", "lora+constrained", "lora+nearest", "lora+rag"]'
JUDGE = """
[[graders]]
type = "label_model"
name = "kind"
model = "fake:judge"
labels = ["right", "wrong"]
passing_labels = ["right"]
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def says(prompt: Prompt) -> str:
    texts = fenced(prompt)
    return "right" if texts["sample.output_text"] == texts["item.reference"] else "wrong"


def write_judged(folder: Path, grader: str, human_grades: int = 0) -> World:
    world = write_task(folder, 40, rungs=SKIP)
    with (folder / "task.toml").open("a", encoding="utf-8") as file:
        file.write(grader)
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    grades = []
    for number, row in enumerate(rows[:human_grades]):
        answer = row["completion"] if number % 2 == 0 else next(label for label in LABELS if label != row["completion"])
        grades.append({"id": row["id"], "answer": answer, "label": "right" if number % 2 == 0 else "wrong"})
    (folder / "human.jsonl").write_text("\n".join(map(json.dumps, grades)) + "\n", encoding="utf-8")
    return world


def climb_judged(folder: Path, world: World, engine: Engine) -> Climb:
    return climb(folder, tools=replace(world.tools, judges={"fake:judge": engine}))


def test_a_judge_without_thirty_human_grades_is_refused_before_anything_is_written_or_asked(tmp_path: Path) -> None:
    engine = judge(says)
    world = write_judged(tmp_path / "task", JUDGE + 'human_grades = "human.jsonl"\n', human_grades=29)
    with pytest.raises(DataError, match="the judge 'kind' has 29 human grades and needs 30") as refused:
        climb_judged(tmp_path / "task", world, engine)
    assert "accept_uncalibrated = true" in str(refused.value)
    assert not (tmp_path / "task" / "runs").exists()
    assert engine.engine.calls == []  # type: ignore[attr-defined]


def test_a_hosted_judge_is_refused_while_the_data_may_not_leave(tmp_path: Path) -> None:
    grader = JUDGE.replace("fake:judge", "openai:some-model") + "accept_uncalibrated = true\n"
    world = write_judged(tmp_path / "task", grader)
    with pytest.raises(PrivacyError, match="'openai:some-model' is hosted.*data_may_leave"):
        climb_judged(tmp_path / "task", world, judge(says))


def test_an_accepted_uncalibrated_judge_is_called_so_in_every_report(tmp_path: Path) -> None:
    world = write_judged(tmp_path / "task", JUDGE + "accept_uncalibrated = true\n")
    finished = climb_judged(tmp_path / "task", world, judge(says))
    said = "Judge 'kind' (fake:judge) is uncalibrated: it has 0 human grades and needs 30"
    assert said in "\n".join(ladder_lines(finished.record))
    assert "is uncalibrated" in (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "is uncalibrated" in (finished.folder / "verdict.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("repeated", "said"), [(True, "1 human grades (35 more"), (False, "36 right and 0 wrong answers")])
def test_thirty_lines_of_one_answer_or_of_one_kind_check_no_judge(tmp_path: Path, repeated: bool, said: str) -> None:
    world = write_judged(tmp_path / "task", JUDGE + 'human_grades = "human.jsonl"\n', human_grades=36)
    path = tmp_path / "task" / "human.jsonl"
    right = [line for line in path.read_text(encoding="utf-8").splitlines() if '"right"' in line]
    more = [line.replace('"answer": "', '"answer": "so ') for line in right]
    path.write_text("\n".join(right[:1] * 36 if repeated else [*right, *more]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(said)):
        climb_judged(tmp_path / "task", world, judge(says))


def test_a_judge_that_agrees_with_people_no_better_than_chance_is_refused_unless_accepted(tmp_path: Path) -> None:
    def contrary(prompt: Prompt) -> str:
        return "wrong" if says(prompt) == "right" else "right"

    grader = JUDGE + 'human_grades = "human.jsonl"\n'
    world = write_judged(tmp_path / "task", grader, human_grades=36)
    with pytest.raises(DataError, match=r"'kind' agrees with people no better than chance. Cohen's kappa with people is -1\.00"):
        climb_judged(tmp_path / "task", world, judge(contrary))
    world = write_judged(tmp_path / "accepted", grader + "accept_uncalibrated = true\n", human_grades=36)
    finished = climb_judged(tmp_path / "accepted", world, judge(contrary))
    assert "is uncalibrated: it agrees with people no better than chance" in finished.record.judges[0]


def test_a_checked_judge_decides_and_its_agreement_is_reported_and_nothing_is_judged_twice(tmp_path: Path) -> None:
    world = write_judged(tmp_path / "task", JUDGE + 'human_grades = "human.jsonl"\n', human_grades=36)
    engine = judge(says)
    first = climb_judged(tmp_path / "task", world, engine)
    assert first.record.grader == "kind"
    assert "Cohen's kappa with people is 1.00 (95 % interval 1.00 to 1.00) on 36 answers." in first.record.judges[0]
    assert "care" not in first.record.judges[0]
    assert any("put to fake:judge as judge" in line for line in first.record.plan)
    assert any(rung.status is RungStatus.RAN and rung.validation is not None for rung in first.rungs)
    assert (first.folder / "task" / "human.jsonl").is_file()
    silent = judge(lambda prompt: pytest.fail("it was judged before"))
    again = climb_judged_fresh(tmp_path / "task", world, silent)
    assert [rung.validation for rung in again.rungs] == [rung.validation for rung in first.rungs]
    assert silent.engine.calls == []  # type: ignore[attr-defined]


def climb_judged_fresh(folder: Path, world: World, engine: Engine) -> Climb:
    return climb(folder, tools=replace(world.tools, judges={"fake:judge": engine}), fresh=True)
