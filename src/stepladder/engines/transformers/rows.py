"""Prompts on their way to an answer, and how their next token is chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from stepladder.domain.protocols import Decoding
from stepladder.engines.transformers.grammar import RowGrammar

Likely = tuple[int, float]  # a token and its natural-log probability


@dataclass(slots=True)
class Row:
    """One prompt on its way to an answer.

    Attributes:
        suffix: Its tokens after the shared prefix, at least one.
        draft: What the answer may begin with; every token of it is checked, and none is taken that would not be written anyway.
        seconds: Adds up its share of every forward's wall time.
        logprobs: For every token its log probability and the likeliest tokens', when asked for.
        listener: Called after every token.
    """

    index: int
    suffix: Sequence[int]
    decoding: Decoding
    seed: int = 0
    grammar: RowGrammar | None = None
    draft: Sequence[int] = ()
    listener: Callable[[Row], None] | None = None
    answer: list[int] = field(default_factory=list)
    completion_tokens: int = 0
    seconds: float = 0.0
    end: Literal["", "stop", "length"] = ""
    logprobs: list[tuple[Likely, list[Likely]]] = field(default_factory=list)
    generator: torch.Generator | None = None

    @property
    def plain(self) -> bool:
        """Whether only its likeliest token matters."""
        return self.decoding.temperature == 0 and self.decoding.logprobs is None

    def take(self, token: int, stop_ids: frozenset[int]) -> None:
        """Add a chosen token, and see whether the answer ends with it."""
        self.completion_tokens += 1
        if token in stop_ids:
            self.end = "stop"
        else:
            self.answer.append(token)
            if self.grammar is not None:
                self.grammar.take(token)
                if self.grammar.complete:  # only the end of the turn may follow: no need to compute it
                    self.end = "stop"
            if not self.end and self.completion_tokens >= self.decoding.max_new_tokens:
                self.end = "length"
        if self.listener is not None:
            self.listener(self)


def draw_seed(seed: int, prompt_ids: Sequence[int]) -> int:
    """A row's own seed: the same for the same prompt, wherever it stands and whoever shares its batch."""
    digest = hashlib.sha256(f"{seed}:{','.join(map(str, prompt_ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def choose(logits: torch.Tensor, rows: Sequence[Row], allowed: torch.Tensor | None) -> list[int]:
    """The next token of every row: the likeliest, or at a temperature a draw from its own generator.

    Args:
        logits: (rows, vocabulary) in fp32; those of finished rows do not matter.
        allowed: bool, like `logits`: the tokens that the rows' grammars leave.
    """
    free = logits if allowed is None else logits.masked_fill(~allowed, float("-inf"))
    tokens = [int(token) for token in free.argmax(dim=-1).tolist()]
    for place, row in enumerate(rows):
        if row.end or row.plain:
            continue
        if row.decoding.temperature > 0:
            tokens[place] = _draw(free[place], row)
        if row.decoding.logprobs is not None:
            row.logprobs.append(_likely(logits[place], tokens[place], row.decoding.logprobs))
    return tokens


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The likeliest tokens that hold `top_p` together, the others at 0; (vocabulary,), not scaled to a sum of 1."""
    if top_p >= 1:
        return probabilities
    ordered, tokens = probabilities.sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    kept = tokens[before < max(top_p, torch.finfo(ordered.dtype).tiny)]  # the likeliest is always among them
    return torch.zeros_like(probabilities).index_copy_(0, kept, probabilities[kept])


def _draw(logits: torch.Tensor, row: Row) -> int:
    if row.generator is None:
        row.generator = torch.Generator().manual_seed(row.seed)
    # In fp64 on the CPU: the same draw on every device, and no rounding that a rare token would feel.
    probabilities = torch.softmax(logits.cpu().double() / row.decoding.temperature, dim=-1)
    # `multinomial` divides every probability by a number of its own and takes the largest: what rounding changes in the others
    # hardly ever changes which one that is.
    return int(torch.multinomial(nucleus(probabilities, row.decoding.top_p), 1, generator=row.generator))


def _likely(logits: torch.Tensor, token: int, count: int) -> tuple[Likely, list[Likely]]:
    logs = torch.log_softmax(logits, dim=-1)
    best = logs.topk(min(count, len(logs)))
    top = list(zip(map(int, best.indices.tolist()), map(float, best.values.tolist()), strict=True))
    return (token, float(logs[token])), top
