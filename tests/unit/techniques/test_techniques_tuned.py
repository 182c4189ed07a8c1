"""Rungs with an adapter: what is trained, which variant is kept, and where adapters lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.protocols import Choices, Conversation, Decoding, FitContext, Prompt
from stepladder.engines.fake import FakeEngine
from stepladder.files import hash_file
from stepladder.techniques.fake import FakeTraining, FakeTuner, fake_context, fake_example
from stepladder.techniques.forms import PLAIN
from stepladder.techniques.lora import Lora, short_is_enough
from stepladder.techniques.lora_constrained import LoraConstrained
from stepladder.techniques.lora_nearest import LoraNearest
from stepladder.techniques.tuning import TunedPredictor, adapter_folder, conversation, scaled_recipe, tune


def is_short(row: Conversation) -> bool:
    return row.messages[0] == Message("system", "")


def fitted(folder: Path, nll: Callable[[Conversation], float], **changes: Any) -> tuple[TunedPredictor, FakeTuner, FitContext]:
    tuner = FakeTuner(nll)
    context = fake_context(folder, FakeEngine(), "text", tuner=tuner, **changes)
    return Lora().fit(context), tuner, context


def wobbly(row: Conversation) -> float:
    """A different loss for every row, the same for both prompts."""
    return 1.0 + int(row.id.split("-")[1]) / 10


def test_the_short_prompt_is_kept_when_it_loses_nothing(tmp_path: Path) -> None:
    predictor, tuner, _ = fitted(tmp_path, wobbly)
    assert predictor.recipe["form"] == "short"
    assert "every call is cheaper" in predictor.recipe["chosen_because"]
    assert [(is_short(training.rows[0]), training.seed) for training in tuner.trainings] == [(False, 0), (True, 0), (True, 1)]
    assert [one["form"] for one in predictor.recipe["variants"]] == ["plain", "short"]


def test_the_long_prompt_is_kept_when_the_short_one_is_worse(tmp_path: Path) -> None:
    predictor, _, _ = fitted(tmp_path, lambda row: wobbly(row) + (0.2 if is_short(row) else 0.0))
    assert predictor.recipe["form"] == "plain"
    assert "+0.2000 nats" in predictor.recipe["chosen_because"]


def test_one_prompt_and_one_seed_is_one_training(tmp_path: Path) -> None:
    predictor, tuner, _ = fitted(tmp_path, wobbly, choices=Choices(lora_prompts=1, seeds=1))
    assert len(tuner.trainings) == len(predictor.recipe["adapters"]) == 1
    assert predictor.recipe["form"] == "plain"


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=2, max_size=40))
def test_worse_means_by_more_than_one_standard_error_of_the_paired_difference(pairs: list[tuple[float, float]]) -> None:
    long, short = zip(*pairs, strict=True)
    enough, mean, error = short_is_enough(long, short)
    difference = np.subtract(short, long)
    assert error == pytest.approx(float(stats.sem(difference)), abs=1e-9)
    assert mean == pytest.approx(float(difference.mean()), abs=1e-9)
    assert enough == (mean <= error)


def test_a_single_held_out_row_decides_by_its_sign() -> None:
    assert short_is_enough([1.0], [1.0])[0]
    assert not short_is_enough([1.0], [1.1])[0]
    assert not math.isnan(short_is_enough([1.0], [1.1])[2])


def test_a_training_row_learns_the_answer_and_the_inputs_own_turns_but_no_demonstration(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "json")
    turns = (
        Message("user", "a"),
        Message("assistant", "first", weight=0),
        Message("user", "b"),
        Message("assistant", "second"),
        Message("user", "c"),
    )
    example = Example(Input("x", turns), Message("assistant", '{"note": "n", "kind": "plant"}'))
    prompt = PLAIN.render(context.task, example.input, demonstrations=[fake_example("json", 0, 0)])
    row = conversation(context, example, prompt)
    spoken = [(message.content, message.weight) for message in row.messages if message.role == "assistant"]
    assert [weight for _, weight in spoken] == [0.0, 0.0, 1.0, 1.0]
    assert [text for text, _ in spoken[1:]] == ["first", "second", '{"kind": "plant", "note": "n"}']
    assert row.messages[:-1] == tuple(
        replace(message, weight=there.weight) for message, there in zip(prompt.messages, row.messages, strict=False)
    )


def test_tuned_rows_and_held_out_rows_are_those_of_the_context(tmp_path: Path) -> None:
    _, tuner, context = fitted(tmp_path, wobbly)
    for training in tuner.trainings:
        assert [row.id for row in training.rows] == [row.id for row in context.tune_rows]
        assert [row.id for row in training.held_out] == [row.id for row in context.held_out]


def test_every_seed_has_its_own_predictor_and_adapter(tmp_path: Path) -> None:
    predictor, tuner, context = fitted(tmp_path, wobbly)
    seeds = predictor.seed_predictors()
    folders = [one.adapter for one in seeds]
    assert folders == [training.folder for training in tuner.trainings if is_short(training.rows[0])]
    assert [one.recipe["adapters"][0]["seed"] for one in seeds] == [0, 1]
    engine = context.engine
    assert isinstance(engine, FakeEngine)
    predictor.predict([context.train[0].input])
    assert engine.calls[-1].adapter == folders[0]


@pytest.mark.parametrize("decode", ["generate", "score:sum", "score:mean", "score:calibrated"])
def test_every_answer_says_which_weights_it_came_from_whatever_the_recipe_says(tmp_path: Path, decode: str) -> None:
    context = fake_context(tmp_path, FakeEngine(), "labels", tuner=FakeTuner())
    recipe = {**Lora().fit(context).recipe, "decode": decode}
    inputs = [row.input for row in context.validation]
    weights = adapter_folder(context, recipe["adapters"][0]) / "adapter_model.safetensors"
    for content in (None, b"other weights in the same folder"):
        if content is not None:
            weights.write_bytes(content)
        spoken = [answer.generation for answer in Lora().restore(recipe, context).predict(inputs)]
        assert {one.adapter_sha256 for one in spoken if one is not None} == {hash_file(weights)}
    assert hash_file(weights) != recipe["adapters"][0]["adapter_sha256"]


def test_adapter_folders_are_kept_relative_to_the_rungs_folder(tmp_path: Path) -> None:
    predictor, _, context = fitted(tmp_path, wobbly)
    records = predictor.recipe["adapters"]
    assert [record["folder"] for record in records] == ["short-seed0", "short-seed1"]
    assert adapter_folder(replace(context, folder=Path("/elsewhere/lora")), records[0]) == Path("/elsewhere/lora/short-seed0")


def test_lora_constrained_borrows_the_adapters_and_trains_nothing(tmp_path: Path) -> None:
    tuner = FakeTuner()
    context = fake_context(tmp_path, FakeEngine(lambda prompt, decoding, adapter: "stone!"), "labels", tuner=tuner)
    lora = Lora().fit(replace(context, folder=tmp_path / "rungs" / "lora"))
    trained = len(tuner.trainings)
    predictor = LoraConstrained().fit(
        replace(context, folder=tmp_path / "rungs" / "lora+constrained", recipes={"lora": lora.recipe})
    )
    assert len(tuner.trainings) == trained
    assert predictor.recipe["adapters"][0]["folder"] == "../lora/short-seed0"
    assert [one.adapter for one in predictor.seed_predictors()] == [one.adapter for one in lora.seed_predictors()]
    assert predictor.predict([context.train[0].input])[0].text == "stone"


def test_a_scaled_recipe_names_new_adapters_beside_the_trained_ones_for_every_seed(tmp_path: Path) -> None:
    predictor, _, context = fitted(tmp_path, wobbly)
    scaled = scaled_recipe(context, {**predictor.recipe, "priors": [0.1]}, 0.5)
    assert [record["folder"] for record in scaled["adapters"]] == ["short-seed0-scaled-0.5", "short-seed1-scaled-0.5"]
    assert (scaled["adapter_scale"], scaled["priors"]) == (0.5, None)
    for before, after in zip(predictor.recipe["adapters"], scaled["adapters"], strict=True):
        weights = adapter_folder(context, after) / "adapter_model.safetensors"
        assert after["adapter_sha256"] == hash_file(weights) != before["adapter_sha256"]
        assert (adapter_folder(context, before) / "adapter_model.safetensors").is_file()
    answers = Lora().restore(scaled, context).predict([context.train[0].input])
    assert answers[0].generation is not None
    assert answers[0].generation.adapter_sha256 == scaled["adapters"][0]["adapter_sha256"]


def test_lora_constrained_without_lora_says_so(tmp_path: Path) -> None:
    reason = LoraConstrained().reason_not_to(fake_context(tmp_path, FakeEngine(), "labels"))
    assert reason == "It answers with the adapter of `lora`, and that rung was not climbed."


def test_lora_nearest_shows_learned_rows_in_training_and_none_of_a_rows_own_cluster(tmp_path: Path) -> None:
    tuner = FakeTuner()
    context = fake_context(tmp_path, FakeEngine(), "text", tuner=tuner)
    predictor = LoraNearest().fit(context)
    assert predictor.recipe["k"] == 2
    learned = {row.reference.content for row in context.tune_rows}
    by_reference = {row.reference.content: context.clusters[row.id] for row in context.train}
    training: FakeTraining = tuner.trainings[0]
    for conversation_row in (*training.rows, *training.held_out):
        shown = [message for message in conversation_row.messages[:-1] if message.role == "assistant"]
        assert len(shown) == 2
        assert {message.content for message in shown} <= learned
        assert all(message.weight == 0 for message in shown)
        assert context.clusters[conversation_row.id] not in {by_reference[message.content] for message in shown}
        assert conversation_row.messages[-1].weight == 1


def test_label_scoring_is_offered_to_the_tuned_rung_and_chosen_on_held_out_rows(tmp_path: Path) -> None:
    references: dict[str, str] = {}

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return references[prompt.id] if decoding.max_new_tokens != 64 and prompt.id in references else "rambling"

    engine = FakeEngine(answer)
    context = fake_context(tmp_path, engine, "labels")
    references.update({row.id: row.reference.content for row in context.train})
    predictor = Lora().fit(context)
    assert predictor.recipe["decode"].startswith("score:")
    held_out = {row.id for row in context.held_out}
    assert {call.prompt.id for call in engine.calls if not call.prompt.id.startswith("content-free")} == held_out
    prediction = predictor.predict([context.train[0].input])[0]
    assert prediction.generation is not None
    assert prediction.generation.adapter_sha256 == predictor.recipe["adapters"][0]["adapter_sha256"]
    second = predictor.seed_predictors()[1].predict([context.train[0].input])[0]
    assert second.generation is not None
    assert second.generation.adapter_sha256 == predictor.recipe["adapters"][1]["adapter_sha256"]


def test_reasons_not_to_tune(tmp_path: Path) -> None:
    class NoAdapter(FakeEngine):
        @property
        def can(self) -> frozenset[str]:
            return frozenset({"score"})

    context = fake_context(tmp_path, FakeEngine(), "text")
    lora = Lora()
    assert lora.reason_not_to(context) is None
    assert lora.reason_not_to(replace(context, train=context.train[:40])) is None
    few = lora.reason_not_to(replace(context, train=context.train[:39]))
    assert few == "Fine-tuning needs at least 40 training rows; there are 39."
    assert "not on this machine" in str(lora.reason_not_to(replace(context, tuner=None)))
    assert lora.reason_not_to(replace(context, engine=NoAdapter())) == "The engine 'fake' cannot answer with an adapter."
    assert "held out" in str(lora.reason_not_to(replace(context, held_out=())))


def test_tuning_without_a_tuner_is_an_error(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text", tuner=None)
    with pytest.raises(ModelError, match="train an adapter"):
        tune(context, [], [], "plain", 0)
