"""Passages: finding them, knowing the gold ones, and diagnosing what fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepladder.data.gold_passages import GoldPassages
from stepladder.domain.messages import Chunk, Example, Input, Message
from stepladder.domain.prediction import Grade, Prediction, Score
from stepladder.domain.protocols import Decoding, FitContext, Prompt
from stepladder.engines.fake import FakeEngine
from stepladder.techniques.fake import FakeEmbedder, fake_context
from stepladder.techniques.lora_rag import LoraRag, training_passages
from stepladder.techniques.rag import Rag
from stepladder.techniques.retrieval import Retriever, query_of

CHUNKS = (
    Chunk("documents/fares.md", 0, 1, "A day ticket costs nine pounds.", "Fares"),
    Chunk("documents/fares.md", 2, 3, "Children travel for half the price.", "Fares"),
    Chunk("documents/dogs.md", 0, 1, "Dogs travel free on a lead.", "Dogs"),
    Chunk("documents/radio.md", 0, 1, "Call the bridge on channel twelve.", "Radio"),
)


class Fixed:
    """An embedder of given vectors."""

    name = "fixed"

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self._vectors.get(text, [0.0, 0.0, 0.0]) for text in texts], dtype=np.float32)


def row(id: str, question: str, answer: str, *sources: str) -> Example:
    return Example(Input.of(question, id=id), Message("assistant", answer), sources=sources)


ROWS = (
    row("q0", "what does a day ticket cost", "nine pounds", "documents/fares.md"),
    row("q1", "do dogs pay", "free", "documents/dogs.md"),
    row("q2", "which channel for the bridge", "channel twelve", "documents/radio.md"),
    row("q3", "what do children pay", "half the price", "documents/fares.md"),
    row("q4", "who owns the company", "not in the handbook"),
    row("q5", "is there a cinema", "Not in the handbook."),
)


def rag_context(folder: Path, engine: FakeEngine, rows: tuple[Example, ...] = ROWS, **changes: object) -> FitContext:
    references = {one.id: one.reference.content for one in rows}

    def score(predictions: Sequence[Prediction]) -> list[Grade]:
        return [Score(float(one.text == references[one.input_id])) for one in predictions]

    fields = {"train": rows, "validation": rows, "tune_rows": rows, "chunks": CHUNKS, "score": score, **changes}
    return replace(fake_context(folder, engine, "text"), **fields)  # type: ignore[arg-type]


def reads_passages(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
    """Answers what a passage in the prompt says, and otherwise that the handbook does not."""
    text = prompt.messages[-1].content
    answers = {"q0": "nine pounds", "q1": "free", "q2": "channel twelve", "q3": "half the price"}
    answer = answers.get(prompt.id, "")
    return answer if answer and answer in text else "not in the handbook"


def test_ranks_of_words_and_meaning_are_fused_as_defined() -> None:
    chunks = [Chunk("a", 0, 1, "apple apple"), Chunk("b", 0, 1, "pear"), Chunk("c", 0, 1, "plum apple pie today")]
    embedder = Fixed({"apple": [1, 0, 0], "pear": [0.9, 0, 0], "plum apple pie today": [0.5, 0, 0], "apple apple": [0.1, 0, 0]})
    # BM25: a first, c second, b does not hold the word. Cosine: b, c, a.
    fused = {0: 1 / 61 + 1 / 63, 1: 1 / 61, 2: 1 / 62 + 1 / 62}
    expected = sorted(fused, key=lambda index: -fused[index])
    assert Retriever(chunks, embedder).search(["apple"], 3) == [expected]


def test_left_out_passages_make_room_for_the_next() -> None:
    retriever = Retriever(CHUNKS, FakeEmbedder())
    query = "what does a day ticket cost"
    best = retriever.search([query], 2)[0]
    assert best[0] == 0
    assert retriever.search([query], 1, [frozenset({0})]) == [[index for index in retriever.search([query], 4)[0] if index][:1]]


@pytest.mark.parametrize("query", ["", "?!", "zyzzyva"])
def test_a_query_without_known_words_still_gets_passages(query: str) -> None:
    assert len(Retriever(CHUNKS, FakeEmbedder()).search([query], 3)[0]) == 3


def test_retrieval_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Retriever(CHUNKS, FakeEmbedder()).search(["dogs"], 2)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_the_last_user_turn_is_searched_for() -> None:
    turns = (Message("system", "s"), Message("user", "hello"), Message("assistant", "hi"), Message("user", "do dogs pay"))
    assert query_of(Input("x", turns)) == "do dogs pay"


def test_gold_is_the_passage_of_the_sources_that_holds_the_reference() -> None:
    gold = GoldPassages(CHUNKS, ROWS)
    assert gold.of(ROWS[0]) == {0}
    assert gold.of(ROWS[3]) == {1}
    assert gold.of(row("q", "?", "ten pounds", "documents/fares.md")) == {0, 1}
    assert gold.traces_of(ROWS[0]) == {0, 1}


def test_a_row_without_sources_has_no_gold_where_others_name_theirs() -> None:
    bare = row("q", "?", "Channel twelve!")
    assert GoldPassages(CHUNKS, ROWS).of(bare) == frozenset()
    assert GoldPassages(CHUNKS, [bare]).of(bare) == {3}


def test_a_reference_counts_as_contained_only_in_whole_words() -> None:
    for answer in ("chan", "9", "on"):
        bare = row("q", "?", answer)
        assert GoldPassages(CHUNKS, [bare]).of(bare) == frozenset()


def test_the_diagnosis_tells_the_retriever_from_the_reader(tmp_path: Path) -> None:
    context = rag_context(tmp_path, FakeEngine(reads_passages), recipes={"prompt": {"form": "plain", "score": 0.25}})
    recipe = Rag().fit(context).recipe
    diagnosis = recipe["diagnosis"]
    assert diagnosis["closed_book"] == 0.25
    assert diagnosis["gold_rows"] == 4
    assert diagnosis["oracle_context"] == 1.0
    assert set(diagnosis["recall"]) == {"1", "3", "4"}, "recall among five, of four passages in all"
    assert diagnosis["recall"]["1"] <= diagnosis["recall"]["3"] == diagnosis["retrieved"]
    assert diagnosis["abstention"] == {"rows": 4, "abstained": 1.0, "score_without_gold": 0.0, "phrases": ["not in the handbook"]}


def test_a_model_that_needs_no_passages_is_seen_by_its_score_without_gold(tmp_path: Path) -> None:
    answers = {one.id: one.reference.content for one in ROWS}
    context = rag_context(tmp_path, FakeEngine(lambda prompt, decoding, adapter: answers[prompt.id]))
    abstention = Rag().fit(context).recipe["diagnosis"]["abstention"]
    assert (abstention["abstained"], abstention["score_without_gold"]) == (0.0, 1.0)


def test_recall_is_not_measurable_without_gold(tmp_path: Path) -> None:
    rows = (row("q0", "?", "unheard of"), row("q1", "?", "never written"))
    diagnosis = Rag().fit(rag_context(tmp_path, FakeEngine(), rows)).recipe["diagnosis"]
    assert diagnosis["recall"] == "not measurable"
    assert diagnosis["oracle_context"] is None


def test_rag_says_which_documents_it_showed_best_first(tmp_path: Path) -> None:
    predictor = Rag().fit(rag_context(tmp_path, FakeEngine(reads_passages)))
    prediction = predictor.predict([ROWS[1].input])[0]
    assert prediction.retrieved[0] == "documents/dogs.md"
    assert len(set(prediction.retrieved)) == len(prediction.retrieved)
    shown = [chunk for id in prediction.passages for chunk in CHUNKS if chunk.id == id]
    assert shown[0] == CHUNKS[2]
    assert list(prediction.retrieved) == list(dict.fromkeys(chunk.document for chunk in shown))


def test_the_plain_form_races_against_the_one_that_won_without_passages(tmp_path: Path) -> None:
    def reads_under_a_system_turn(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return reads_passages(prompt, decoding, adapter) if prompt.messages[0].role == "system" else "what do you mean?"

    chosen_closed_book = {"prompt": {"form": "in-user", "score": 0.0}}
    recipe = Rag().fit(rag_context(tmp_path, FakeEngine(reads_under_a_system_turn), recipes=chosen_closed_book)).recipe
    assert recipe["form"] == "plain"
    assert {one["name"].split(", ")[1] for one in recipe["tried"]} == {"in-user", "plain"}
    restored = Rag().restore(recipe, rag_context(tmp_path, FakeEngine(reads_under_a_system_turn)))
    assert restored.predict([ROWS[1].input])[0].text == "free"


def test_without_documents_the_reason_names_the_setting(tmp_path: Path) -> None:
    reason = Rag().reason_not_to(rag_context(tmp_path, FakeEngine(), chunks=()))
    assert reason is not None
    assert "`[data] documents`" in reason


def test_training_passages_lack_the_gold_one_in_a_fifth_of_the_rows_and_it_stands_anywhere(tmp_path: Path) -> None:
    rows = tuple(
        replace(ROWS[n % 4], input=Input.of(f"{ROWS[n % 4].input.text} {n}", id=f"r{n}"), metadata={}) for n in range(40)
    )
    context = rag_context(tmp_path, FakeEngine(), rows)
    shown = training_passages(context, Retriever(CHUNKS, context.embedder), rows, 3)
    gold = GoldPassages(CHUNKS, rows)
    places = []
    for one, passages in zip(rows, shown, strict=True):
        assert len(passages) == len(set(passages)) == 3
        places.append([place for place, chunk in enumerate(passages) if CHUNKS.index(chunk) in gold.of(one)])
    assert sum(1 for place in places if not place) == 8
    assert {place[0] for place in places if place} == {0, 1, 2}
    assert shown == training_passages(context, Retriever(CHUNKS, context.embedder), rows, 3)


def test_lora_rag_trains_on_passages_and_uses_the_number_rag_chose(tmp_path: Path) -> None:
    full = fake_context(tmp_path, FakeEngine(), "text")
    context = replace(full, recipes={"rag": {"k": 2}})
    predictor = LoraRag().fit(context)
    training = context.tuner.trainings[0]  # type: ignore[union-attr]
    assert predictor.recipe["k"] == 2
    for conversation in (*training.rows, *training.held_out):
        assert conversation.messages[-2].content.startswith("Passages:\n\n[1] ")
        assert "[2] " in conversation.messages[-2].content
        assert "[3] " not in conversation.messages[-2].content
