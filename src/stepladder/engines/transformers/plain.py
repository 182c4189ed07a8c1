"""A local model without its chat template: continues bare texts, and says how likely each token of a text is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stepladder.domain.errors import UsageError
from stepladder.domain.messages import Message
from stepladder.domain.plain import Continuation, TokenScore
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.conversation import encode_answer, encode_prompt


class LocalPlainTexts:
    """`domain.plain.PlainTexts` over an engine's model: tokens are chosen, drawn and weighed as those of its answers are.

    What the model's own generation config says (penalties, suppressed tokens) does not count, as it does not for answers.
    """

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine
        self._loaded = engine.loaded
        self._letters = _byte_of_letter()

    @property
    def context_tokens(self) -> int:
        return self._loaded.identity.context_tokens

    def encode(self, text: str) -> list[int]:
        return self._loaded.tokenizer.encode_plain(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Raises `UsageError` for an id that is no token."""
        most = self._loaded.tokenizer.vocabulary_size
        if any(not 0 <= id < most for id in ids):
            raise UsageError(f"A token id lies beyond the {most} tokens of {self._loaded.identity.name}.", "Send texts instead.")
        return self._loaded.tokenizer.decode(ids, keep_control_tokens=True)

    def continue_text(
        self, ids: Sequence[int], max_new_tokens: int, *, temperature: float, top_p: float, seed: int, adapter: Path | None
    ) -> Continuation:
        self.decode(ids)  # names an unknown id before the model stumbles over it
        decoding = Decoding(max_new_tokens, temperature=temperature, seed=seed, top_p=top_p)
        return self._engine.continue_ids(ids, decoding, adapter=adapter)

    def scores(self, ids: Sequence[int], top: int, *, adapter: Path | None) -> list[TokenScore]:
        """Every token of a text, with the `top` likeliest at each place."""
        self.decode(ids)
        found = [TokenScore(*self._shown(ids[0]), None)]
        foretold = self._engine.next_logits(ids[:-1], adapter=adapter) if len(ids) > 1 else ()
        for id, logits in zip(ids[1:], foretold, strict=True):
            values = torch.log_softmax(logits, dim=-1)
            best = torch.topk(values, top) if top else None
            tops = [] if best is None else list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            likeliest = tuple((*self._shown(other), value) for other, value in tops)
            found.append(TokenScore(*self._shown(id), float(values[id]), likeliest))
        return found

    def answer_scores(self, prompt: Prompt, answer: Message, top: int, *, adapter: Path | None) -> list[TokenScore]:
        """The tokens of an answer to a conversation, without the one that ends it."""
        loaded = self._loaded
        before = encode_prompt(loaded.template, loaded.tokenizer, prompt.messages, prompt.tools)
        said = encode_answer(loaded.template, loaded.tokenizer, prompt.messages, answer.content, prompt.tools)[:-1]
        return self.scores([*before, *said], top, adapter=adapter)[len(before) :]

    def _shown(self, id: int) -> tuple[str, bytes]:
        """A token's text and bytes; half a letter has bytes that are no text by themselves."""
        written = self._loaded.tokenizer.backend.id_to_token(id) or ""
        text = self._loaded.tokenizer.decode([id], keep_control_tokens=True)
        if "\ufffd" in text and all(letter in self._letters for letter in written):
            return text, bytes(self._letters[letter] for letter in written)
        return text, text.encode("utf-8")


def _byte_of_letter() -> dict[str, int]:
    """Which byte each letter of a byte-level vocabulary stands for: printable ones for themselves, the others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + place): byte for place, byte in enumerate(others)}}
