"""The rung `prompt`: no examples, only words. The user's own prompts, a bank of forms, and for labels label scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.messages import Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import FitContext, Predictor, Prompt, Recipe
from stepladder.techniques.asking import GENERATE, ModelPredictor, ZeroShot, generate
from stepladder.techniques.forms import PLAIN, Form, bank_of, form_of, own_forms
from stepladder.techniques.label_scoring import METHODS, LabelScorer, ScoredLabels, can_score_labels
from stepladder.techniques.racing import Answers, Tried, best, mean_score, race, shuffled

SCORING = " + label scoring"
PLAIN_ONLY = "The expected answers hold tool calls: forms that speak of an answer's shape were not tried, nor was label scoring."


@dataclass(frozen=True)
class ZeroShotPrompt:
    """Zero-shot: forms race on validation; the plain form and the user's own always reach the final."""

    name: str = "prompt"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        return None

    def fit(self, context: FitContext) -> Predictor:
        """Raises: DataError when one of the user's own prompts cannot be read."""
        own = own_forms(context.task)
        calls = wants_tool_calls((*context.train, *context.validation))
        forms = {form.name: form for form in (*own, *bank_of(context.task, 1 if calls else context.choices.forms))}
        candidates = _Candidates(context, forms)
        names = list(forms)
        if can_score_labels(context):
            names += [name + SCORING for name in forms]
        finalists = [PLAIN.name, *(form.name for form in own)]
        winner, tried = race(names, candidates.value, len(context.validation), finalists=finalists)
        recipe = candidates.recipe(self.name, winner, tried)
        return self.restore({**recipe, "remark": PLAIN_ONLY} if calls else recipe, context)

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        return ModelPredictor(context, recipe, ZeroShot(context, form_of(recipe)))


@dataclass
class _Candidates:
    """Every form twice where labels can be scored: once writing the answer, once scoring the labels."""

    context: FitContext
    forms: dict[str, Form]
    scored: dict[str, ScoredLabels] = field(default_factory=dict)
    priors: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = shuffled(self.context.validation, self.context.seed)
        self.answers = Answers(self.context, self.rows, self._generate)

    def value(self, name: str, count: int) -> float | None:
        """Mean score on the first rows; label scoring counts with the best of its methods there."""
        if not name.endswith(SCORING):
            return self.answers.value(name, count)
        methods = self._methods(name, count)
        return methods[best(methods)]

    def recipe(self, rung: str, winner: str, tried: Sequence[Tried]) -> dict[str, Any]:
        """The winner, with the method of label scoring that did best on all rows."""
        decode, priors = GENERATE, None
        methods: dict[str, float | None] = {}
        if winner.endswith(SCORING):
            methods = self._methods(winner, len(self.rows))
            decode = best(methods)
            priors = list(self.priors[winner]) if decode == "score:calibrated" else None
        form = self.forms[winner.removesuffix(SCORING)]
        return {
            "rung": rung,
            **form.as_recipe(),
            "decode": decode,
            "priors": priors,
            "score": next(one.score for one in tried if one.name == winner),
            "rows": len(self.rows),
            "tried": [self._tried(one) for one in tried],
            "decodes": [Tried(name, len(self.rows), score).as_recipe() for name, score in methods.items()],
        }

    def _tried(self, tried: Tried) -> dict[str, Any]:
        form = tried.name.removesuffix(SCORING)
        return tried.as_recipe(form=form, decode="score" if tried.name.endswith(SCORING) else GENERATE)

    def _generate(self, name: str, inputs: Sequence[Input]) -> list[Prediction]:
        return generate(self.context, ZeroShot(self.context, self.forms[name])(inputs))

    def _methods(self, name: str, count: int) -> dict[str, float | None]:
        prompts_of = self._prompts_of(self.forms[name.removesuffix(SCORING)])
        scorer = LabelScorer(self.context, prompts_of)
        if name not in self.priors:
            self.priors[name] = scorer.priors()
            self.scored[name] = scorer.score([])
        known = self.scored[name]
        if len(known.ids) < count:
            missing = [row.input for row in self.rows[len(known.ids) : count]]
            known = self.scored[name] = known.then(scorer.score(prompts_of(missing)))
        scored, priors = known.head(count), self.priors[name]
        return {method: mean_score(self.context.score(scorer.predictions(scored, method, priors))) for method in METHODS}

    def _prompts_of(self, form: Form) -> Any:
        def prompts(inputs: Sequence[Input]) -> list[Prompt]:
            return [form.render(self.context.task, input) for input in inputs]

        return prompts
