"""The rung `rag`: passages of the user's documents in the prompt, and why it works or does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stepladder.data.gold_passages import GoldPassages
from stepladder.domain.messages import Chunk, Example, Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import FitContext, Predictor, Prompt, Recipe
from stepladder.techniques.asking import Asked, ModelPredictor, generate, say_dropped
from stepladder.techniques.forms import PLAIN, Form, form_of, recipe_form, reference_text
from stepladder.techniques.racing import Answers, mean_score, race, shuffled
from stepladder.techniques.retrieval import Retriever, query_of
from stepladder.techniques.shots import fit_into_context

RECALL_AT = (1, 3, 5)  # reported whatever numbers of passages the budget lets us try: a search costs next to nothing
COMMON_ABSTENTIONS = 2  # rows without sources that must share an answer before it counts as "the documents do not say"


@dataclass(frozen=True, slots=True)
class WithPassages:
    """The `count` best passages before the question; the last ones go when they do not fit.

    `without` (input id -> passages left out) serves the control without gold passages.
    """

    context: FitContext
    form: Form
    retriever: Retriever
    count: int
    without: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def __call__(self, inputs: Sequence[Input]) -> list[Asked]:
        banned = [self.without.get(input.id, frozenset()) for input in inputs]
        found = self.retriever.search([query_of(input) for input in inputs], self.count, banned)
        chunks = self.retriever.chunks
        return ask_with_passages(self.context, self.form, inputs, [[chunks[index] for index in some] for some in found])


@dataclass(frozen=True)
class Rag:
    """Retrieval-augmented answers; the number of passages is chosen on validation, and so is the prompt form.

    The form that wins without passages need not read them well, so the plain one races against it.
    """

    name: str = "rag"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_no_documents(context)

    def fit(self, context: FitContext) -> Predictor:
        retriever = Retriever(context.chunks, context.embedder)
        rows = shuffled(context.validation, context.seed)
        prompters = {
            f"{count} passages, {form.name}": WithPassages(context, form, retriever, count)
            for form in dict.fromkeys([recipe_form(context.recipes, "prompt"), PLAIN])
            for count in possible_passages(context)
        }

        def answer(name: str, inputs: Sequence[Input]) -> list[Prediction]:
            return generate(context, prompters[name](inputs))

        answers = Answers(context, rows, answer)
        winner, tried = race(list(prompters), answers.value, len(rows))
        prompter = prompters[winner]
        recipe: dict[str, Any] = {
            "rung": self.name,
            **prompter.form.as_recipe(),
            "k": prompter.count,
            "reduced": say_dropped(context, prompter([row.input for row in rows])),
            "tried": [one.as_recipe() for one in tried],
            "diagnosis": _diagnose(prompter, rows, answers.first(winner, len(rows))),
        }
        return ModelPredictor(context, recipe, prompter)

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        retriever = Retriever(context.chunks, context.embedder)
        return ModelPredictor(context, recipe, WithPassages(context, form_of(recipe), retriever, recipe["k"]))


def ask_with_passages(
    context: FitContext, form: Form, inputs: Sequence[Input], passages: Sequence[Sequence[Chunk]]
) -> list[Asked]:
    """One prompt an input with its own passages, in the order given."""

    def build(input: Input, some: Sequence[object]) -> Prompt:
        return form.render(context.task, input, passages=[one for one in some if isinstance(one, Chunk)])

    fitted = fit_into_context(context, inputs, passages, build, drop_first=False)
    asked = []
    for (prompt, dropped), some in zip(fitted, passages, strict=True):
        shown = some[: len(some) - dropped]
        documents = tuple(dict.fromkeys(chunk.document for chunk in shown))
        asked.append(Asked(prompt, documents, tuple(chunk.id for chunk in shown), dropped))
    return asked


def possible_passages(context: FitContext) -> list[int]:
    """The numbers of passages worth trying."""
    return sorted({min(count, len(context.chunks)) for count in context.choices.passages if count > 0})


def reason_no_documents(context: FitContext) -> str | None:
    """Why nothing can be retrieved, in a sentence; None when it can."""
    if not context.chunks:
        return "There are no documents to retrieve from; name their folder in `[data] documents`."
    return None


def _diagnose(prompter: WithPassages, rows: Sequence[Example], answers: Sequence[Prediction]) -> dict[str, Any]:
    """Which part fails, the retriever or the reader: controls on validation.

    `closed_book`: the best zero-shot's score. `oracle_context`: only gold passages shown; `retrieved` is the rung's own score on
    the same rows. `recall`: share of those rows with a gold passage among the first k.
    """
    context = prompter.context
    gold_passages = GoldPassages(context.chunks, (*context.train, *context.validation))
    gold = {row.id: gold_passages.of(row) for row in rows}
    known = [row for row in rows if gold[row.id]]
    found: dict[str, Any] = {"closed_book": context.recipes.get("prompt", {}).get("score"), "gold_rows": len(known)}
    if not known:
        return {**found, "recall": "not measurable", "oracle_context": None, "retrieved": None, "abstention": None}
    ids = {row.id for row in known}
    found["retrieved"] = mean_score(context.score([answer for answer in answers if answer.input_id in ids]))
    found["oracle_context"] = _oracle(prompter, known, gold)
    found["recall"] = _recall(prompter.retriever, known, gold, {*possible_passages(context), *RECALL_AT})
    found["abstention"] = _abstention(prompter, [row for row in known if row.sources], gold_passages)
    return found


def _oracle(prompter: WithPassages, rows: Sequence[Example], gold: Mapping[str, frozenset[int]]) -> float | None:
    context, chunks = prompter.context, prompter.retriever.chunks
    everything = frozenset(range(len(chunks)))
    others = [everything - gold[row.id] for row in rows]
    ranked = prompter.retriever.search([query_of(row.input) for row in rows], max(prompter.count, 1), others)
    shown = [[chunks[index] for index in some] for some in ranked]
    asked = ask_with_passages(context, prompter.form, [row.input for row in rows], shown)
    return mean_score(context.score(generate(context, asked)))


def _recall(
    retriever: Retriever, rows: Sequence[Example], gold: Mapping[str, frozenset[int]], wanted: Collection[int]
) -> dict[str, float]:
    counts = sorted({min(count, len(retriever.chunks)) for count in wanted})
    ranked = retriever.search([query_of(row.input) for row in rows], max(counts))
    hits = {
        count: [not gold[row.id].isdisjoint(some[:count]) for row, some in zip(rows, ranked, strict=True)] for count in counts
    }
    return {str(count): float(np.mean(hit)) for count, hit in hits.items()}


def _abstention(prompter: WithPassages, rows: Sequence[Example], gold: GoldPassages) -> dict[str, Any] | None:
    """What happens when the answer stands nowhere: the share that abstains, and the score that is still reached.

    What abstaining reads like is taken from the data: the answers that several rows without sources share. Without such rows
    the share is None. A high score without the gold passages means that they were not needed.
    """
    if not rows:
        return None
    context = prompter.context
    without = {row.id: gold.traces_of(row) for row in rows}
    asking = WithPassages(context, prompter.form, prompter.retriever, prompter.count, without)
    answers = generate(context, asking([row.input for row in rows]))
    phrases = _abstention_phrases(context)
    abstained = float(np.mean([_folded(answer.text) in phrases for answer in answers])) if phrases else None
    return {
        "rows": len(rows),
        "abstained": abstained,
        "score_without_gold": mean_score(context.score(answers)),
        "phrases": sorted(phrases),
    }


def _abstention_phrases(context: FitContext) -> set[str]:
    answers = Counter(_folded(reference_text(context.task, row)) for row in context.train if not row.sources)
    return {answer for answer, count in answers.items() if count >= COMMON_ABSTENTIONS}


def _folded(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
