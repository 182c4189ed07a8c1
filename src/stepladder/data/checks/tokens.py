"""Rows through a model's own template and tokenizer. Knows no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence

from stepladder.data.checks.context import Lengths, RowTokens, TemplateFacts
from stepladder.data.checks.rows import CheckedRow
from stepladder.domain.errors import ModelError
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Conversation
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.conversation import encode_conversation, stop_ids
from stepladder.models.tokenizer import Tokenizer


def template_facts(rows: Sequence[CheckedRow], instruction: str, template: ChatTemplate, tokenizer: Tokenizer) -> TemplateFacts:
    """What a training on these rows, under the instruction as system turn, would see."""
    stops = frozenset(stop_ids(template, tokenizer))
    instructed = _with_system(template, instruction)
    facts = {row.id: _row_tokens(row, instructed, template, tokenizer, stops) for row in rows}
    return TemplateFacts(template.model, frozenset(tokenizer.control_tokens), facts)


def lengths_of(facts: TemplateFacts, context_tokens: int) -> Lengths:
    """Prompt and answer lengths of the rows that could be rendered."""
    counted = {id: (row.prompt_tokens, row.tokens - row.prompt_tokens) for id, row in facts.rows.items() if row.tokens}
    return Lengths(context_tokens, counted)


def _with_system(template: ChatTemplate, instruction: str) -> tuple[Message, ...]:
    """The instruction as a system turn, unless the template knows none; then it would stand in the user's turn."""
    turn = Message("system", instruction)
    try:
        template.render([turn, Message("user", "?")], add_generation_prompt=True)
    except ModelError:
        return ()
    return (turn,)


def _row_tokens(
    row: CheckedRow, instructed: tuple[Message, ...], template: ChatTemplate, tokenizer: Tokenizer, stops: frozenset[int]
) -> RowTokens:
    own = row.example.input.messages
    begin = () if own and own[0].role == "system" else instructed
    messages = (*begin, *own, row.example.reference)
    try:
        encoded = encode_conversation(template, tokenizer, Conversation(row.id, messages, row.example.input.tools))
        rendered = template.render(messages, row.example.input.tools, add_generation_prompt=False)
    except ModelError as error:
        return RowTokens(problem=error.problem.removeprefix(f"Row '{row.id}': "))
    learned = [id for id, is_learned in zip(encoded.token_ids, encoded.learned, strict=True) if is_learned]
    return RowTokens(
        tokens=len(encoded.token_ids),
        prompt_tokens=encoded.prompt_tokens,
        learned_tokens=len(learned),
        learned_turns=sum(message.role == "assistant" and message.weight != 0 for message in messages),
        stops_learned=sum(id in stops for id in learned),
        lost=tuple(message.content for message in messages if not _arrives(message.content.strip(), rendered)),
    )


def _arrives(text: str, rendered: str) -> bool:
    """Whether a text stands in the rendering, as it is or as JSON writes it: some templates dump a tool's answer."""
    return text in rendered or any(json.dumps(text, ensure_ascii=ascii)[1:-1] in rendered for ascii in (True, False))
