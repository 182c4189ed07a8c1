"""Rungs that ask an untuned model without examples: `prompt` and `constrained`, and label scoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat_server import ChatServer, chat_server, completion, echo
from messages_server import MessagesServer, echo_message, message
from stepladder.domain.errors import MissingExtra, NotShown
from stepladder.domain.messages import Input
from stepladder.domain.prediction import Grade, Prediction, Score
from stepladder.domain.protocols import CompletionScore, Decoding, Engine, FitContext, ModelIdentity, Prompt
from stepladder.engines.address import Address
from stepladder.engines.answers import AnswerStore, CachedEngine
from stepladder.engines.anthropic import AnthropicEngine
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.endpoint import EndpointEngine
from stepladder.engines.fake import FakeEngine
from stepladder.techniques.asking import ZeroShot
from stepladder.techniques.constrained import NOW_ANSWER, THINK, Constrained
from stepladder.techniques.decode import choose_decode
from stepladder.techniques.fake import LABELS, WORDS, fake_context, fake_task
from stepladder.techniques.forms import PLAIN, SHORT
from stepladder.techniques.label_scoring import CONTENT_FREE, LabelScorer
from stepladder.techniques.prompt import ZeroShotPrompt


def right_label(prompt: Prompt) -> str:
    text = prompt.messages[-1].content
    return next((label for label in LABELS if any(f" {word} " in text for word in WORDS[label])), "nothing")


def told_the_labels(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
    """Right only where the allowed answers are listed in one line."""
    shown = any("Possible answers" in message.content for message in prompt.messages)
    return right_label(prompt) if shown else "I think it is something."


class TableScores(FakeEngine):
    """Log-probabilities from a function of the last user turn."""

    def __init__(self, table: Callable[[str], Sequence[CompletionScore]]) -> None:
        super().__init__(lambda prompt, decoding, adapter: "garbage")
        self._table = table

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        return [list(self._table(prompt.messages[-1].content)) for prompt in prompts]


def no_scoring(engine: FakeEngine) -> FakeEngine:
    class Silent(FakeEngine):
        @property
        def can(self) -> frozenset[str]:
            return frozenset({"grammar", "count"})

    silent = Silent()
    silent._answer = engine._answer
    return silent


def test_the_form_that_works_wins_and_the_plain_one_is_reported_on_all_rows(tmp_path: Path) -> None:
    engine = no_scoring(FakeEngine(told_the_labels))
    context = fake_context(tmp_path, engine, "labels")
    recipe = ZeroShotPrompt().fit(context).recipe
    assert (recipe["form"], recipe["decode"], recipe["score"]) == ("strict", "generate", 1.0)
    assert recipe["tried"][0] == {"name": "plain", "form": "plain", "decode": "generate", "rows": 48, "score": 0.0}
    assert len(recipe["tried"]) == 4


def test_own_prompts_are_tried_first_on_all_rows_and_win_ties(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "ours.txt").write_text("Name it.", encoding="utf-8")
    task = fake_task(tmp_path / "task", "text", prompts=[{"file": "ours.txt"}])
    recipe = ZeroShotPrompt().fit(fake_context(tmp_path, FakeEngine(), "text", task=task)).recipe
    assert recipe["tried"][0]["form"] == recipe["form"] == "own:ours.txt"
    assert recipe["tried"][0]["rows"] == 48
    assert recipe["own_prompt"] == {"file": "ours.txt", "text": "Name it."}


def test_halving_asks_far_fewer_prompts_than_trying_everything(tmp_path: Path) -> None:
    engine = no_scoring(FakeEngine(told_the_labels))
    context = fake_context(tmp_path, engine, "labels")
    ZeroShotPrompt().fit(replace(context, choices=replace(context.choices, forms=12)))
    assert len(engine.calls) < 0.6 * 12 * 48


def test_labels_are_scored_where_writing_them_fails(tmp_path: Path) -> None:
    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return "rambling" if decoding.max_new_tokens == 64 else right_label(prompt)  # `score` asks with another limit

    context = fake_context(tmp_path, FakeEngine(answer), "labels")
    predictor = ZeroShotPrompt().fit(context)
    assert predictor.recipe["decode"].startswith("score:")
    assert predictor.recipe["score"] == 1.0
    prediction = predictor.predict([context.train[0].input])[0]
    assert prediction.text == "animal"
    assert prediction.generation is not None
    assert prediction.generation.prompt_tokens > 0
    assert prediction.generation.model_sha256 == context.engine.identity.base_sha256


def test_the_sum_the_mean_and_the_calibrated_score_choose_as_defined(tmp_path: Path) -> None:
    def table(text: str) -> list[CompletionScore]:
        if text in CONTENT_FREE:  # the third label is loved whatever is asked
            return [CompletionScore(-9.0, 3), CompletionScore(-9.0, 2), CompletionScore(-1.0, 1)]
        return [CompletionScore(-6.0, 6), CompletionScore(-4.0, 2), CompletionScore(-3.0, 1)]

    context = fake_context(tmp_path, TableScores(table), "labels")

    def prompts_of(inputs: Sequence[Input]) -> list[Prompt]:
        return [one.prompt for one in ZeroShot(context, PLAIN)(inputs)]

    scorer = LabelScorer(context, prompts_of)
    scored = scorer.score(prompts_of([Input.of("a question")]))
    assert scorer.priors() == (-9.0, -9.0, -1.0)
    assert scorer.choose(scored, "score:sum", None) == [2]
    assert scorer.choose(scored, "score:mean", None) == [0]
    assert scorer.choose(scored, "score:calibrated", None) == [1]
    assert scorer.choose(scored, "score:calibrated", (-1.0, -9.0, -9.0)) == [2]


def test_a_calibrated_recipe_keeps_its_priors(tmp_path: Path) -> None:
    def table(text: str) -> list[CompletionScore]:
        bias = [0.0, 0.0, 50.0]
        right = next((n for n, label in enumerate(LABELS) if any(f" {word} " in text for word in WORDS[label])), None)
        return [CompletionScore(-60.0 + bias[n] + (5.0 if n == right else 0.0), 1) for n in range(3)]

    context = fake_context(tmp_path, TableScores(table), "labels")
    recipe = ZeroShotPrompt().fit(context).recipe
    assert recipe["decode"] == "score:calibrated"
    assert recipe["priors"] == [-60.0, -60.0, -10.0]
    assert {one["name"]: one["score"] for one in recipe["decodes"]}["score:sum"] == pytest.approx(1 / 3)


def test_label_scoring_takes_the_time_it_once_took_where_the_scores_are_known(tmp_path: Path) -> None:
    class Slow(FakeEngine):
        def score(
            self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
        ) -> list[list[CompletionScore]]:
            scores = super().score(prompts, completions, adapter=adapter)
            return [[replace(score, seconds=100.0 / len(row)) for score in row] for row in scores]

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return "rambling" if decoding.max_new_tokens == 64 else right_label(prompt)

    store = AnswerStore(tmp_path / "answers", 10**8)
    for climb in ("first", "second"):
        inner = Slow(answer)
        engine = RecordedEngine(CachedEngine(inner, store), tmp_path / f"{climb}.jsonl")
        context = fake_context(tmp_path, engine, "labels")
        predictor = ZeroShotPrompt().fit(context)
        assert predictor.recipe["decode"].startswith("score:")
        predictions = predictor.predict([row.input for row in context.validation])
        assert [one.latency_seconds for one in predictions] == pytest.approx([100.0] * len(predictions), rel=0.01)
        assert bool(inner.calls) == (climb == "first")


def test_generation_is_kept_where_it_is_as_good_as_scoring(tmp_path: Path) -> None:
    context = fake_context(tmp_path, FakeEngine(lambda prompt, decoding, adapter: right_label(prompt)), "labels")
    decode = choose_decode(context, ZeroShot(context, PLAIN), context.validation)
    assert decode.name == "generate"
    assert [one.name for one in decode.tried] == ["generate", "score:calibrated", "score:sum", "score:mean"]


def test_free_text_is_never_scored_as_labels(tmp_path: Path) -> None:
    engine = FakeEngine()
    context = fake_context(tmp_path, engine, "text")
    assert choose_decode(context, ZeroShot(context, PLAIN), context.validation).tried == ()
    assert engine.calls == []


def test_constrained_uses_the_form_that_prompt_chose_under_the_grammar(tmp_path: Path) -> None:
    engine = FakeEngine(lambda prompt, decoding, adapter: "an animal, surely")
    context = fake_context(tmp_path, engine, "labels", recipes={"prompt": SHORT.as_recipe()})
    predictor = Constrained().fit(context)
    assert engine.calls == []  # nothing to choose, nothing asked
    assert predictor.predict([context.train[0].input])[0].text == "animal"
    assert engine.calls[0].prompt.messages[0].content == ""
    decoding = engine.calls[0].decoding
    assert decoding is not None
    assert decoding.grammar is not None
    assert json.loads(decoding.grammar.text) == list(LABELS)


def test_where_a_template_cannot_show_thoughts_the_model_answers_directly(tmp_path: Path) -> None:
    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        if any(message.role == "assistant" for message in prompt.messages):
            raise NotShown("its template rewrites earlier answers.", "Use another model.")
        return json.dumps({"reasoning": "none", "note": "right"})

    context = reasoning_context(tmp_path, FakeEngine(answer))
    predictor = Constrained().fit(context)
    assert (predictor.recipe["think"], predictor.recipe["tried"]) == (False, [])
    assert json.loads(predictor.predict([context.train[0].input])[0].text)["note"] == "right"


def test_thinking_first_is_two_calls_and_chosen_only_when_better(tmp_path: Path) -> None:
    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        thought = any("deep thought" in message.content for message in prompt.messages)
        note = "right" if thought else "wrong"
        return "deep thought" if decoding.grammar is None else json.dumps({"reasoning": note, "note": note})

    engine = FakeEngine(answer)
    context = reasoning_context(tmp_path, engine)

    def score(predictions: Sequence[Prediction]) -> list[Grade]:
        return [Score(float("right" in one.text)) for one in predictions]

    predictor = Constrained().fit(replace(context, score=score))
    assert predictor.recipe["think"] is True
    engine.calls.clear()
    prediction = predictor.predict([context.train[0].input])[0]
    assert json.loads(prediction.text)["note"] == "right"
    first, second = engine.calls
    assert first.prompt.messages[-1].content.endswith(THINK)
    assert [message.content for message in second.prompt.messages[-2:]] == ["deep thought", NOW_ANSWER]
    assert prediction.generation is not None
    assert prediction.generation.prompt_tokens == sum(engine.count_tokens([first.prompt, second.prompt]))


EMPTY = {"reasoning": "", "note": ""}
NO_THOUGHTS = {
    "withheld": (message([], "refusal"), completion(None, "content_filter")),
    "cut before its first word": (message([], "max_tokens"), completion("", "length")),
    "in no protocol's shape": ({"oops": 1}, {"oops": 1}),
    "empty though tokens were written": (message([], output_tokens=30), completion("", completion_tokens=30)),
}


@pytest.mark.parametrize("lost", NO_THOUGHTS.values(), ids=NO_THOUGHTS.keys())
@pytest.mark.parametrize("api", ["anthropic", "openai"])
def test_an_input_whose_thoughts_did_not_come_has_no_answer_and_the_others_do(tmp_path: Path, api: str, lost: Any) -> None:
    with thinking_server(api, lambda text: lost[api == "openai"] if "otter" in text else None) as (server, engine):
        context = reasoning_context(tmp_path, engine)
        rows = [row.input for row in context.train[:8]]
        predictions = Constrained().restore({"think": True, **PLAIN.as_recipe()}, context).predict(rows)
        unheard = [row.id for row in rows if "otter" in row.messages[-1].content]
        assert 0 < len(unheard) < len(rows)
        assert [one.input_id for one in predictions] == [row.id for row in rows]
        assert [one.input_id for one in predictions if one.fault or one.unspoken] == unheard
        assert all(json.loads(one.text) == EMPTY for one in predictions if one.input_id not in unheard)
        held = [request for request in server.requests if {"output_config", "response_format"} & set(request)]
        probes = 1 if api == "openai" else 0
        assert len(held) == len(rows) - len(unheard) + probes  # nothing is paid for and thrown away


@pytest.mark.parametrize("api", ["anthropic", "openai"])
def test_a_model_that_has_no_thoughts_still_answers_in_the_form(tmp_path: Path, api: str) -> None:
    silent = message([], output_tokens=1) if api == "anthropic" else completion("", completion_tokens=1)
    with thinking_server(api, lambda text: silent) as (_, engine):
        context = reasoning_context(tmp_path, engine)
        [answer] = Constrained().restore({"think": True, **PLAIN.as_recipe()}, context).predict([context.train[0].input])
    assert json.loads(answer.text) == EMPTY


def test_no_thoughts_at_all_end_in_no_answers(tmp_path: Path) -> None:
    with thinking_server("anthropic", lambda text: message([], "max_tokens")) as (server, engine):
        context = reasoning_context(tmp_path, engine)
        rows = [row.input for row in context.train[:2]]
        predictions = Constrained().restore({"think": True, **PLAIN.as_recipe()}, context).predict(rows)
        assert [one.unspoken for one in predictions] == [True, True]
        assert len(server.requests) == 2


@contextmanager
def thinking_server(api: str, lost: Callable[[str], Any]) -> Iterator[tuple[ChatServer, Engine]]:
    """A hosted engine and its server, where `lost` may take the place of a thought about a text."""

    say, held = (message, echo_message) if api == "anthropic" else (completion, echo)

    def answer(request: dict[str, Any]) -> Any:
        if {"output_config", "response_format"} & set(request):
            return held(request)
        said = request["messages"][-1]["content"]
        text = said if isinstance(said, str) else said[-1]["text"]
        return lost(text) or say("Hm, a thing.")

    with chat_server(MessagesServer if api == "anthropic" else ChatServer) as server:
        server.answer = answer
        build = AnthropicEngine if api == "anthropic" else EndpointEngine
        engine = build(Address(server.url, "test"), api_key="none", first_pause_seconds=0.01)
        yield server, engine
        engine.close()


def reasoning_context(folder: Path, engine: Engine) -> FitContext:
    context = fake_context(folder, engine, "json")
    properties = {"reasoning": {"type": "string"}, "note": {"type": "string"}}
    schema = {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
    (context.task.folder / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    return context


def test_a_missing_grammar_library_is_the_reason_not_to(tmp_path: Path) -> None:
    class Without(FakeEngine):
        @property
        def can(self) -> frozenset[str]:
            raise MissingExtra("constrained", "llguidance")

    class Local(FakeEngine):
        @property
        def identity(self) -> ModelIdentity:
            return ModelIdentity("tiny", "transformers")

        @property
        def can(self) -> frozenset[str]:
            return frozenset({"score"})

    for engine in (Without(), Local()):
        reason = Constrained().reason_not_to(fake_context(tmp_path, engine, "json"))
        assert reason is not None
        assert "pip install 'stepladder[constrained]'" in reason
