"""How far tuned weights have moved from their base: loss on plain texts, and the divergence of the next-token distributions.

One text a forward, without a cache: what is compared are differences of a few per mille, which padding must not touch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional as F

from stepladder.engines.transformers.scoring import LOGIT_FLOATS

Ids = Sequence[int]


def text_nll(model: Any, ids: Ids) -> float:
    """Mean nats per token of a text after its first token, softmax in fp32."""
    logits = _logits(model, ids, len(ids))[:-1]
    return float(F.cross_entropy(logits, torch.tensor(ids[1:], device=logits.device)))


def divergences(base: Any, tuned: AbstractContextManager[Any], prompts: Sequence[Ids], answers: Sequence[Ids]) -> Iterator[float]:
    """KL(base‖tuned) in nats, the mean over the tokens of each answer; base logits of all rows are held meanwhile.

    Args:
        tuned: Puts the adapter in and gives the model; entered once, after the base has answered.
        answers: Token ids; the distribution before each of them is compared.
    """
    rows = [(*prompt, *answer[:-1]) for prompt, answer in zip(prompts, answers, strict=True)]
    before = [_logits(base, row, len(answer)) for row, answer in zip(rows, answers, strict=True)]
    with tuned as model:
        for row, answer, logits in zip(rows, answers, before, strict=True):
            after = F.log_softmax(_logits(model, row, len(answer)), dim=-1)
            kl = F.kl_div(after, F.log_softmax(logits, dim=-1), reduction="sum", log_target=True)
            yield float(kl) / len(answer)


def chunks(answers: Sequence[Ids], vocabulary: int) -> Iterator[list[int]]:
    """Places of answers whose logits fit into memory together, in order."""
    chunk: list[int] = []
    held = 0
    for place, answer in enumerate(answers):
        if chunk and (held + len(answer)) * vocabulary > LOGIT_FLOATS:
            yield chunk
            chunk, held = [], 0
        chunk.append(place)
        held += len(answer)
    if chunk:
        yield chunk


@torch.inference_mode()
def _logits(model: Any, ids: Ids, keep: int) -> torch.Tensor:
    """Logits of the last `keep` positions, (keep, vocabulary), fp32."""
    device = next(model.parameters()).device
    last = torch.arange(len(ids) - keep, len(ids), device=device)  # by index: see `heads.OwnHead`
    logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=device), use_cache=False, logits_to_keep=last).logits
    return logits[0].float()
