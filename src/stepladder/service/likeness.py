"""How much training inputs tell the base model about a test input: the log-likelihood ratio of two backgrounds.

The model reads training inputs and scores a test input as one more of them; then it reads as many texts of no task (the built-in
probes) and scores the same input again. A row that belongs to the task becomes likelier by half a nat a token and more, a foreign
one does not. The likelihood ratio against a background model is how texts of another domain are told apart in Ren et al. 2019,
"Likelihood Ratios for Out-of-Distribution Detection" (NeurIPS); here the background is a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from random import Random

import numpy as np
from numpy.typing import NDArray

from stepladder.data.checks import CheckContext
from stepladder.data.checks.coverage import thinly_covered
from stepladder.data.probes import load_probes
from stepladder.domain.messages import Message
from stepladder.domain.probes import Probes
from stepladder.domain.protocols import Engine, Progress, Prompt

DRAWS = 2  # of each background; their mean is steadier than one
SHOWN = 32  # texts of a draw
LONGEST = 400  # characters of an input that are shown or scored
MOST_ROWS = 300
PARTS_OF_CONTEXT = 3  # one for what is shown, one for the text that is scored; the template has the rest
TOKENS_BETWEEN = 2  # of the empty line between two texts

_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def measure_likeness(context: CheckContext, engine: Engine, progress: Progress) -> dict[str, float]:
    """By id of a test row that is not clearly near a training row: ln p(after training inputs) − ln p(after others), per token.

    Rows that are empty or do not fit are absent.
    """
    room = engine.identity.context_tokens // PARTS_OF_CONTEXT
    thin = [context.rows[place] for place in thinly_covered(context)][:MOST_ROWS]
    counts = _count(engine, [_cut(row.input_text) for row in thin])
    rows = [row for row, tokens in zip(thin, counts, strict=True) if 0 < tokens <= room]
    if not rows:
        return {}
    train = [row.input_text for row in context.rows if context.part_of.get(row.id) == "train"]
    texts = [_cut(row.input_text) for row in rows]
    nats = np.zeros(len(rows))
    progress.start("comparing test inputs with training", 2 * DRAWS)
    for sign, background in ((1, train), (-1, _texts_of_no_task(load_probes(context.task)))):
        for shown in _draws(engine, background, room):
            nats += sign * _nats_a_token(engine, shown, texts) / DRAWS
            progress.advance()
    progress.finish()
    return {row.id: float(likeness) for row, likeness in zip(rows, nats, strict=True) if np.isfinite(likeness)}


def _nats_a_token(engine: Engine, shown: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
    """Shape (texts,); nan for a text without tokens."""
    asked = "Write one more message like these:\n\n" + "\n\n".join(shown)
    prompts = [Prompt(str(number), (Message("user", asked),)) for number in range(len(texts))]
    scores = [score for (score,) in engine.score(prompts, [[text] for text in texts])]
    return np.array([score.log_probability / score.tokens if score.tokens else np.nan for score in scores])


def _draws(engine: Engine, texts: Sequence[str], room: int) -> list[list[str]]:
    """Two samples without a text in common, each of at most 32 texts and `room` tokens."""
    mixed = [_cut(text) for text in Random(0).sample(list(texts), len(texts))]
    size = min(SHOWN, len(mixed) // DRAWS)
    drawn = [mixed[start : start + size] for start in range(0, DRAWS * size, size)]
    return [[text for text, used in zip(part, accumulate(_count(engine, part)), strict=True) if used <= room] for part in drawn]


def _count(engine: Engine, texts: Sequence[str]) -> list[int]:
    """Tokens of each text and the line behind it; its bytes, which are never fewer, where the engine cannot count."""
    if "count" not in engine.can:
        return [len(text.encode()) for text in texts]
    return [tokens + TOKENS_BETWEEN if tokens else 0 for tokens in engine.count_text_tokens(texts)]


def _texts_of_no_task(probes: Probes) -> list[str]:
    return [*(sentence for text in probes.texts for sentence in _SENTENCE.split(text)), *probes.replay]


def _cut(text: str) -> str:
    return " ".join(text.split())[:LONGEST]
