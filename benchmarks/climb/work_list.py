"""What the script has to do to stand where the climb stands: the same candidates of every rung, the same rows, the same steps.

A climb races its candidates and lets most of them answer a few rows only; the script has no race, and asks every candidate all
rows. `race_rows` says how many the climb asked, so that both sums can be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.protocols import Choices, FitContext
from stepladder.service.setup import Base, fit_context
from stepladder.service.tune import tuning_world
from stepladder.techniques.asking import Prompter, ZeroShot
from stepladder.techniques.few_shot import RESERVES, StaticShots
from stepladder.techniques.forms import bank_of, form_of
from stepladder.techniques.nearest import NearestShots
from stepladder.techniques.shape import grammar_of
from stepladder.techniques.shots import possible_shots, representatives
from stepladder.techniques.tuning import conversations
from stepladder.training.presets import WARMUP_SHARE, WARMUP_STEPS_AT_LEAST

RUNGS = ("prompt", "constrained", "few-shot", "nearest", "lora")

Step = dict[str, Any]
Recipes = Mapping[str, Mapping[str, Any]]


def build_work_list(base: Base, record: Mapping[str, Any]) -> list[Step]:
    """All steps in order.

    Args:
        record: The JSON of a climb of the same task.
    """
    recipes = {rung["name"]: rung["recipe"] for rung in record["rungs"] if rung["status"] == "ran" and rung["name"] in RUNGS}
    context = fit_context(base, tuning_world(base), base.engine, Choices(), base.task.folder, dict(recipes))
    chosen = [row.input for row in context.validation]
    steps = [
        _answering(
            context, f"{rung}, {name}", prompter, chosen, race_rows=_race_rows(recipes[rung], name), held=rung == "constrained"
        )
        for rung in RUNGS
        if rung in recipes
        for name, prompter in _candidates(context, rung, recipes).items()
        if name in _tried(recipes[rung], name)
    ]
    steps += _trainings(context, recipes["lora"]) if "lora" in recipes else []
    test = [row.input for row in base.data.splits.counted(base.data.examples, "test")]
    for rung, recipe in recipes.items():
        adapter = "" if rung != "lora" else _adapter(form_of(recipe).name, recipe["adapters"][0]["seed"])
        steps.append(
            _answering(
                context, f"{rung}, test", _winner(context, rung, recipe), test, held=rung == "constrained", adapter=adapter
            )
        )
    return steps


def _candidates(context: FitContext, rung: str, recipes: Recipes) -> dict[str, Prompter]:
    form = form_of(recipes["prompt"])
    counts = possible_shots(context)
    match rung:
        case "prompt":
            return {one.name: ZeroShot(context, one) for one in bank_of(context.task, context.choices.forms)}
        case "constrained":
            return {"direct": ZeroShot(context, form_of(recipes[rung]))}
        case "nearest":
            return {f"{count} nearest": NearestShots(context, form, count, context.train) for count in counts}
        case "few-shot":
            shots = representatives(context, max(counts) + RESERVES)
            found = {f"{count} shots": _shots(context, form, shots[:count], shots[count : count + RESERVES]) for count in counts}
            orders = [entry["name"] for entry in recipes[rung]["tried"] if entry["name"].startswith("order")]
            # Which order it is makes no difference to the work.
            return found | {name: _winner(context, rung, recipes[rung]) for name in orders}
    return {}


def _winner(context: FitContext, rung: str, recipe: Mapping[str, Any]) -> Prompter:
    form = form_of(recipe)
    by_id = {row.id: row for row in context.train}
    if rung == "few-shot":
        return _shots(context, form, [by_id[id] for id in recipe["shots"]], [by_id[id] for id in recipe["reserves"]])
    if rung == "nearest":
        return NearestShots(context, form, recipe["k"], context.train)
    return ZeroShot(context, form)


def _shots(context: FitContext, form: Any, shots: Sequence[Example], reserves: Sequence[Example]) -> StaticShots:
    return StaticShots(context, form, tuple(shots), tuple(reserves))


def _trainings(context: FitContext, recipe: Mapping[str, Any]) -> list[Step]:
    """Every prompt that was trained, and the further seeds of the chosen one; each adapter answers the held-out rows."""
    wanted = [(one["form"], context.seed, one["steps"]) for one in recipe["variants"]]
    wanted += [(form_of(recipe).name, one["seed"], one["steps"]) for one in recipe["adapters"] if one["seed"] != context.seed]
    settings = context.task.settings.rungs.lora
    steps: list[Step] = []
    for name, seed, count in wanted:
        prompter, adapter = ZeroShot(context, form_of({"form": name})), _adapter(name, seed)
        steps.append({
            "kind": "train", "name": f"lora, training {adapter}", "adapter": adapter, "seed": seed, "steps": count,
            "rank": settings.rank, "alpha": settings.alpha, "learning_rate": settings.learning_rate,
            "batch_size": settings.batch_size, "warmup_steps": max(WARMUP_STEPS_AT_LEAST, round(WARMUP_SHARE * count)),
            "rows": _conversations(context, prompter, context.tune_rows),
            "held_out": _conversations(context, prompter, context.held_out),
        })  # fmt: skip
        held_out = [row.input for row in context.held_out]
        steps.append(_answering(context, f"lora, {adapter}", prompter, held_out, adapter=adapter))
    return steps


def _conversations(context: FitContext, prompter: Prompter, rows: Sequence[Example]) -> list[list[list[str]]]:
    return [_turns(one.messages) for one in conversations(context, rows, prompter([row.input for row in rows]))]


def _answering(
    context: FitContext,
    name: str,
    prompter: Prompter,
    inputs: Sequence[Input],
    *,
    race_rows: int | None = None,
    held: bool = False,
    adapter: str = "",
) -> Step:
    grammar = grammar_of(context.task) if held else None
    return {
        "kind": "answer",
        "name": name,
        "prompts": [_turns(asked.prompt.messages) for asked in prompter(inputs)],
        "race_rows": len(inputs) if race_rows is None else race_rows,
        "max_new_tokens": context.max_new_tokens,
        "schema": "" if grammar is None else grammar.text,
        "adapter": adapter,
    }


def _tried(recipe: Mapping[str, Any], only: str) -> set[str]:
    """Names of the candidates that the climb considered: a tight budget leaves some out."""
    return {entry["name"] for entry in recipe.get("tried", ())} or {only}


def _race_rows(recipe: Mapping[str, Any], name: str) -> int | None:
    """How many rows a candidate was asked in the climb; None = all."""
    return max((int(entry["rows"]) for entry in recipe.get("tried", ()) if entry["name"] == name), default=None)


def _turns(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, message.content or ""] for message in messages]


def _adapter(form: str, seed: int) -> str:
    return f"{form.replace(' ', '-')}-seed{seed}"


def stop_ids(base: Base) -> list[int]:
    """The tokens that end an answer of a local model."""
    engine: Any = base.engine
    while not hasattr(engine, "setting"):
        engine = engine.engine
    return [int(id) for id in engine.setting["stop_ids"]]
