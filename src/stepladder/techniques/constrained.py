"""The rung `constrained`: the best zero-shot form, held to a grammar; with a reasoning field also think first, constrain then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepladder.domain.answer import wants_tool_calls
from stepladder.domain.errors import MissingExtra, NotShown
from stepladder.domain.messages import Input, Message
from stepladder.domain.prediction import Generation, Prediction
from stepladder.domain.protocols import FitContext, Predictor, Prompt, Recipe
from stepladder.techniques.asking import ModelPredictor, ZeroShot, generate
from stepladder.techniques.forms import form_of, recipe_form
from stepladder.techniques.racing import Answers, race, shuffled
from stepladder.techniques.shape import grammar_of

REASONING_FIELDS = frozenset({"reasoning", "thought", "thoughts", "explanation", "rationale"})
THINK = "Think it through first, in a few sentences. Do not give the answer in its final form yet."
NOW_ANSWER = "Now give the answer in the form that was asked for."


@dataclass(frozen=True)
class Constrained:
    """The same words, but the engine allows only answers of the right shape."""

    name: str = "constrained"
    tuned: bool = False

    def reason_not_to(self, context: FitContext) -> str | None:
        return reason_no_grammar(context)

    def fit(self, context: FitContext) -> Predictor:
        recipe = {"rung": self.name, **recipe_form(context.recipes, "prompt").as_recipe()}
        if not has_reasoning_field(context):
            return self.restore({**recipe, "think": False, "tried": []}, context)
        ways = {"direct": False, "think first": True}

        def answer(name: str, inputs: Sequence[Input]) -> list[Prediction]:
            return self.restore({**recipe, "think": ways[name]}, context).predict(inputs)

        rows = shuffled(context.validation, context.seed)
        try:
            winner, tried = race(list(ways), Answers(context, rows, answer).value, len(rows))
        except NotShown:  # the thoughts, as earlier answers
            winner, tried = "direct", []
        return self.restore({**recipe, "think": ways[winner], "tried": [one.as_recipe() for one in tried]}, context)

    def restore(self, recipe: Recipe, context: FitContext) -> Predictor:
        prompter = ZeroShot(context, form_of(recipe))
        if recipe.get("think"):
            return ThinkThenConstrain(context, recipe, prompter)
        return ModelPredictor(context, recipe, prompter, grammar=grammar_of(context.task))


@dataclass(frozen=True, slots=True)
class ThinkThenConstrain:
    """Two calls an input: free thoughts, then the answer under the grammar with the thoughts in view."""

    context: FitContext
    recipe: Recipe
    prompter: ZeroShot

    def predict(self, inputs: Sequence[Input]) -> list[Prediction]:
        """Answer every input once, in order; tokens and seconds of both calls are added up.

        An input whose thoughts did not come has no answer: what is said without them is not this rung's.
        """
        first = [replace(one, prompt=_ask_for_thoughts(one.prompt)) for one in self.prompter(inputs)]
        thoughts = generate(self.context, first)
        came = [place for place, thought in enumerate(thoughts) if not (thought.fault or thought.unspoken)]
        second = [replace(first[place], prompt=_show_thoughts(first[place].prompt, thoughts[place].text)) for place in came]
        answers = dict(zip(came, generate(self.context, second, grammar=grammar_of(self.context.task)), strict=True))
        return [_joined(thought, answers[place]) if place in answers else thought for place, thought in enumerate(thoughts)]


def has_reasoning_field(context: FitContext) -> bool:
    """Whether the schema's first property asks for reasoning in words."""
    properties: dict[str, Any] = (context.task.output_schema or {}).get("properties", {})
    return next(iter(properties), "").lower() in REASONING_FIELDS


def reason_no_grammar(context: FitContext) -> str | None:
    """Why answers cannot be held to a grammar here, in a sentence; None when they can."""
    if wants_tool_calls((*context.train, *context.validation)):
        return "The expected answers hold tool calls: a grammar of texts does not describe them."
    grammar = grammar_of(context.task)
    if grammar is None:
        return "The answers are free text: there is no schema, label list or regular expression to hold them to."
    try:
        able = {"grammar", *(["regex"] if grammar.kind == "regex" else [])} <= context.engine.can
    except MissingExtra as error:
        return str(error)
    if able:
        return None
    engine = context.engine.identity.engine
    what_to_do = f" {MissingExtra('constrained', 'llguidance')}" if engine == "transformers" else ""
    return f"The engine '{engine}' cannot hold its answers to this kind of grammar.{what_to_do}"


def _ask_for_thoughts(prompt: Prompt) -> Prompt:
    *earlier, last = prompt.messages
    if last.role != "user":
        return replace(prompt, messages=(*prompt.messages, Message("user", THINK)))
    return replace(prompt, messages=(*earlier, replace(last, content=f"{last.content}\n\n{THINK}")))


def _show_thoughts(prompt: Prompt, thoughts: str) -> Prompt:
    turns = (Message("assistant", thoughts), Message("user", NOW_ANSWER))
    return replace(prompt, messages=(*prompt.messages, *turns))


def _joined(thought: Prediction, answer: Prediction) -> Prediction:
    before, after = thought.generation, answer.generation
    if before is None or after is None or after.fault:
        return answer
    both: Generation = replace(
        after,
        prompt_tokens=before.prompt_tokens + after.prompt_tokens,
        completion_tokens=before.completion_tokens + after.completion_tokens,
        latency_seconds=before.latency_seconds + after.latency_seconds,
        shared_prompt_tokens=before.shared_prompt_tokens + after.shared_prompt_tokens,
    )
    return Prediction.from_generation(answer.input_id, both, retrieved=answer.retrieved, passages=answer.passages)
