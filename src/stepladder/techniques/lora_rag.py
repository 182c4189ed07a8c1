"""The rung `lora+rag`: tuned to read retrieved passages, distractors among them, and to do without when the answer is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepladder.data.gold_passages import GoldPassages
from stepladder.domain.messages import Chunk, Example
from stepladder.domain.protocols import Conversation, FitContext, Recipe
from stepladder.techniques.asking import GENERATE
from stepladder.techniques.forms import Form, form_of, recipe_form
from stepladder.techniques.rag import WithPassages, ask_with_passages, possible_passages, reason_no_documents
from stepladder.techniques.retrieval import Retriever, query_of
from stepladder.techniques.tuning import TunedPredictor, conversations, reason_not_to_tune, tune_seeds

SHARE_WITHOUT_GOLD = 0.2


@dataclass(frozen=True)
class LoraRag:
    """Trained with the passages it will see when it answers.

    Source:
        The mixture of gold and distractor passages: Zhang et al. (2024), RAFT, arXiv 2403.10131.
    """

    name: str = "lora+rag"
    tuned: bool = True

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_not_to_tune(context) or reason_no_documents(context)

    def fit(self, context: FitContext) -> TunedPredictor:
        """Raises: DataError or ModelError from the tuner, when a row is too long or has nothing to learn."""
        form = recipe_form(context.recipes, "lora", "rag", "prompt")
        count = int(context.recipes.get("rag", {}).get("k", possible_passages(context)[-1]))
        retriever = Retriever(context.chunks, context.embedder)
        learned = training_passages(context, retriever, context.tune_rows, count)
        held_out = _retrieved(retriever, context.held_out, count)
        adapters = tune_seeds(
            context,
            _rows(context, form, context.tune_rows, learned),
            _rows(context, form, context.held_out, held_out),
            form.name,
        )
        recipe: dict[str, Any] = {
            "rung": self.name,
            **form.as_recipe(),
            "decode": GENERATE,
            "k": count,
            "adapters": adapters,
        }
        return TunedPredictor(context, recipe, WithPassages(context, form, retriever, count))

    def restore(self, recipe: Recipe, context: FitContext) -> TunedPredictor:
        retriever = Retriever(context.chunks, context.embedder)
        return TunedPredictor(context, recipe, WithPassages(context, form_of(recipe), retriever, recipe["k"]))


def training_passages(context: FitContext, retriever: Retriever, rows: Sequence[Example], count: int) -> list[list[Chunk]]:
    """Passages for every training row: distractors and, but for a fifth of the rows, one gold passage at a drawn place.

    Rows whose gold passage is not known get what retrieval finds.
    """
    generator = np.random.default_rng(context.seed)
    gold_passages = GoldPassages(context.chunks, (*context.train, *context.validation))
    gold = [gold_passages.of(row) for row in rows]
    known = [index for index, some in enumerate(gold) if some]
    bare = {int(index) for index in generator.permutation(known)[: math.floor(SHARE_WITHOUT_GOLD * len(known) + 0.5)]}
    queries = [query_of(row.input) for row in rows]
    everything = frozenset(range(len(retriever.chunks)))
    best_gold = retriever.search(queries, 1, [everything - some for some in gold])
    distractors = retriever.search(queries, count, gold)
    shown = []
    for index, some in enumerate(distractors):
        chosen = list(some)
        if gold[index]:
            chosen = list(some) if index in bare else [*best_gold[index], *some[: count - 1]]
            chosen = [chosen[int(place)] for place in generator.permutation(len(chosen))]
        shown.append([retriever.chunks[one] for one in chosen])
    return shown


def _retrieved(retriever: Retriever, rows: Sequence[Example], count: int) -> list[list[Chunk]]:
    found = retriever.search([query_of(row.input) for row in rows], count)
    return [[retriever.chunks[index] for index in some] for some in found]


def _rows(
    context: FitContext, form: Form, examples: Sequence[Example], passages: Sequence[Sequence[Chunk]]
) -> list[Conversation]:
    asked = ask_with_passages(context, form, [example.input for example in examples], passages)
    return conversations(context, examples, asked)
