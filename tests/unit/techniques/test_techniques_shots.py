"""Demonstrations: which are shown, in which order, and how many fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stepladder.domain.errors import EngineError, RunError
from stepladder.domain.messages import Example, Input
from stepladder.domain.protocols import Decoding, FitContext, Prompt, SilentProgress
from stepladder.engines.fake import FakeEngine
from stepladder.techniques.fake import LABELS, fake_context
from stepladder.techniques.few_shot import FewShot, StaticShots
from stepladder.techniques.forms import PLAIN
from stepladder.techniques.nearest import Nearest, NearestShots
from stepladder.techniques.shots import by_id, possible_shots, representatives, spread


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def unit(rows: list[list[float]]) -> NDArray[np.float32]:
    vectors = np.array(rows, dtype=np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def demonstrations(prompt: Prompt) -> list[str]:
    return [message.content for message in prompt.messages if message.role == "assistant"]


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8))
def test_the_first_pick_is_the_medoid(seed: int, rows: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(rows, 4)).tolist())
    totals = (vectors @ vectors.T).sum(axis=1)
    assert totals[spread(vectors, 1)[0]] == pytest.approx(totals.max(), abs=1e-5)


@given(seed=st.integers(0, 10_000))
def test_greedy_picks_cover_nearly_as_well_as_the_best_set(seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(8, 3)).tolist())
    similarity = vectors @ vectors.T + 1.0  # from 0, as the bound of greedy cover asks

    def covered(some: tuple[int, ...]) -> float:
        return float(similarity[:, list(some)].max(axis=1).sum())

    optimum = max(covered(some) for some in combinations(range(8), 3))
    assert covered(tuple(spread(vectors, 3))) >= (1 - 1 / np.e) * optimum - 1e-5


def test_one_is_picked_from_each_of_two_clear_groups() -> None:
    vectors = unit([[1, 0.01], [1, 0.02], [1, 0.03], [0.01, 1], [0.02, 1]])
    picked = spread(vectors, 2)
    assert len({index < 3 for index in picked}) == 2
    assert spread(vectors, 9)[:2] == picked
    assert len(set(spread(vectors, 9))) == 5
    assert spread(np.zeros((0, 2), dtype=np.float32), 3) == []


def test_demonstrations_are_balanced_over_labels_and_come_from_different_clusters(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "labels")
    chosen = representatives(context, 6)
    assert sorted(example.reference.content for example in chosen) == sorted(LABELS * 2)
    assert len({example.reference.content for example in chosen[:3]}) == 3
    assert len({context.clusters[example.id] for example in chosen}) == 6


def test_a_demonstration_of_the_inputs_own_cluster_gives_way_to_the_reserve_in_its_place(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text")
    shots, reserve = (context.train[0], context.train[2]), context.train[4]
    prompter = StaticShots(context, PLAIN, shots, (reserve,))
    own, other = prompter([context.train[1].input, context.train[6].input])
    assert demonstrations(own.prompt) == [reserve.reference.content, shots[1].reference.content]
    assert demonstrations(other.prompt) == [one.reference.content for one in shots]


def test_few_shot_chooses_the_number_that_answers_best(tmp_path: Path) -> None:
    references: dict[str, str] = {}

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return references[prompt.id] if len(demonstrations(prompt)) == 4 else "wrong"

    context = fake_context(tmp_path, FakeEngine(answer), "text")
    references.update({row.id: row.reference.content for row in context.train})
    recipe = FewShot().fit(context).recipe
    assert (recipe["k"], len(recipe["shots"])) == (4, 4)
    assert {one["name"]: one["score"] for one in recipe["tried"]} == {"2 shots": 0.0, "4 shots": 1.0, "order 2": 1.0}


def test_few_shot_chooses_the_order_that_answers_best(tmp_path: Path) -> None:
    references: dict[str, str] = {}
    first: list[str] = []

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        shown = demonstrations(prompt)
        first.extend(shown if not first else [])
        return references[prompt.id] if shown[0] != first[0] else "wrong"

    context = fake_context(tmp_path, FakeEngine(answer), "text")
    references.update({row.id: row.reference.content for row in context.train})
    recipe = FewShot().fit(replace(context, choices=replace(context.choices, shots=(2,), orders=3))).recipe
    assert by_id(context, recipe["shots"])[0].reference.content != first[0]
    assert [one["name"] for one in recipe["tried"]] == ["2 shots", "order 2"]  # two shots have but two orders


def test_nearest_shows_the_most_similar_last_and_never_its_own_cluster(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text")
    prompter = NearestShots(context, PLAIN, 3, context.train)
    row = context.train[0]
    shots = prompter.shots([row.input])[0]
    vectors = context.embedder.embed([row.input.text, *(example.input.text for example in shots)])
    similarities = vectors[1:] @ vectors[0]
    assert list(similarities) == sorted(similarities)
    assert context.clusters[row.id] not in {context.clusters[example.id] for example in shots}
    assert len({context.clusters[example.id] for example in shots}) == 3
    best_other = max(
        float(vectors[0] @ context.embedder.embed([one.input.text])[0])
        for one in context.train
        if context.clusters[one.id] != context.clusters[row.id]
    )
    assert similarities[-1] == pytest.approx(best_other)


def test_nearest_chooses_its_number_on_validation(tmp_path: Path) -> None:
    references: dict[str, str] = {}

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return references[prompt.id] if len(demonstrations(prompt)) == 2 else "wrong"

    context = fake_context(tmp_path, FakeEngine(answer), "text")
    references.update({row.id: row.reference.content for row in context.train})
    assert Nearest().fit(context).recipe["k"] == 2


def test_no_more_demonstrations_are_tried_than_there_are_clusters(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text", clusters=3)
    assert possible_shots(context) == [2]
    assert possible_shots(replace(context, train=context.train[:2])) == []
    assert FewShot().reason_not_to(replace(context, train=context.train[:2])) is not None


def small_context(tmp_path: Path, tokens: int, notes: Notes) -> FitContext:
    engine = FakeEngine(context_tokens=tokens)
    return fake_context(tmp_path, engine, "text", max_new_tokens=8, progress=notes)


def test_prompts_fill_at_most_three_fifths_of_the_context_and_the_cut_is_said(tmp_path: Path) -> None:
    notes = Notes()
    context = small_context(tmp_path, 90, notes)
    predictor = Nearest().fit(replace(context, choices=replace(context.choices, shots=(4,))))
    notes.said.clear()
    prediction = predictor.predict([context.train[0].input])[0]
    assert prediction.generation is not None
    assert prediction.generation.prompt_tokens <= 0.6 * 90
    assert notes.said == ["1 of 1 prompts show fewer demonstrations or passages than asked for, to fit the model's context."]
    assert predictor.recipe["reduced"] == 48


def test_the_least_similar_demonstration_goes_first(tmp_path: Path) -> None:
    context = small_context(tmp_path, 90, Notes())
    prompter = NearestShots(context, PLAIN, 4, context.train)
    shown = demonstrations(prompter([context.train[0].input])[0].prompt)
    wanted = [example.reference.content for example in prompter.shots([context.train[0].input])[0]]
    assert 0 < len(shown) < 4
    assert shown == wanted[-len(shown) :]


def test_an_input_too_long_by_itself_is_the_engines_error(tmp_path: Path) -> None:
    context = small_context(tmp_path, 90, Notes())
    predictor = Nearest().fit(context)
    with pytest.raises(EngineError, match="'long'"):
        predictor.predict([Input.of("word " * 200, id="long")])


def test_a_demonstration_that_is_gone_is_named(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text")
    with pytest.raises(RunError, match="'row-99-0'"):
        by_id(context, ["row-0-0", "row-99-0"])


def test_rows_without_a_cluster_are_their_own(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(), "text", clusters=4)
    bare = replace(context, clusters={})
    row: Example = context.train[0]
    shown = NearestShots(bare, PLAIN, 7, bare.train).shots([row.input])[0]
    assert len(shown) == 7
    assert row.id not in {example.id for example in shown}
