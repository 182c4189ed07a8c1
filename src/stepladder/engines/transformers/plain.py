"""A local model without its chat template: continues bare texts, and says how likely each token of a text is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from stepladder.domain.errors import UsageError
from stepladder.domain.messages import Message
from stepladder.domain.plain import Continuation, TokenScore
from stepladder.domain.protocols import Prompt
from stepladder.models.conversation import encode_answer, encode_prompt
from stepladder.models.loading import LoadedModel

LEAST_SHARE = 1e-9
"""A `top_p` that leaves the likeliest token only; transformers takes no 0."""


class LocalPlainTexts:
    """`domain.plain.PlainTexts` over a loaded model. One call at a time, and none while an engine answers with the same model."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
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
        stops = list(self._loaded.stop_ids)
        drawing: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": max(top_p, LEAST_SHARE)}
        config = GenerationConfig(max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=stops[0], **drawing)
        prompt = torch.tensor([list(ids)], device=self._loaded.device)
        devices = [self._loaded.device] if self._loaded.device.type == "cuda" else []
        with self._speaking(adapter) as model, torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            written = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
        new = written[0, len(ids) :].tolist()
        ended = bool(new) and new[-1] in stops
        text = self._loaded.tokenizer.decode(new[:-1] if ended else new, keep_control_tokens=True)
        return Continuation(text, len(new), cut=not ended)

    def scores(self, ids: Sequence[int], top: int, *, adapter: Path | None) -> list[TokenScore]:
        """Every token of a text, with the `top` likeliest at each place."""
        self.decode(ids)
        with self._speaking(adapter) as model, torch.inference_mode():
            logits = model(torch.tensor([list(ids)], device=self._loaded.device)).logits[0]
        found = [TokenScore(*self._shown(ids[0]), None)]
        for place, id in enumerate(ids[1:]):
            values = torch.log_softmax(logits[place].float(), dim=-1)  # one row at a time: the whole table may be gigabytes
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

    @contextmanager
    def _speaking(self, adapter: Path | None) -> Iterator[Any]:
        if adapter is None:
            yield self._loaded.model
            return
        with self._loaded.adapter(adapter) as model:
            yield model

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
