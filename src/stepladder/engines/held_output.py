"""The ways in which servers are asked to hold an answer to a grammar, and how it is found out which of them one obeys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Grammar, Prompt

LABEL_KEY = "label"
PROBE_WORD = "zq7kx"
"""Nothing says this of its own accord: who does was held to it."""
PROBE = Prompt("probe", (Message("user", "Say hello."),))
PROBE_TOKENS = 64
UNPROVEN = f"may not hold its answers to a given shape: the question that would show it was cut (at {PROBE_TOKENS} tokens)"


@dataclass(frozen=True, slots=True)
class Way:
    """One spelling of a held output: what it adds to a request."""

    name: str
    body: Callable[[Any], Mapping[str, Any]]


def _strict(schema: Any) -> Mapping[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    return {"response_format": form}


SCHEMA_WAYS = (
    Way("response_format json_schema", _strict),  # OpenAI, vLLM, Ollama, llama.cpp, Stepladder
    Way(
        "response_format json_object with a schema", lambda schema: {"response_format": {"type": "json_object", "schema": schema}}
    ),
    Way("structured_outputs", lambda schema: {"structured_outputs": {"json": schema}}),  # vLLM from 0.11
    Way("guided_json", lambda schema: {"guided_json": schema}),  # vLLM before
)
REGEX_WAYS = (
    Way("structured_outputs", lambda pattern: {"structured_outputs": {"regex": pattern}}),
    Way("guided_regex", lambda pattern: {"guided_regex": pattern}),
)


def ways_for(grammar: Grammar) -> tuple[Way, ...]:
    """The spellings to try, the commonest first. Labels travel as a schema."""
    return REGEX_WAYS if grammar.kind == "regex" else SCHEMA_WAYS


def asked_for(grammar: Grammar) -> Any:
    """What a way is given: the pattern, or the schema; labels as an object with one field (see `unwrap_label`)."""
    if grammar.kind == "regex":
        return grammar.text
    schema: Any = json.loads(grammar.text)
    if grammar.kind == "labels":
        return {
            "type": "object",
            "properties": {LABEL_KEY: {"type": "string", "enum": schema}},
            "required": [LABEL_KEY],
            "additionalProperties": False,
        }
    return schema


def probe_of(grammar: Grammar) -> Decoding:
    """A question whose only allowed answer is a word that nobody would say."""
    if grammar.kind == "regex":
        return Decoding(PROBE_TOKENS, grammar=Grammar("regex", f"{PROBE_WORD}[0-9]{{2}}"))
    return Decoding(PROBE_TOKENS, grammar=Grammar("labels", json.dumps([PROBE_WORD])))


def was_held(grammar: Grammar, answer: Generation) -> bool:
    """Whether the probe's answer is the forced one. One that was cut before it ended proves nothing, and is let pass."""
    if grammar.kind == "regex":
        return answer.cut or re.fullmatch(f"{PROBE_WORD}[0-9]{{2}}", answer.text.strip()) is not None
    return answer.cut or answer.text.strip() == PROBE_WORD


def unwrap_label(text: str) -> str:
    """The label inside the object; a reply in another shape stays as it is, for the grader to judge."""
    try:
        return str(json.loads(text)[LABEL_KEY])
    except (ValueError, KeyError, TypeError):
        return text
