"""A real model that is made to write tool calls in its template's way: they come back in the one form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepladder.domain.messages import Message
from stepladder.domain.protocols import Decoding, Grammar, Prompt
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.loading import load, unload_all
from tiny_model import build_tiny_model
from tool_tasks import CALLING_TEMPLATE, TOOLS

WRITTEN = '<tool_call>\n{"name": "get_weather", "arguments": {"day": "Monday", "city": "Graz"}}\n</tool_call>'
BARE_TEMPLATE = CALLING_TEMPLATE.replace("\\n<tool_call>", "").replace("\\n</tool_call>", "")
PROMPT = Prompt("row", (Message("user", "Weather?"),), TOOLS)


def forced(text: str) -> Decoding:
    """The model can write nothing but `text`."""
    return Decoding(200, grammar=Grammar("regex", re.escape(text).replace("\\ ", " ").replace('\\"', '"').replace("\\\n", "\n")))


@pytest.fixture(params=[CALLING_TEMPLATE, BARE_TEMPLATE], ids=["tagged", "bare"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TransformersEngine]:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    folder = build_tiny_model(tmp_path / "calling", template=request.param, hidden=16, layers=1)
    yield TransformersEngine(load(str(folder), device="cpu", dtype="float32"))
    unload_all()


def test_a_written_call_comes_back_in_the_one_form_and_stays_so_in_the_record(engine: TransformersEngine, tmp_path: Path) -> None:
    tagged = "<tool_call>" in engine._loaded.template.text
    text = WRITTEN if tagged else WRITTEN.split("\n")[1]
    expected = '{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Graz", "day": "Monday"}}]}'
    for _ in range(2):
        [answer] = RecordedEngine(engine, tmp_path / "answers.jsonl").generate([PROMPT], forced(text))
        assert (answer.text, answer.cut) == (expected, False)
    [without_tools] = engine.generate([Prompt("row", PROMPT.messages)], forced(text))
    assert (without_tools.text == expected) == tagged  # bare JSON is a call only where tools are on offer


def test_a_call_that_breaks_off_stays_the_text_it_is(engine: TransformersEngine) -> None:
    broken = WRITTEN[:40]
    assert engine.generate([PROMPT], forced(broken))[0].text == broken


def test_a_prompt_with_tools_is_longer_by_them(engine: TransformersEngine) -> None:
    with_tools, without = engine.count_tokens([PROMPT, Prompt("row", PROMPT.messages)])
    assert with_tools > without + 100
