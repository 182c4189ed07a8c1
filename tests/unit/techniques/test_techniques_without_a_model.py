"""Rungs that call no model: `baseline`, `recorded`, `classifier`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepladder.domain.errors import EvaluationError, UsageError
from stepladder.domain.messages import Input, Message
from stepladder.engines.fake import FakeEngine
from stepladder.techniques.baseline import Baseline, TrivialPredictor
from stepladder.techniques.classifier import Classifier
from stepladder.techniques.fake import fake_context
from stepladder.techniques.ladder import LADDER, technique
from stepladder.techniques.recorded import Recorded


def test_baseline_reports_all_three_and_names_the_best(tmp_path: Path) -> None:
    engine = FakeEngine()
    context = fake_context(tmp_path, engine, "labels")
    recipe = Baseline().fit(context).recipe
    scores = {one["name"]: one["score"] for one in recipe["tried"]}
    assert set(scores) == {"majority answer", "copy of the input", "nearest neighbour"}
    assert scores["copy of the input"] == 0.0
    assert scores[recipe["kind"]] == max(scores.values())
    assert engine.calls == []


def test_the_copy_is_the_last_user_turn(tmp_path: Path) -> None:
    turns = (Message("user", "first"), Message("assistant", "hm"), Message("user", "second"))
    predictor = TrivialPredictor(fake_context(tmp_path, FakeEngine(), "text"), {"kind": "copy of the input"})
    assert predictor.predict([Input("x", turns)])[0].text == "second"


def test_the_majority_does_not_count_the_inputs_own_cluster(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "labels", clusters=4)  # animal, plant, stone, animal
    predictor = TrivialPredictor(context, {"kind": "majority answer"})
    answers = predictor.predict([context.train[0].input, context.train[2].input, Input.of("new")])
    assert [answer.text for answer in answers] == ["plant", "animal", "animal"]


def test_the_neighbour_is_the_most_similar_row_of_another_cluster(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text")
    new = replace(context.train[9].input, id="new")
    predictor = TrivialPredictor(context, {"kind": "nearest neighbour"})
    assert predictor.predict([new])[0].text == context.train[9].reference.content
    own = predictor.predict([context.train[9].input])[0].text
    assert own not in {context.train[8].reference.content, context.train[9].reference.content, ""}


def test_recorded_answers_come_from_the_rows_or_by_id(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text", recorded={})
    rows = tuple(replace(row, recorded=f"was {row.id}") for row in context.train)
    predictor = Recorded().fit(replace(context, train=rows, validation=rows, recorded={"test-1": "from the file"}))
    answers = predictor.predict([rows[1].input, Input.of("?", id="test-1")])
    assert [answer.text for answer in answers] == [f"was {rows[1].id}", "from the file"]


def test_an_input_nobody_answered_is_named(tmp_path: Path) -> None:
    predictor = Recorded().fit(fake_context(tmp_path, FakeEngine(), "text"))
    with pytest.raises(EvaluationError, match="'unheard'"):
        predictor.predict([Input.of("?", id="unheard")])


def test_rows_without_a_recorded_answer_are_counted_and_one_named(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text", recorded={"row-0-0": "a"})
    reason = Recorded().reason_not_to(context)
    assert reason == "47 of 48 validation rows have no recorded answer, 'row-0-1' for one."


def test_the_classifier_learns_what_the_embedding_shows(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "labels", clusters=48)  # two clusters a word: a fold leaves most words
    predictor = Classifier().fit(context)
    inputs = [row.input for row in context.train]
    right = [one.text == row.reference.content for one, row in zip(predictor.predict(inputs), context.train, strict=True)]
    assert np.mean(right) > 0.8  # a word is unknown where both its clusters fall into one fold
    new = [replace(input, id=f"new {input.id}") for input in inputs]
    right = [one.text == row.reference.content for one, row in zip(predictor.predict(new), context.train, strict=True)]
    assert np.mean(right) == 1.0


def test_the_classifier_says_why_it_does_not_apply(tmp_path: Path) -> None:
    assert (
        Classifier().reason_not_to(fake_context(tmp_path, FakeEngine(), "text")) == "The answers are not a closed list of labels."
    )
    context = fake_context(tmp_path, FakeEngine(), "labels")
    reason = Classifier().reason_not_to(replace(context, train=context.train[:2]))
    assert reason == "The training rows show fewer than two of the labels."


def test_a_label_in_other_letter_case_is_the_label(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "labels")
    shouted = tuple(replace(row, reference=Message("assistant", row.reference.content.upper())) for row in context.train)
    plain = Classifier().restore({"strength": 10.0}, context)
    loud = Classifier().restore({"strength": 10.0}, replace(context, train=shouted))
    inputs = [row.input for row in context.train]
    assert [one.text for one in loud.predict(inputs)] == [one.text for one in plain.predict(inputs)]


def test_a_technique_is_found_by_name_and_an_unknown_one_lists_them_all() -> None:
    assert all(technique(one.name) is one for one in LADDER)
    with pytest.raises(UsageError, match=r"'lora\+magic'.*baseline, recorded, classifier"):
        technique("lora+magic")
