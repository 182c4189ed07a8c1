"""Whether a chat template shows all that it was given. What it drops, a model would never see. Knows no torch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message
from stepladder.models.chat_template import ChatTemplate, as_object

_SINGLE_QUOTED = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r"})  # as templates do it by hand


def refuse_dropped_words(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    text: str,
    *,
    add_generation_prompt: bool,
) -> None:
    """Check `text`, the rendering of `messages` and `tools`: every system, user and tool turn, and every tool's name.

    Raises:
        ModelError: An instruction, a question, a tool or its result is not in it; named.
    """
    for number, message in enumerate(messages, 1):
        if message.role in ("system", "user"):
            shown = message.content.strip() in text
        elif message.role == "tool":
            shown = _adds(message.content, *(_render(template, messages[:end], tools) for end in (number - 1, number)))
        else:
            continue  # an assistant's turn is found again in what it adds
        if not shown:
            raise ModelError(
                f"the chat template of {template.model} drops words of turn {number} ({message.role}): the model would never "
                "see them.",
                "Move them to a turn that it shows, or use another model.",
            )
    without = _render(template, messages, [], add_generation_prompt) if tools else ""
    for tool in tools:
        name = tool.get("function", tool).get("name", "")
        if not _adds(name, without, text):
            raise ModelError(
                f"the chat template of {template.model} drops the tool '{name}': the model would never see it.",
                "Choose a model that was trained with tools, or remove it from the data.",
            )


def refuse_dropped_calls(template: ChatTemplate, message: Message, number: int, written: str) -> None:
    """Check `written`, what turn `number` of an assistant adds to the rendering: all its calls, with all they say.

    An argument that is null or an empty text may be left out.

    Raises:
        ModelError: A name or an argument is not in it, or not as often as it is called.
    """
    content = message.content.strip()
    needed: Counter[frozenset[str]] = Counter()
    for place, call in enumerate(message.tool_calls, 1):
        for value in (call.name, *_leaves(as_object(call.arguments))):
            forms = _forms(value)
            needed[forms] += 1
            if not any(written.count(form) >= needed[forms] + content.count(form) for form in forms):
                raise ModelError(
                    f"the chat template of {template.model} drops {value!r} of tool call {place} in turn {number}: the model "
                    "would never see it.",
                    "Choose a model whose template shows every call, or remove the call from the data.",
                )


def _adds(value: str, before: str, after: str) -> bool:
    """Whether `value` stands in `after` once more than in `before`; the same words may stand elsewhere."""
    return not value.strip() or any(after.count(form) > before.count(form) for form in _forms(value))


def _render(template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], prompt: bool = False) -> str:
    try:
        return template.render(messages, tools, add_generation_prompt=prompt)
    except ModelError:  # a part of a conversation that cannot stand alone shows nothing
        return ""


def _leaves(value: Any) -> Iterator[str | float | bool]:
    """Every text, number and truth value in a call's arguments."""
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(item)
    elif value is not None and value != "":
        yield value


def _forms(value: str | float | bool) -> frozenset[str]:
    """The ways in which a template may write a value: as it is, as JSON or Python does, or as JSON inside JSON."""
    if not isinstance(value, str):
        return frozenset({json.dumps(value), str(value)})
    plain = value.strip()
    quoted = _quoted(plain)
    return quoted.union({plain}, *map(_quoted, quoted))


def _quoted(text: str) -> frozenset[str]:
    """The text as it stands between quotes, letters beyond ASCII kept or escaped."""
    both_ends = (json.dumps(text, ensure_ascii=False), json.dumps(text), repr(text))
    return frozenset(quoted[1:-1] for quoted in both_ends) | {text.translate(_SINGLE_QUOTED)}
