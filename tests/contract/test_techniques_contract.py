"""What every technique promises, checked on every technique and every kind of answer."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from stepladder.domain.answer import answer_text
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.protocols import Decoding, FitContext, Predictor, Prompt, Recipe, Technique
from stepladder.engines.fake import FakeCall, FakeEngine
from stepladder.techniques.fake import LABELS, Kind, fake_context, fake_example, fake_reference
from stepladder.techniques.ladder import LADDER

KINDS: tuple[Kind, ...] = ("labels", "json", "text", "calls")
CASES = [
    (technique, kind)
    for technique in LADDER
    for kind in KINDS
    if not (technique.name == "classifier" and kind != "labels")
    and not ("constrained" in technique.name and kind in {"text", "calls"})
]
WITH_SECRETS = [(one, kind) for one, kind in CASES if kind != "labels" and one.name not in {"baseline", "recorded", "classifier"}]


def name_case(value: object) -> str:
    return value if isinstance(value, str) else str(getattr(value, "name", value))


def answer_by_whole_prompt(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
    """Any change of the prompt or adapter changes the answer."""
    said = json.dumps([[message.as_chat() for message in prompt.messages], adapter.name if adapter else None])
    digest = hashlib.sha256(said.encode()).hexdigest()
    label = LABELS[int(digest[:8], 16) % len(LABELS)]
    if decoding.grammar is not None and decoding.grammar.kind == "json_schema":
        return json.dumps({"kind": label, "note": digest[:12]})
    return label if decoding.grammar is not None else f"{label} {digest[:12]}"


def context_for(technique: Technique, kind: Kind, folder: Path) -> tuple[FitContext, FakeEngine]:
    """A context in which the lower rungs that this one builds on were climbed."""
    engine = FakeEngine(answer_by_whole_prompt)
    context = fake_context(folder, engine, kind)
    context = replace(context, recorded={**context.recorded, **{input.id: "known" for input in new_inputs(kind)}})
    recipes: dict[str, Recipe] = {}
    for lower in LADDER:
        needed = lower.name == "prompt" or (lower.name == "lora" and technique.name in {"lora+constrained", "dpo"})
        if lower.name != technique.name and needed:
            recipes[lower.name] = lower.fit(replace(context, folder=folder / lower.name, recipes=recipes)).recipe
    engine.calls.clear()
    return replace(context, folder=folder / technique.name, recipes=recipes), engine


def new_inputs(kind: Kind) -> list[Input]:
    return [replace(fake_example(kind, cluster, 0).input, id=f"new-{cluster}") for cluster in (30, 31, 32, 7)]


def texts(predictor: Predictor, inputs: list[Input]) -> list[str]:
    return [prediction.text for prediction in predictor.predict(inputs)]


def said(call: FakeCall) -> str:
    return "\n".join(answer_text(message) for message in call.prompt.messages)


@pytest.mark.parametrize(("technique", "kind"), CASES, ids=name_case)
def test_answers_every_input_once_and_in_order(technique: Technique, kind: Kind, tmp_path: Path) -> None:
    context, _ = context_for(technique, kind, tmp_path)
    inputs = [*new_inputs(kind), *(row.input for row in context.train[::5])]
    predictor = technique.fit(context)
    assert [prediction.input_id for prediction in predictor.predict(inputs)] == [input.id for input in inputs]
    assert predictor.predict([]) == []


@pytest.mark.parametrize(("technique", "kind"), CASES, ids=name_case)
def test_restored_from_json_in_a_moved_run_answers_the_same(technique: Technique, kind: Kind, tmp_path: Path) -> None:
    context, engine = context_for(technique, kind, tmp_path / "here")
    predictor = technique.fit(context)
    inputs = [*new_inputs(kind), *(row.input for row in context.train[:6])]
    expected = texts(predictor, inputs)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    recipe = json.loads(json.dumps(predictor.recipe, allow_nan=False))
    moved = replace(context, folder=tmp_path / "there" / technique.name, validation=())
    engine.calls.clear()
    assert texts(technique.restore(recipe, moved), inputs) == expected
    used = {call.adapter for call in engine.calls if call.adapter is not None}
    assert bool(used) == (technique.tuned and technique.name != "hosted")  # whose weights lie elsewhere
    assert all(folder.is_dir() for folder in used)


@pytest.mark.parametrize(("technique", "kind"), CASES, ids=name_case)
def test_the_recipe_names_its_rung(technique: Technique, kind: Kind, tmp_path: Path) -> None:
    context, _ = context_for(technique, kind, tmp_path)
    assert technique.fit(context).recipe["rung"] == technique.name


@pytest.mark.parametrize(("technique", "kind"), CASES, ids=name_case)
def test_the_same_seed_chooses_and_answers_the_same(technique: Technique, kind: Kind, tmp_path: Path) -> None:
    first, _ = context_for(technique, kind, tmp_path / "a")
    second, _ = context_for(technique, kind, tmp_path / "b")
    one, other = technique.fit(first), technique.fit(second)
    assert one.recipe == other.recipe
    assert texts(one, new_inputs(kind)) == texts(other, new_inputs(kind))


@pytest.mark.parametrize(("technique", "kind"), WITH_SECRETS, ids=name_case)
def test_no_prompt_holds_a_reference_of_the_inputs_own_cluster(technique: Technique, kind: Kind, tmp_path: Path) -> None:
    context, engine = context_for(technique, kind, tmp_path)
    predictor = technique.fit(context)
    predictor.predict([row.input for row in context.validation])
    predictor.predict(new_inputs(kind))
    assert engine.calls
    for call in engine.calls:
        own = context.clusters.get(call.prompt.id)
        forbidden = [f"secret-{id}." for id, cluster in context.clusters.items() if cluster == own]
        assert not any(secret in said(call) for secret in forbidden), call.prompt.id
    shows_demonstrations = technique.name in {"few-shot", "nearest", "lora+nearest"}
    assert any("secret-" in said(call) for call in engine.calls) == shows_demonstrations


@pytest.mark.parametrize(("technique", "kind"), [case for case in CASES if case[0].name != "recorded"], ids=name_case)
def test_a_training_input_is_answered_as_if_its_cluster_were_absent(technique: Technique, kind: Kind, tmp_path: Path) -> None:
    context, _ = context_for(technique, kind, tmp_path)
    predictor = technique.fit(context)
    for cluster in (0, 4, 11):
        own = [row for row in context.train if context.clusters[row.id] == cluster]
        changed = replace(context, train=tuple(disturbed(row, kind) if row in own else row for row in context.train))
        inputs = [row.input for row in own]
        assert texts(technique.restore(predictor.recipe, changed), inputs) == texts(predictor, inputs)


def disturbed(row: Example, kind: Kind) -> Example:
    """The same input with another answer."""
    return replace(row, reference=fake_reference(kind, LABELS[2], "changed"))


@pytest.mark.parametrize("technique", LADDER, ids=lambda technique: technique.name)
def test_a_rung_that_applies_gives_no_reason_against_it(technique: Technique, tmp_path: Path) -> None:
    context, _ = context_for(technique, "labels", tmp_path)
    assert technique.reason_not_to(context) is None


@pytest.mark.parametrize("name", ["classifier", "constrained", "lora+constrained"])
def test_rungs_that_know_only_texts_say_so_where_tool_calls_are_expected(name: str, tmp_path: Path) -> None:
    labelled = fake_context(tmp_path, FakeEngine(), "labels", recipes={"lora": {}})
    calling = fake_context(tmp_path, FakeEngine(), "calls")
    mixed = replace(labelled, train=(*labelled.train, *calling.train))
    reason = next(technique for technique in LADDER if technique.name == name).reason_not_to(mixed)
    assert reason is not None
    assert "tool calls" in reason


@pytest.mark.parametrize("technique", LADDER, ids=lambda technique: technique.name)
def test_a_rung_that_does_not_apply_says_why_in_a_sentence(technique: Technique, tmp_path: Path) -> None:
    full = fake_context(tmp_path, FakeEngine(), "text")
    context = replace(full, train=(), validation=full.validation, chunks=(), tuner=None, hosted=None, recorded={})
    reason = technique.reason_not_to(context)
    if technique.name == "prompt":
        assert reason is None  # words alone always apply
    else:
        assert reason is not None
        assert reason[0].isupper()
        assert reason.rstrip("'`").endswith((".", "]", ")"))


@pytest.mark.parametrize(("technique", "kind"), [case for case in CASES if case[0].name != "recorded"], ids=name_case)
def test_a_new_input_with_the_id_of_a_training_row_is_not_mistaken_for_it(
    technique: Technique, kind: Kind, tmp_path: Path
) -> None:
    context, _ = context_for(technique, kind, tmp_path)
    predictor = technique.fit(context)
    new = new_inputs(kind)[3]
    posing = replace(new, id=context.train[14].id, messages=(Message("user", new.text + " today"),))
    honest = replace(posing, id="never-seen")
    assert texts(predictor, [posing]) == texts(predictor, [honest])


def test_the_ladder_climbs_untuned_rungs_before_tuned_ones() -> None:
    assert [technique.tuned for technique in LADDER] == sorted(technique.tuned for technique in LADDER)
    assert len({technique.name for technique in LADDER}) == len(LADDER) == 15
