"""Output layers: how the next tokens are chosen, and what stands in for a model's own where its own modules answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stepladder.engines.transformers.rows import Row, choose
from stepladder.models.prefix.choice import Chooser


class Output(Protocol):
    """An output layer, for what it reads: (places, width)."""

    def likeliest(self, states: Tensor, allowed: Tensor | None = None) -> list[int]:
        """The token with the highest logit at each place, among those allowed."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Of every token, (places, vocabulary), in fp32 at least."""
        ...


class Head(Output, Protocol):
    """An output layer that gets what it reads from the model's own modules."""

    @property
    def vocabulary(self) -> int: ...

    def log_probabilities(self, states: Tensor, tokens: Tensor) -> Tensor:
        """ln p of `tokens` (places, any number), in fp32 at least."""
        ...

    def read(self, model: Any, places: Tensor, **inputs: Any) -> Tensor:
        """One forward of the model, perhaps with an adapter on it; what the head reads at `places`, (rows, places, width)."""
        ...


class FineHead:
    """The last hidden states times the output matrix in fp32."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self.likeliest, self.logits, self.log_probabilities = chooser.likeliest, chooser.logits, chooser.log_probabilities

    @property
    def vocabulary(self) -> int:
        return self._chooser.vocabulary

    def read(self, model: Any, places: Tensor, **inputs: Any) -> Tensor:
        states: Tensor = model.base_model(**inputs).last_hidden_state[:, places]
        return states


class OwnHead:
    """The model's own logits, rounded to its own type."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def read(self, model: Any, places: Tensor, **inputs: Any) -> Tensor:
        # Places by index, not by number: transformers cuts by number with a slice, and torch's linear layer then copies
        # the whole head once a row (14 s instead of 10 ms for 32 rows of a 135M model in bf16).
        logits: Tensor = model(**inputs, logits_to_keep=places).logits
        return logits

    def likeliest(self, states: Tensor, allowed: Tensor | None = None) -> list[int]:
        free = states if allowed is None else states.masked_fill(~allowed, float("-inf"))
        return [int(token) for token in free.argmax(dim=-1).tolist()]

    def logits(self, states: Tensor) -> Tensor:
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def log_probabilities(self, states: Tensor, tokens: Tensor) -> Tensor:
        return torch.log_softmax(self.logits(states), dim=-1).gather(1, tokens)


def read_head(model: Any, chooser: Chooser | None = None) -> Head:
    """A head in fp32 where the model's logits are its output matrix times its states; else the model's own.

    Args:
        model: Without any adapter.
        chooser: Of the same model, where there is one already.
    """
    own = OwnHead(model.config.get_text_config().vocab_size)
    output = model.get_output_embeddings()
    if model.base_model is model or not isinstance(output, nn.Linear) or output.weight.dtype != model.dtype:
        return own
    fine = FineHead(chooser or Chooser(model))
    return fine if _agree(fine, own, model) else own


def head_on(model: Any, head: Head) -> Head:
    """`head`, unless an adapter on the model has changed the output layer: then the model's own."""
    return head if isinstance(model.get_output_embeddings(), nn.Linear) else OwnHead(head.vocabulary)


@torch.inference_mode()
def _agree(fine: FineHead, own: OwnHead, model: Any) -> bool:
    ids = torch.tensor([trial_ids(model)], device=model.device)
    places = torch.arange(ids.shape[1], device=model.device)
    ours, theirs = (head.logits(head.read(model, places, input_ids=ids, use_cache=False)[0]) for head in (fine, own))
    return ours.shape == theirs.shape and agree(ours, theirs, model.dtype)


def trial_ids(model: Any) -> list[int]:
    """A few tokens to compare two ways of computing by."""
    return [number % model.config.get_text_config().vocab_size for number in range(5, 250, 15)]


def agree(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> bool:
    """Whether two computations in `dtype` of the same logits differ by no more than rounding may make them."""
    return bool(torch.linalg.norm(ours - theirs) <= trusted(dtype) * torch.linalg.norm(theirs))


def trusted(dtype: torch.dtype) -> float:
    """Most of ‖ours - theirs‖ / ‖theirs‖ that is put down to rounding, which makes 0.01 of it in bf16 and 0.00001 in fp32."""
    return {torch.bfloat16: 0.05, torch.float16: 0.02}.get(dtype, 0.001)


def next_tokens(output: Output, states: Tensor, rows: Sequence[Row], allowed: Tensor | None) -> list[int]:
    """One token a row. Where only the likeliest matters, no logits of all tokens are computed in fp32.

    Args:
        states: What `output` reads, (rows, width); those of finished rows do not matter.
        allowed: bool, (rows, vocabulary): the tokens that the rows' grammars leave.
    """
    if allowed is not None:
        allowed = allowed.to(states.device)
    plain = [number for number, row in enumerate(rows) if row.plain]
    if len(plain) == len(rows):
        return output.likeliest(states, allowed)
    chosen = dict(zip(plain, output.likeliest(*_of(plain, states, allowed)), strict=True))
    rest = [number for number, row in enumerate(rows) if not row.plain]
    own, left = _of(rest, states, allowed)
    chosen |= zip(rest, choose(output.logits(own), [rows[number] for number in rest], left), strict=True)
    return [chosen[number] for number in range(len(rows))]


def _of(numbers: Sequence[int], states: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor | None]:
    index = torch.tensor(numbers, dtype=torch.long, device=states.device)
    return states[index], None if allowed is None else allowed[index]
