"""A small task whose answers are tool calls, a template that carries them, and a world that knows how often they are right."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepladder.domain.answer import answer_text
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.fake import FakeEngine, last_user_turn
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder, FakeTuner

CALLING_TEMPLATE = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif %}
    {{- '# Tools\\n' }}{% for tool in tools %}{{ (tool | tojson) + '\\n' }}{% endfor %}{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}{% if message.content %}{{ '\\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""In the manner of Qwen: every call as JSON between <tool_call> and </tool_call>."""


def tool(name: str, **properties: str) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": f"To {name}.", "parameters": parameters}}


TOOLS = (tool("get_weather", city="string", day="string"), tool("set_alarm", hour="integer", label="string"))
CITIES = "Graz Linz Wels Steyr Villach Krems Baden Leoben Bregenz Dornbirn Kufstein Hallein".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NAMES = "bread tea bus choir dentist swimming parcel meeting".split()
THANKS = "You are welcome."


@dataclass
class CallingWorld:
    """What is right, and how often the model knows it: share right zero-shot, with demonstrations, with an adapter."""

    answers: dict[str, Message] = field(default_factory=dict)
    zero_shot: float = 0.2
    shown: float = 0.6
    tuned: float = 0.95
    tuner: FakeTuner = field(default_factory=FakeTuner)

    def message(self, text: str, turns: int, *, tuned: bool = False) -> Message:
        rate = self.tuned if tuned else self.shown if turns > 2 else self.zero_shot
        luck = int(hashlib.sha256(f"{text}{rate}".encode()).hexdigest()[:8], 16) / 2**32
        right = self.answers.get(text, Message("assistant", "I do not know."))
        return right if luck < rate else Message("assistant", "I cannot help with that.")

    def answer(self, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        return answer_text(self.message(last_user_turn(prompt), len(prompt.messages), tuned=adapter is not None), prompt.tools)

    @property
    def tools(self) -> Tools:
        return Tools(FakeEngine(self.answer), self.tuner, FakeEmbedder())


def rows(count: int) -> list[dict[str, Any]]:
    """Two in five ask for the weather, two for an alarm, one only says thank you."""
    made = []
    for number in range(count):
        city, day, name = CITIES[number % 12], DAYS[number * 3 % 7], NAMES[number * 5 % 8]
        if number % 5 < 2:
            text = f"What will the weather be like in {city} on {day} ({number * 37 % 211})?"
            answer: dict[str, Any] = {"tool_calls": [openai_call(number, "get_weather", {"day": day, "city": city})]}
        elif number % 5 < 4:
            text = f"Wake me at {number % 11 + 1} for the {name}, I am in {city} ({number * 53 % 223})."
            answer = {"tool_calls": [openai_call(number, "set_alarm", {"hour": number % 11 + 1, "label": name})]}
        else:
            text = f"Thanks for the {name} in {city}, it was good on {day} ({number * 41 % 227})."
            answer = {"content": THANKS}
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": None, **answer}]
        made.append({"id": f"r{number:03}", "messages": turns, "tools": list(TOOLS)})
    return made


def openai_call(number: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def write_tool_task(folder: Path, count: int, **tables: str) -> CallingWorld:
    """A task folder; `tables` are TOML lines by table, `top` stands before all tables."""
    folder.mkdir(parents=True, exist_ok=True)
    made = rows(count)
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    toml = ['name = "home"', 'instruction = "Help at home."', tables.pop("top", ""), '[data]\nexamples = "examples.jsonl"']
    toml += [f"[{table}]\n{lines}" for table, lines in tables.items()]
    (folder / "task.toml").write_text("\n".join(toml) + "\n", encoding="utf-8")
    return CallingWorld(answers_of(made))


def answers_of(made: list[dict[str, Any]]) -> dict[str, Message]:
    """What is right, by the user's words."""
    return {row["messages"][0]["content"]: _message(row["messages"][1]) for row in made}


def _message(turn: dict[str, Any]) -> Message:
    calls = tuple(ToolCall(call["id"], **call["function"]) for call in turn.get("tool_calls", ()))
    return Message("assistant", turn["content"] or "", tool_calls=calls)
