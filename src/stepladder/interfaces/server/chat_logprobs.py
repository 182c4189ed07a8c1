"""How likely the tokens of a chat's answer were, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from stepladder.domain.messages import Message
from stepladder.domain.plain import TokenScore
from stepladder.domain.prediction import Generation, TokenLogprob
from stepladder.interfaces.server.shared import JsonObject
from stepladder.service.serving.house import House
from stepladder.service.serving.question import Question
from stepladder.service.serving.speakers import WeightsSpeaker

OnModels = Callable[[Callable[[], list[TokenScore]]], Awaitable[list[TokenScore]]]
"""Runs something on the thread that asks the models."""


async def logprobs_of(
    house: House, on_models: OnModels, speaker: WeightsSpeaker, question: Question, generation: Generation
) -> JsonObject:
    """Those of the tokens as they were written, where the engine noted them; else of the text, read once more."""
    if generation.logprobs:
        return in_shape([_written(token) for token in _without_end(generation)])
    answer, top = Message("assistant", generation.text), question.logprobs or 0

    def score() -> list[TokenScore]:
        return house.plain(speaker.base).answer_scores(question.prompt, answer, top, adapter=speaker.adapter)

    return in_shape([_token(score) for score in await on_models(score)])


def in_shape(tokens: Sequence[JsonObject]) -> JsonObject:
    return {"content": list(tokens), "refusal": None}


def pieces_of(text: str, tokens: Sequence[JsonObject]) -> Iterator[tuple[str, list[JsonObject]]]:
    """The text cut where its tokens are, letters whole, each piece with its tokens.

    What does not come out as `text`, as where it ends at a stop sequence within a token, ends with the piece that does.
    """
    place, held = 0, list[JsonObject]()
    for token in tokens:
        held.append(token)
        raw = [byte for one in held for byte in (one["bytes"] or [])]
        piece = bytes(raw).decode("utf-8", errors="replace")
        if any(one["bytes"] is None for one in held) or "\ufffd" in piece or not text.startswith(piece, place):
            continue
        yield piece, held
        place, held = place + len(piece), []
    if place < len(text):
        yield text[place:], held


def within(text: str, scores: JsonObject | None) -> JsonObject | None:
    """Those of the tokens in `text`, which may have ended before the model did."""
    if scores is None:
        return None
    return in_shape([token for _, tokens in pieces_of(text, scores["content"]) for token in tokens])


def _without_end(generation: Generation) -> Sequence[TokenLogprob]:
    """Without the token that ended the turn, which is no part of the answer."""
    tokens = generation.logprobs
    ended = not generation.cut and not generation.text.endswith(tokens[-1].text)
    return tokens[:-1] if ended else tokens


def _written(token: TokenLogprob) -> JsonObject:
    entries = [_entry(text, _bytes_of(text), value) for text, value in token.top]
    return {**_entry(token.text, _bytes_of(token.text), token.logprob), "top_logprobs": entries}


def _bytes_of(text: str) -> bytes | None:
    """None for half a letter, whose bytes the engine does not tell."""
    return None if "\ufffd" in text else text.encode("utf-8")


def _token(score: TokenScore) -> JsonObject:
    entries = [_entry(text, raw, value) for text, raw, value in score.top]
    return {**_entry(score.text, score.raw, score.log_probability), "top_logprobs": entries}


def _entry(text: str, raw: bytes | None, value: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": 0.0 if value is None else value, "bytes": None if raw is None else list(raw)}
