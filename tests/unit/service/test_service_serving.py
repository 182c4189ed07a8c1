"""Names and models of a server: which base stands behind a name, what is kept in memory, who is asked when."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stepladder.domain.errors import DataError, EngineError, Unanswered, UsageError
from stepladder.domain.messages import Input, Message
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.protocols import Decoding, Prompt, Recipe, Request
from stepladder.engines.fake import FakeEngine
from stepladder.interfaces.exit_codes import http_status
from stepladder.service.serving.asking import AskingThread, QueueFull
from stepladder.service.serving.bases import Alias, BaseModel, Bases
from stepladder.service.serving.question import Asked, Question, TooLong
from stepladder.service.serving.serve_file import ServeSettings, load_serve_settings
from stepladder.service.serving.speakers import DEFAULT_NEW_TOKENS, RungSpeaker, WeightsSpeaker


def bases(models: Sequence[str], aliases: Sequence[str] = (), *, weights: int = 10, memory: int = 25, **more: Any) -> Bases:
    return Bases(
        [BaseModel.parse(text) for text in models],
        [Alias.parse(text) for text in aliases],
        build=more.get("build", lambda location: FakeEngine(name=location)),
        weigh=lambda location: weights,
        memory_bytes=memory,
        forget=more.get("forget", lambda: None),
    )


def question(text: str, **options: Any) -> Question:
    return Question(Prompt("q", (Message("user", text),)), **options)


def test_an_alias_leads_to_a_base_and_the_first_that_fits_counts() -> None:
    known = bases(["small", "large"], ["gpt-4o-mini*=small", "gpt-4o*=large", "*turbo=small"])

    def base_of(name: str) -> str | None:
        found = known.find(name)
        return None if found is None else found.name

    assert base_of("gpt-4o-mini-2024-07-18") == "small"
    assert base_of("gpt-4o") == "large"
    assert base_of("gpt-3.5-turbo") == "small"
    assert base_of("small") == "small"
    assert base_of("GPT-4o") is None
    assert base_of("gpt-4.1") is None


@pytest.mark.parametrize(
    "name", ["gpt-4o-mini", "gpt-3.5-turbo-0125", "o3-mini", "davinci-002", "ft:gpt-4o-mini-2024-07-18:org::abc"]
)
def test_an_openai_name_that_nothing_stands_for_gets_the_option_to_add(name: str) -> None:
    bare = name.split(":")[1] if ":" in name else name
    assert bases(["small"]).advice(name) == f"Start the server with: stepladder serve --alias '{bare}=small'"


@pytest.mark.parametrize("name", ["llama", "gpt-4o'; rm -rf /; '", "gpt-4o\nx", "../gpt-4o", ""])
def test_any_other_name_gets_no_line_to_paste(name: str) -> None:
    assert bases(["small"]).advice(name) == ""


@pytest.mark.parametrize("text", ["small", "=small", "gpt="])
def test_an_alias_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Alias.parse(text)


def test_an_alias_to_what_is_not_served_is_refused() -> None:
    with pytest.raises(UsageError, match="'large', which is not served"):
        bases(["small"], ["gpt-4o=large"])
    with pytest.raises(UsageError, match="same name"):
        bases(["small", "small=other"])


def test_a_folder_is_called_by_its_last_part(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert BaseModel.parse(str(tmp_path / "mine")).name == "mine"
    assert BaseModel.parse(f"other={tmp_path / 'mine'}") == BaseModel("other", str(tmp_path / "mine"))
    assert BaseModel.parse("org/name") == BaseModel("org/name", "org/name")
    for bad in ("a b=x", "a:b=x", "../x=y", "=x"):
        with pytest.raises(UsageError):
            BaseModel.parse(bad)


def test_the_base_asked_longest_ago_makes_room() -> None:
    built: list[str] = []
    forgotten: list[bool] = []

    def build(location: str) -> FakeEngine:
        built.append(location)
        return FakeEngine(name=location)

    known = bases(["a", "b", "c"], build=build, forget=lambda: forgotten.append(True))
    for location in ("a", "b", "a", "c", "a"):
        known.engine(location)
    assert built == ["a", "b", "c"]
    assert known.loaded == ("c", "a")
    assert forgotten == [True]
    known.engine("b")
    assert known.loaded == ("a", "b")


def test_a_base_larger_than_the_limit_is_loaded_alone() -> None:
    known = bases(["a", "b"], weights=100, memory=25)
    known.engine("a")
    known.engine("b")
    assert known.loaded == ("b",)


class Slow:
    """A speaker that notes who was asked together, and answers when it is let."""

    def __init__(self, name: str) -> None:
        self.name = self.key = name
        self.batches: list[list[str]] = []
        self.may = threading.Event()

    def answer(self, asked: Sequence[Asked], on_answer: Callable[[int, Any], None]) -> None:
        self.may.wait(10)
        texts = [one.question.prompt.messages[0].content for one in asked]
        self.batches.append(texts)
        for index, text in enumerate(texts):
            on_answer(index, EngineError("no", "ask otherwise") if text == "bad" else Generation(text.upper(), 1, 1, 0.0))


class Losing:
    """A rung whose server leaves "bad" without an answer."""

    recipe: ClassVar[Recipe] = {}

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        texts = [one.messages[0].content for one in inputs]
        said = [Generation("" if text == "bad" else text, 1, 1, 0.0, fault="it is down" * (text == "bad")) for text in texts]
        return [Prediction.from_generation(one.id, answer) for one, answer in zip(inputs, said, strict=True)]


def test_a_rungs_question_without_an_answer_is_an_error_and_the_others_are_answered() -> None:
    speaker = RungSpeaker("rung:x/y", Path("x"), Losing)
    outcomes: dict[int, Any] = {}
    speaker.answer([Asked(speaker, question(text)) for text in ("one", "bad", "two")], outcomes.__setitem__)
    assert [outcomes[place].text for place in (0, 2)] == ["one", "two"]
    assert isinstance(outcomes[1], Unanswered)
    assert "There is no answer: it is down." in str(outcomes[1])
    assert http_status(outcomes[1]) == 502


def test_what_waits_for_the_same_speaker_is_asked_together_and_the_others_keep_their_place() -> None:
    asking, first, second = AskingThread(rows_at_once=3), Slow("first"), Slow("second")
    busy = asking.ask(first, question("zero"))
    futures = [asking.ask(first if number % 2 else second, question(str(number))) for number in range(8)]
    first.may.set()
    second.may.set()
    assert [future.result(10).text for future in futures] == [str(number) for number in range(8)]
    assert busy.result(10).text == "ZERO"
    assert first.batches == [["zero"], ["1", "3", "5"], ["7"]] or first.batches == [["zero", "1", "3"], ["5", "7"]]
    assert second.batches == [["0", "2", "4"], ["6"]]
    asking.close()


def test_callers_who_ask_at_once_after_a_silence_are_answered_together() -> None:
    asking, speaker = AskingThread(), Slow("one")
    speaker.may.set()
    for _ in range(20):  # a busy machine may put a pause between two of them
        futures = [asking.ask(speaker, question(str(number))) for number in range(4)]
        assert [future.result(10).text for future in futures] == ["0", "1", "2", "3"]
    assert ["0", "1", "2", "3"] in speaker.batches
    asking.close()


def test_one_questions_fault_is_its_own_and_the_thread_lives_on() -> None:
    asking, speaker = AskingThread(), Slow("one")
    speaker.may.set()
    with pytest.raises(EngineError):
        asking.ask(speaker, question("bad")).result(10)
    with pytest.raises(ZeroDivisionError):
        asking.call(lambda: 1 // 0).result(10)
    assert asking.ask(speaker, question("good")).result(10).text == "GOOD"
    asking.close()


def test_a_line_that_is_full_is_closed_and_a_question_can_be_taken_back() -> None:
    asking, speaker = AskingThread(most_waiting=2), Slow("one")
    running = asking.ask(speaker, question("first"))
    while asking.waiting:
        pass
    waiting = [asking.ask(speaker, question("x")), asking.ask(speaker, question("y"))]
    with pytest.raises(QueueFull):
        asking.ask(speaker, question("z"))
    assert waiting[0].cancel()
    speaker.may.set()
    assert (running.result(10).text, waiting[1].result(10).text) == ("FIRST", "Y")
    assert ["x"] not in speaker.batches
    asking.close()
    with pytest.raises(QueueFull):
        asking.ask(speaker, question("late"))


def ask(engine: FakeEngine, *questions: Question, on_text: Callable[[str], None] | None = None) -> dict[int, Any]:
    found: dict[int, Any] = {}
    speaker = WeightsSpeaker("m", "m", lambda: engine)
    asked = [Asked(speaker, one, on_text) for one in questions]
    speaker.answer(asked, lambda index, outcome: found.update({index: outcome}))
    return found


def test_room_for_an_answer_is_what_was_asked_for_what_is_left_or_the_default() -> None:
    engine = FakeEngine(context_tokens=2000)
    ask(engine, question("one two"), question("one two", max_new_tokens=7), question("word " * 1990))
    given = {call.decoding.max_new_tokens for call in engine.calls if call.decoding is not None}
    assert given == {DEFAULT_NEW_TOKENS, 7, 2000 - 1992}
    found = ask(engine, question("word " * 2000), question("fine"))
    assert isinstance(found[0], TooLong)
    assert found[1].text == "fine"


def test_equal_prompts_without_a_seed_draw_apart_and_with_one_alike() -> None:
    engine = FakeEngine()
    ask(engine, *[question("same") for _ in range(4)], question("other"))
    drawn = {call.decoding for call in engine.calls if call.decoding is not None}
    assert len({decoding.seed for decoding in drawn}) == 5
    engine.calls.clear()
    ask(engine, *[question("same", seed=7) for _ in range(3)], question("same", temperature=0.0))
    assert {(call.decoding.seed, call.decoding.temperature) for call in engine.calls if call.decoding} == {(7, 1.0), (0, 0.0)}


def test_a_base_and_its_adapters_are_asked_in_one_go() -> None:
    engine, found = FakeEngine(lambda prompt, decoding, adapter: str(adapter)), {}
    speakers = [WeightsSpeaker("m", "m", lambda: engine, adapter) for adapter in (None, Path("a"), Path("b"))]
    assert len({speaker.key for speaker in speakers}) == 1
    assert speakers[0].key != WeightsSpeaker("n", "n", lambda: engine).key
    asked = [Asked(speaker, question("x")) for speaker in speakers]
    speakers[1].answer(asked, lambda index, outcome: found.update({index: outcome.text}))  # type: ignore[union-attr]
    assert found == {0: "None", 1: "a", 2: "b"}


def test_what_fails_together_bears_its_own_faults_and_nobody_hears_a_beginning_twice() -> None:
    class Breaking(FakeEngine):
        def answer(self, requests: Sequence[Request], *, on_text: Any = None, on_answer: Any = None) -> list[Generation]:
            texts = [request.prompt.messages[0].content for request in requests]
            if "heard" in texts and on_text is not None:
                on_text(texts.index("heard"), "once ")
            if "bad" in texts:
                raise EngineError("it broke", "mend it")
            return super().answer(requests, on_text=on_text, on_answer=on_answer)

    quiet = ask(Breaking(), question("good"), question("bad"), question("fine"))
    assert [getattr(quiet[place], "text", "fault") for place in range(3)] == ["good", "fault", "fine"]
    heard: list[str] = []
    told = ask(Breaking(), question("heard"), question("bad"), on_text=heard.append)
    assert heard == ["once "]
    assert [isinstance(told[place], EngineError) for place in range(2)] == [True, True]


def test_a_group_that_fails_in_the_middle_keeps_the_answers_it_had() -> None:
    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        if prompt.messages[0].content == "bad":
            raise EngineError("it broke", "mend it")
        return "fine"

    found = ask(FakeEngine(answer), question("good", temperature=0.0), question("bad", temperature=0.0))
    assert found[0].text == "fine"
    assert isinstance(found[1], EngineError)


# serve.toml


PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "serve.md"


def test_the_file_of_the_page_says_what_its_options_would(tmp_path: Path) -> None:
    (shown,) = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "serve.toml").write_text(shown, encoding="utf-8")
    found = load_serve_settings(None, tmp_path)
    assert found.models == ("smollm2-135m-instruct",)
    assert found.aliases == {"gpt-4o-mini*": "smollm2-135m-instruct", "text-embedding-*": "wordllama"}
    assert found.runs == (str(tmp_path / "support-tickets"),)
    assert (found.host, found.port) == ("127.0.0.1", 8000)
    assert load_serve_settings(tmp_path / "serve.toml", tmp_path / "elsewhere") == found


def test_without_a_file_everything_is_as_ever(tmp_path: Path) -> None:
    assert load_serve_settings(None, tmp_path) == ServeSettings()


@pytest.mark.parametrize(
    ("content", "said"),
    [("alias = 1", "unknown key 'alias'"), ("port = 70000", "'port'"), ("[aliases]\na = 1", "'aliases.a'"), ("port", "not TOML")],
)
def test_a_file_that_cannot_be_followed_is_refused_by_its_key(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "serve.toml").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_serve_settings(None, tmp_path)


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--config"):
        load_serve_settings(tmp_path / "mine.toml", tmp_path)
