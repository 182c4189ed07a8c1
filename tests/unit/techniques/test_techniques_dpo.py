"""The rung `dpo`: which rows teach it, where it starts from, what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.protocols import Choices, FitContext
from stepladder.engines.fake import FakeEngine
from stepladder.techniques.asking import ZeroShot
from stepladder.techniques.dpo import Dpo, preferences
from stepladder.techniques.fake import FakeTuner, fake_context
from stepladder.techniques.forms import PLAIN
from stepladder.techniques.lora import Lora


def climbed(folder: Path, **changes: Any) -> tuple[FitContext, FakeTuner]:
    """A context in which `lora` was climbed, in its own folder beside this rung's."""
    tuner = FakeTuner()
    context = fake_context(folder, FakeEngine(), "text", tuner=tuner, **changes)
    lora = Lora().fit(replace(context, folder=folder / "lora"))
    tuner.trainings.clear()
    return replace(context, folder=folder / "dpo", recipes={"lora": lora.recipe}), tuner


def without_rejected(rows: tuple[Example, ...], kept: int = 0) -> tuple[Example, ...]:
    return tuple(row if number < kept else replace(row, rejected=None) for number, row in enumerate(rows))


def test_each_seed_goes_on_from_its_own_fine_tune_and_pays_for_both(tmp_path: Path) -> None:
    context, tuner = climbed(tmp_path, choices=Choices(forms=2, seeds=2))
    recipe = Dpo().fit(context).recipe
    assert [training.seed for training in tuner.trainings] == [0, 1]
    assert [one["start_sha256"] for one in recipe["adapters"]] == [
        one["adapter_sha256"] for one in context.recipes["lora"]["adapters"]
    ]
    assert all(one["seconds"] == 2.0 for one in recipe["adapters"])  # a second each, by the fake tuner
    assert recipe["form"] == context.recipes["lora"]["form"]


def test_only_preference_rows_teach_it(tmp_path: Path) -> None:
    context, tuner = climbed(tmp_path)
    context = replace(context, tune_rows=without_rejected(context.tune_rows, 25))
    Dpo().fit(context)
    assert [row.id for row in tuner.trainings[0].rows] == [row.id for row in context.tune_rows[:25]]


def test_too_few_pairs_are_counted_and_none_are_said(tmp_path: Path) -> None:
    context, _ = climbed(tmp_path)
    assert Dpo().reason_not_to(context) is None
    few = replace(context, tune_rows=without_rejected(context.tune_rows, 7))
    assert "at least 20 preference rows to learn and 4 to stop by; there are 7 and" in str(Dpo().reason_not_to(few))
    none = replace(context, tune_rows=without_rejected(context.tune_rows))
    assert Dpo().reason_not_to(none) == "No row has a non-preferred answer beside its reference."
    alone = replace(context, recipes={})
    assert "that rung was not climbed" in str(Dpo().reason_not_to(alone))


def test_both_answers_stand_behind_one_prompt_and_only_they_are_learned(tmp_path: Path) -> None:
    context, _ = climbed(tmp_path)
    turns = (Message("user", "first"), Message("assistant", "earlier", weight=1), Message("user", "second"))
    row = Example(Input("talk", turns), Message("assistant", "good", weight=1), rejected=Message("assistant", "bad"))
    (pair,) = preferences(context, ZeroShot(context, PLAIN), [row])
    assert pair.chosen.messages[:-1] == pair.rejected.messages[:-1]
    assert [turn.weight for turn in pair.chosen.messages if turn.role == "assistant"] == [0.0, 1.0]
    assert (pair.chosen.messages[-1].content, pair.rejected.messages[-1].content) == ("good", "bad")
    assert pair.rejected.messages[-1].weight == 1.0


@pytest.mark.parametrize("kind", ["json", "calls"])
def test_rejected_answers_are_serialised_like_references(tmp_path: Path, kind: Any) -> None:
    context = fake_context(tmp_path, FakeEngine(), kind)
    row = context.tune_rows[0]
    (pair,) = preferences(context, ZeroShot(context, PLAIN), [replace(row, rejected=row.reference)])
    assert pair.rejected.messages[-1] == pair.chosen.messages[-1]
