"""Conversations as token ids: prompts for an engine, and rows with their learned tokens for training. Knows no torch.

Both go through `encode_pieces`, so the ids a model is asked with are, to the id, those it was trained to continue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from stepladder.domain.errors import ModelError, NotShown
from stepladder.domain.messages import Message, ToolCall
from stepladder.domain.protocols import Conversation
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.dropped import refuse_dropped_calls, refuse_dropped_words
from stepladder.models.tokenizer import Tokenizer

# Private-use characters around a control token's name in text from outside, while the template is at work.
_OPEN, _CLOSE = "\U000f0000", "\U000f0001"
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """A training row. `learned[i]` says whether token i is one the model shall learn to write.

    Learned are the assistant turns of weight 1, each from its first token of content to its end-of-turn token;
    headers, the line end after a turn, and everything else are not. `prompt_tokens` come before the first of them.
    `excluded` are the places of the same tokens in turns of weight 0.
    """

    id: str
    token_ids: tuple[int, ...]
    learned: tuple[bool, ...]
    excluded: tuple[int, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        return self.learned.index(True)

    @property
    def learned_tokens(self) -> int:
        return sum(self.learned)


@dataclass(frozen=True, slots=True)
class _Turn:
    """Characters of the rendering that an assistant wrote, end-of-turn token included."""

    start: int
    end: int
    learned: bool


def encode_prompt(
    template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
    """Token ids up to where the model's turn begins.

    Raises:
        ModelError: The template cannot render the conversation (tools or words dropped, order of roles).
        NotShown: It rewrites earlier answers.
    """
    safe = [_mark(message, tokenizer) for message in messages]
    safe_tools = _mark_value(list(tools), tokenizer)
    text = template.render(safe, safe_tools, add_generation_prompt=True)
    refuse_dropped_words(template, safe, safe_tools, text, add_generation_prompt=True)
    turns = _assistant_turns(template, tokenizer, safe, safe_tools, text)
    ids = [id for piece, _ in encode_pieces(tokenizer, text, turns) for id in piece]
    _refuse_doubled_bos(tokenizer, ids, template.model)
    return ids


def encode_conversation(template: ChatTemplate, tokenizer: Tokenizer, conversation: Conversation) -> EncodedConversation:
    """Token ids of a whole conversation and which of them are learned.

    Raises:
        ModelError: Nothing is to be learned in the row; or the template rewrites earlier turns, drops content, or ends
            the assistant's turn with no stop token. Each names the row.
    """
    try:
        safe = [_mark(message, tokenizer) for message in conversation.messages]
        safe_tools = _mark_value(list(conversation.tools), tokenizer)
        text = template.render(safe, safe_tools, add_generation_prompt=False)
        refuse_dropped_words(template, safe, safe_tools, text, add_generation_prompt=False)
        turns = _assistant_turns(template, tokenizer, safe, safe_tools, text)
        pieces = encode_pieces(tokenizer, text, turns)
    except ModelError as error:
        raise type(error)(f"Row '{conversation.id}': {error.problem}", error.hint) from error
    token_ids = tuple(id for ids, _ in pieces for id in ids)
    written = [number % 2 == 1 for number, (ids, _) in enumerate(pieces) for _ in ids]  # prompt, answer, prompt, ...
    learned = tuple(is_learned for ids, is_learned in pieces for _ in ids)
    if not any(learned):
        raise ModelError(
            f"Row '{conversation.id}' has nothing to learn: no assistant turn of weight 1.", "Add one, or drop the row."
        )
    _refuse_doubled_bos(tokenizer, token_ids, template.model)
    excluded = tuple(place for place, is_written in enumerate(written) if is_written and not learned[place])
    return EncodedConversation(conversation.id, token_ids, learned, excluded)


def encode_answer(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    answer: str,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[int]:
    """Ids the model would have to write after `encode_prompt(messages)` to give `answer`: its end-of-turn token is the last.

    Raises:
        ModelError: As `encode_conversation`.
    """
    safe = [_mark(message, tokenizer) for message in (*messages, Message("assistant", answer))]
    safe_tools = _mark_value(list(tools), tokenizer)
    turn, after = _one_turn(template, tokenizer, safe, safe_tools, len(messages))
    return _encode_marked(tokenizer, after[turn.start : turn.end])


def end_of_turn(template: ChatTemplate, tokenizer: Tokenizer) -> str:
    """The control token with which the template ends an assistant's turn, found by rendering one.

    Raises:
        ModelError: It ends it with none, so a model tuned on it would never learn to stop.
    """
    tail = template.turn_end
    token = tokenizer.find_control_token(tail)
    if token is None:
        raise ModelError(
            f"The chat template of {template.model} ends the assistant's turn with no stop token ({tail[:40]!r}).",
            "A model tuned on it would not learn to stop; use another model or template.",
        )
    return token


def stop_ids(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every id that ends an answer: those of config, generation config and tokenizer, and the template's end of turn."""
    try:
        own = [tokenizer.control_tokens[end_of_turn(template, tokenizer)]]
    except ModelError:
        own = []
    return tuple(dict.fromkeys([*own, *tokenizer.eos_ids]))


def encode_pieces(tokenizer: Tokenizer, text: str, turns: Sequence[_Turn]) -> list[tuple[list[int], bool]]:
    """Ids of the rendering, cut where an assistant begins and stops writing, each piece with whether it is learned.

    A model begins to write at a token's beginning. So the cut is made before tokenizing: an answer that begins with a
    line break does not melt into the line break of its header, and the prompt's ids are a prefix of the row's.
    """
    cuts = [0, *(place for turn in turns for place in (turn.start, turn.end)), len(text)]
    learned = [False, *(flag for turn in turns for flag in (turn.learned, False))]
    pieces = []
    for number, (start, end) in enumerate(pairwise(cuts)):
        ids = _encode_marked(tokenizer, text[start:end], first=number == 0)
        pieces.append((ids, learned[number]))
    return pieces


def _assistant_turns(
    template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], text: str
) -> list[_Turn]:
    """Where the assistant speaks in `text`, by rendering the conversation up to before and after each of its turns."""
    turns = []
    for number, message in enumerate(messages):
        if message.role == "assistant":
            turn, after = _one_turn(template, tokenizer, messages, tools, number)
            if not text.startswith(after[: turn.end]):
                raise _rewrites(template, number)
            turns.append(turn)
    return turns


def _one_turn(
    template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], number: int
) -> tuple[_Turn, str]:
    """The assistant's turn `number`, and the rendering of the conversation up to it."""
    message = messages[number]
    before = template.render(messages[:number], tools, add_generation_prompt=True)
    after = template.render(messages[: number + 1], tools, add_generation_prompt=False)
    if not after.startswith(before):
        raise _rewrites(template, number)
    written = after[len(before) :]
    if message.content.strip() not in written:
        raise NotShown(f"the chat template of {template.model} changes the assistant's words.", "Use another model.")
    refuse_dropped_calls(template, message, number + 1, written)
    ending = end_of_turn(template, tokenizer)
    # A control token inside the content stands between marks, so the last bare one is the template's own.
    bare = _MARKED.sub(lambda match: " " * len(match.group()), written)
    if ending not in bare:
        raise ModelError(f"the chat template of {template.model} leaves a turn without its end {ending!r}.", "Use another model.")
    return _Turn(len(before), len(before) + bare.rindex(ending) + len(ending), message.weight != 0), after


def _rewrites(template: ChatTemplate, number: int) -> NotShown:
    return NotShown(
        f"the chat template of {template.model} rewrites earlier turns (turn {number + 1}), so what was written or "
        "trained would not be what is shown later.",
        "Use a model whose template only appends, or one exchange per conversation.",
    )


def _mark(message: Message, tokenizer: Tokenizer) -> Message:
    """The message with control tokens' names in it marked as mere text."""
    calls = tuple(
        ToolCall(call.id, _mark_text(call.name, tokenizer), _mark_text(call.arguments, tokenizer)) for call in message.tool_calls
    )
    return replace(message, content=_mark_text(message.content, tokenizer), tool_calls=calls)


def _mark_value(value: Any, tokenizer: Tokenizer) -> Any:
    if isinstance(value, str):
        return _mark_text(value, tokenizer)
    if isinstance(value, Mapping):
        return {key: _mark_value(item, tokenizer) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mark_value(item, tokenizer) for item in value]
    return value


def _mark_text(text: str, tokenizer: Tokenizer) -> str:
    if _OPEN in text or _CLOSE in text:
        raise ModelError(
            f"the text holds the private character {_OPEN!r} or {_CLOSE!r}, which marks control tokens here.",
            "Remove it from the data.",
        )
    if tokenizer.find_control_token(text) is None:
        return text
    longest_first = sorted(tokenizer.control_tokens, key=len, reverse=True)
    pattern = "|".join(re.escape(token) for token in longest_first)
    return re.sub(pattern, lambda match: f"{_OPEN}{match.group()}{_CLOSE}", text)


def _encode_marked(tokenizer: Tokenizer, text: str, *, first: bool = False) -> list[int]:
    if _OPEN not in text:
        return tokenizer.encode(text) if first else tokenizer.encode_continuation(text)
    ids: list[int] = []
    for number, piece in enumerate(_MARKED.split(text)):  # text, token's name, text, token's name, ..., text
        if not piece:
            continue
        if number % 2:
            ids += tokenizer.encode_plain(piece)
        else:
            ids += tokenizer.encode(piece) if first and not ids else tokenizer.encode_continuation(piece)
    return ids


def _refuse_doubled_bos(tokenizer: Tokenizer, ids: Sequence[int], model: str) -> None:
    # One bos may well begin every turn; only two in a row at the very start are a template adding to a tokenizer.
    if tokenizer.bos_id is not None and len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_id:
        raise ModelError(f"The prompt of {model} begins with its first token twice.", "Remove it from the template or tokenizer.")
