"""The bundled task `voice`, cut short, climbed with its style grader over an engine whose success is known."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from stepladder.data.bundled import copy_bundled
from stepladder.data.readers import read_examples
from stepladder.domain.climb import GradedRow
from stepladder.domain.errors import EvaluationError
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Prediction, Score
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.domain.task import Task
from stepladder.domain.verdict import Outcome
from stepladder.engines.fake import FakeEngine
from stepladder.evaluation.graders import build_graders
from stepladder.service.climb import Climb, climb
from stepladder.service.rung_run import Marker
from stepladder.service.setup import Tools
from stepladder.service.style import fitted_marker, load_style
from stepladder.service.verify import verify
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.fake import FakeEmbedder, FakeTuner


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def cut_of_voice(folder: Path, rows: int) -> dict[str, str]:
    """The task's first rows; returns what each input should become."""
    copy_bundled("voice", folder)
    path = folder / "examples.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {row["prompt"]: row["completion"] for row in map(json.loads, lines)}


def climb_with(folder: Path, wanted: dict[str, str], *, zero_shot: float, shown: float, tuned: float) -> Climb:
    """An engine that hits the voice with these chances, and else repeats the input."""

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        text = next((text for text in wanted if text in prompt.messages[-1].content), "")
        demonstrations = any(message.role == "assistant" for message in prompt.messages)
        chance = tuned if adapter is not None else shown if demonstrations else zero_shot
        luck = int(hashlib.sha256(f"{text}{chance}".encode()).hexdigest()[:8], 16) / 2**32
        return wanted[text] if luck < chance and text else text

    return climb(folder, tools=Tools(FakeEngine(answer), FakeTuner(), FakeEmbedder()))


def test_the_style_grader_decides_is_kept_in_the_run_and_grades_again_without_a_model(tmp_path: Path) -> None:
    wanted = cut_of_voice(tmp_path / "voice", 124)
    finished = climb_with(tmp_path / "voice", wanted, zero_shot=0.0, shown=0.4, tuned=0.95)
    assert finished.record.grader == "style"
    assert finished.verdict.outcome is Outcome.SUFFICIENT
    assert finished.verdict.rung is not None
    assert finished.verdict.rung.startswith("lora")
    metrics = {rung.name: rung.metrics for rung in finished.rungs}
    tuned, plain = metrics[finished.verdict.rung], metrics["prompt"]
    assert plain["test/style_auc"] > 0.9 > 0.6 > tuned["test/style_auc"]
    assert plain["test/style_auc_p"] < 0.01
    assert 0 < tuned["test/chrf"] <= 1
    assert tuned["test/style_cross_validated_auc"] >= 0.8
    run = RunFolder.open(finished.folder)
    task = Task.load(run.task_folder)
    model = load_style(run, None)
    assert model is not None
    marker = fitted_marker(Marker(build_graders(task)), model)
    examples = {example.id: example for example in read_examples(task).examples}
    rows = run.read_rows()
    assert [row.score for row in rows] == [score_again(marker, examples[row.id], row) for row in rows]
    assert "style auc" in run.report_path.read_text(encoding="utf-8")
    assert "References are told from its test answers with AUC" in str(finished)
    assert verify(finished.folder).differences == ()


def score_again(marker: Marker, example: Example, row: GradedRow) -> float | None:
    grade = marker.grade(example, Prediction(example.id, row.answer))
    return 0.0 if row.cut else grade.value if isinstance(grade, Score) else None


def test_in_folds_each_fit_sees_its_own_training_part_only(tmp_path: Path) -> None:
    wanted = cut_of_voice(tmp_path / "voice", 60)
    with (tmp_path / "voice" / "task.toml").open("a", encoding="utf-8") as file:
        file.write('\n[rungs]\nskip = ["nearest", "lora", "lora+nearest"]\n')
    finished = climb_with(tmp_path / "voice", wanted, zero_shot=0.0, shown=0.8, tuned=0.9)
    assert finished.record.regime == "cross"
    assert verify(finished.folder).differences == ()
    run = RunFolder.open(finished.folder)
    rows = run.read_rows()
    for fold in range(finished.record.split_sizes["folds"]):
        model = load_style(run, fold)
        assert model is not None
        tested = {row.id for row in rows if row.split == "test" and row.fold == fold}
        assert tested
        assert not tested & set(model.fold_of)
    whole = load_style(run, None)
    assert whole is not None
    assert whole.pairs == 60
    assert 0 < next(rung for rung in finished.rungs if rung.role).metrics["test/style_auc"] <= 1


def test_a_model_that_has_the_style_already_stops_the_climb_with_the_reason(tmp_path: Path) -> None:
    wanted = cut_of_voice(tmp_path / "voice", 60)
    with pytest.raises(EvaluationError, match="read too much alike.*Put another grader first"):
        climb_with(tmp_path / "voice", wanted, zero_shot=1.0, shown=1.0, tuned=1.0)


def test_as_a_second_grader_it_leaves_such_rows_ungraded_and_the_climb_goes_on(tmp_path: Path) -> None:
    wanted = cut_of_voice(tmp_path / "voice", 24)
    path = tmp_path / "voice" / "task.toml"
    text = (
        path.read_text(encoding="utf-8").replace('type = "style"', 'type = "token_f1"').replace('type = "chrf"', 'type = "style"')
    )
    path.write_text(text, encoding="utf-8")
    finished = climb_with(tmp_path / "voice", wanted, zero_shot=1.0, shown=1.0, tuned=1.0)
    assert finished.record.grader == "token_f1"
    rows = RunFolder.open(finished.folder).read_rows()
    assert {row.others["style"] for row in rows} == {None}
    assert all("test/style" not in rung.metrics for rung in finished.rungs)
