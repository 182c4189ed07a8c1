"""The rung `dpo`: the adapters of `lora`, trained on to prefer the better of two answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stepladder.domain.messages import Example
from stepladder.domain.protocols import Conversation, FitContext, Preference, Recipe
from stepladder.techniques.asking import Prompter, ZeroShot, say_dropped, step
from stepladder.techniques.forms import form_of
from stepladder.techniques.tuning import (
    TunedPredictor,
    adapter_folder,
    adapter_record,
    borrowed_adapters,
    choose_tuned_decode,
    conversation,
    reason_not_to_tune,
)

FEWEST_PAIRS = 20
"""Preference rows to learn from; below, the held-out loss does not leave ln 2 by more than its noise. Our choice."""
FEWEST_HELD_OUT = 4


@dataclass(frozen=True)
class Dpo:
    """Direct preference optimisation after supervised tuning, which is also its frozen reference."""

    name: str = "dpo"
    tuned: bool = True

    def reason_not_to(self, context: FitContext) -> str | None:
        reason = reason_not_to_tune(context)
        if reason is not None:
            return reason
        rows, held_out = len(preferred(context.tune_rows)), len(preferred(context.held_out))
        if not rows:
            return "No row has a non-preferred answer beside its reference."
        if rows < FEWEST_PAIRS or held_out < FEWEST_HELD_OUT:
            return (
                f"Preference tuning needs at least {FEWEST_PAIRS} preference rows to learn and {FEWEST_HELD_OUT} to stop by; "
                f"there are {rows} and {held_out}."
            )
        if "lora" not in context.recipes:
            return "It starts from the adapter of `lora`, and that rung was not climbed."
        return None

    def fit(self, context: FitContext) -> TunedPredictor:
        """Raises: ModelError from the tuner, when a pair cannot be learned from."""
        form = form_of(context.recipes["lora"])
        prompter = ZeroShot(context, form)
        rows, held_out = (preferences(context, prompter, part) for part in (context.tune_rows, context.held_out))
        adapters = [_prefer(context, rows, held_out, start) for start in borrowed_adapters(context, "lora")]
        decode = choose_tuned_decode(context, prompter, adapters)
        recipe: dict[str, Any] = {"rung": self.name, **form.as_recipe(), **decode.as_recipe(), "adapters": adapters}
        return self.restore(recipe, context)

    def restore(self, recipe: Recipe, context: FitContext) -> TunedPredictor:
        return TunedPredictor(context, recipe, ZeroShot(context, form_of(recipe)))


def preferred(examples: Sequence[Example]) -> list[Example]:
    """Those with an answer that was liked less."""
    return [example for example in examples if example.rejected is not None]


def preferences(context: FitContext, prompter: Prompter, examples: Sequence[Example]) -> list[Preference]:
    """Both answers of each preference row to the prompt the rung asks; only the answers are learned."""
    rows = preferred(examples)
    asked = prompter([row.input for row in rows])
    say_dropped(context, asked)
    found = []
    for row, one in zip(rows, asked, strict=True):
        assert row.rejected is not None
        chosen, rejected = (replace(row, reference=answer) for answer in (row.reference, row.rejected))
        found.append(Preference(*(_answer_only(conversation(context, side, one.prompt)) for side in (chosen, rejected))))
    return found


def _answer_only(row: Conversation) -> Conversation:
    """Earlier turns are the same on both sides: learning them would say nothing."""
    earlier = tuple(replace(turn, weight=0.0) if turn.role == "assistant" else turn for turn in row.messages[:-1])
    return replace(row, messages=(*earlier, replace(row.messages[-1], weight=1.0)))


def _prefer(
    context: FitContext, rows: Sequence[Preference], held_out: Sequence[Preference], start: dict[str, Any]
) -> dict[str, Any]:
    """The record of one more adapter. Its seconds include those of the adapter it starts from: whoever adopts it trains both."""
    assert context.tuner is not None
    seed = int(start["seed"])
    with step(context.progress, f"preferences, seed {seed}"):
        tuned = context.tuner.prefer(
            rows,
            held_out,
            context.task.settings.rungs.dpo,
            start=adapter_folder(context, start),
            folder=context.folder / f"preferred-seed{seed}",
            seed=seed,
            progress=context.progress,
        )
    record = adapter_record(context, tuned, seed)
    return {**record, "seconds": record["seconds"] + float(start["seconds"]), "start_sha256": start["adapter_sha256"]}
