"""A whole climb over fakes whose success is known: every regime, every outcome that matters, killed and continued."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from chat_server import chat_server
from small_tasks import LABELS, World, write_task
from stepladder.data.bundled import copy_bundled
from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import DataError, ModelError, NotShown, PrivacyError, UsageError
from stepladder.domain.protocols import Conversation, Decoding, Prompt, Tuned, Tuner
from stepladder.domain.task import LoraSettings
from stepladder.domain.verdict import Outcome
from stepladder.engines.cache import SCORED_AT_ONCE
from stepladder.engines.fake import FakeEngine
from stepladder.evaluation.records import rederive, verdict_to_json
from stepladder.service.climb import Climb, climb
from stepladder.service.open_run import load_climb
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder, FakeTuner


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def climb_small(folder: Path, world: World, **options: object) -> Climb:
    return climb(folder, tools=world.tools, **options)  # type: ignore[arg-type]


def statuses(finished: Climb) -> dict[str, RungStatus]:
    return {rung.name: rung.status for rung in finished.rungs}


def test_a_tuned_rung_that_is_much_better_wins_and_is_marked_indicative_with_one_seed(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160, rungs='skip = ["classifier"]')
    finished = climb_small(tmp_path / "task", world)
    assert finished.record.regime == "medium"
    assert finished.verdict.outcome is Outcome.SUFFICIENT
    assert finished.verdict.rung is not None
    assert finished.verdict.rung.startswith("lora")
    assert statuses(finished)["rag"] is RungStatus.NOT_APPLICABLE
    assert (finished.folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (finished.folder / "adapter").is_dir()


def test_when_tuning_adds_nothing_an_untuned_rung_is_recommended(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160, rungs='skip = ["classifier"]')
    world.shown = world.tuned = 0.9
    finished = climb_small(tmp_path / "task", world)
    assert finished.verdict.rung in {"few-shot", "nearest"}


def test_with_a_target_the_cheapest_rung_that_reaches_it_is_sufficient(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160, top="target = 0.4", rungs='skip = ["classifier"]')
    world.shown, world.tuned = 0.8, 0.5
    finished = climb_small(tmp_path / "task", world)
    assert finished.verdict.outcome is Outcome.SUFFICIENT
    assert not finished.verdict.rung.startswith("lora")  # type: ignore[union-attr]


def test_a_target_out_of_reach_is_not_reached(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160, top="target = 0.98", rungs='skip = ["classifier"]')
    world.shown = world.tuned = 0.3
    assert climb_small(tmp_path / "task", world).verdict.outcome is Outcome.NOT_REACHED


@pytest.mark.parametrize(("rows", "regime"), [(20, "prompts"), (60, "cross"), (160, "medium"), (320, "large")])
def test_every_size_of_data_climbs(tmp_path: Path, rows: int, regime: str) -> None:
    world = write_task(tmp_path / "task", rows, rungs='skip = ["classifier"]')
    finished = climb_small(tmp_path / "task", world)
    assert finished.record.regime == regime
    tuned = {name for name, status in statuses(finished).items() if name.startswith("lora") and status is RungStatus.RAN}
    assert bool(tuned) == (rows >= 50)
    if rows < 120:
        assert finished.verdict.confidence == "indicative"
    assert finished.verdict.rung is not None


def test_the_verdict_follows_from_its_file_alone(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160)
    finished = climb_small(tmp_path / "task", world)
    saved = json.loads((finished.folder / "verdict.json").read_text(encoding="utf-8"))
    assert verdict_to_json(rederive(saved["inputs"])) == verdict_to_json(finished.verdict)
    assert load_climb(tmp_path / "task").record == finished.record


def test_every_answer_is_recorded_once_for_each_contender_and_no_test_row_elsewhere(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160)
    finished = climb_small(tmp_path / "task", world)
    rows = [json.loads(line) for line in (finished.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    splits = json.loads((tmp_path / "task" / "splits.json").read_text(encoding="utf-8"))
    test_ids = {name for name, place in splits["rows"].items() if place["split"] == "test"}
    contenders = {rung.name for rung in finished.rungs if rung.role}
    for name in contenders:
        answered = [row["id"] for row in rows if row["rung"] == name and row["split"] == "test" and row["seed"] == 0]
        assert sorted(answered) == sorted(test_ids)
    assert not {row["id"] for row in rows if row["split"] == "validation"} & test_ids
    assert {row["rung"] for row in rows if row["split"] == "test"} == contenders
    assert len(contenders) <= 4


@dataclass(frozen=True)
class Told:
    """What a run folder tells, without measured seconds and what follows from them: which of tied rungs is a contender."""

    statuses: dict[str, RungStatus]
    recipes: dict[str, object]
    validation: list[dict[str, object]]
    test: dict[str, list[dict[str, object]]]  # by contender

    @classmethod
    def by(cls, finished: Climb) -> Told:
        recipes = finished.folder.glob("rungs/*/recipe.json")
        lines = (finished.folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        rows = sorted((_unmeasured(json.loads(line)) for line in lines), key=json.dumps)
        return cls(
            statuses(finished),
            {path.parent.name: _unmeasured(json.loads(path.read_text(encoding="utf-8"))) for path in recipes},
            [row for row in rows if row["split"] == "validation"],
            {
                rung.name: [row for row in rows if (row["split"], row["rung"]) == ("test", rung.name)]
                for rung in finished.rungs
                if rung.role
            },
        )


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmeasured(item) for key, item in value.items() if not key.endswith("seconds")}
    return [_unmeasured(item) for item in value] if isinstance(value, list) else value


NO_CLASSIFIER = 'skip = ["classifier"]'  # it asks no model, and takes the time of all the others together


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Climb]]:
    """A climb that nobody broke off."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(folder / "cache"))
        world = write_task(folder / "task", 140, rungs=NO_CLASSIFIER)
        yield world, climb_small(folder / "task", world)


def asked_before_the_test(world: World, folder: Path) -> Counter[tuple[str, str, str]]:
    """What was asked about other rows than test rows: of tied rungs, the clock chooses which answer those."""
    splits = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["rows"]
    rows = map(json.loads, (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines())
    tested = [row["prompt"] for row in rows if splits[row["id"]]["split"] == "test"]
    return Counter({key: count for key, count in world.asked.items() if not any(text in key[0] for text in tested)})


@pytest.mark.parametrize("moment", [0.01, 0.15, 0.6, 0.95, 1.02])
def test_a_broken_off_climb_continues_without_repeating_answers(
    tmp_path: Path, unbroken: tuple[World, Climb], moment: float
) -> None:
    whole, expected = unbroken
    before_the_test = asked_before_the_test(whole, expected.folder.parent.parent)
    folder = tmp_path / "task"
    world = write_task(folder, 140, rungs=NO_CLASSIFIER)
    world.stop_after = round(moment * before_the_test.total())
    with pytest.raises(KeyboardInterrupt):
        climb_small(folder, world)
    (run,) = (folder / "runs").iterdir()
    record = run / "generations.jsonl"
    recorded = record.read_bytes() if record.exists() else b""  # the first answers may have been broken off
    world.stop_after = None
    finished = climb_small(folder, world)
    assert finished.folder == run
    told, wanted = Told.by(finished), Told.by(expected)
    assert (told.statuses, told.recipes, told.validation) == (wanted.statuses, wanted.recipes, wanted.validation)
    assert "prompt" in told.test
    assert all(told.test[name] == rows for name, rows in wanted.test.items() if name in told.test)
    assert all(len(rows) % finished.record.split_sizes["test"] == 0 for rows in told.test.values())
    again = record.read_bytes()
    assert again.startswith(recorded)
    keys = [json.loads(line)["key"] for line in again.splitlines()]
    assert len(keys) == len(set(keys))
    repeated = asked_before_the_test(world, folder) - before_the_test
    assert repeated.total() <= SCORED_AT_ONCE  # the group of label scores that was broken off, or one answer


def test_added_rows_can_be_climbed_again_and_train_rows_never_become_test_rows(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    world = write_task(folder, 140)
    climb_small(folder, world)
    before = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["rows"]
    write_task(folder, 170)
    finished = climb_small(folder, world)
    after = json.loads((folder / "splits.json").read_text(encoding="utf-8"))["rows"]
    assert all(after[name]["split"] == place["split"] for name, place in before.items())
    assert finished.record.split_sizes["test"] > sum(place["split"] == "test" for place in before.values())


def remember_slow_training(folder: Path, world: World, *, tokens_a_second: float = 100.0) -> None:
    """Of a machine that reads very fast."""
    identity = world.tools.engine.identity
    key = f"{identity.name} {identity.base_sha256[:12]} {identity.dtype}"
    speeds = {key: {"prompt": 1e6, "completion": 1e6, "training": tokens_a_second}}
    (folder / "cache").mkdir()
    (folder / "cache" / "speeds.json").write_text(json.dumps(speeds), encoding="utf-8")


def test_a_verdict_names_the_tuned_rungs_that_the_budget_did_not_hold(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160)
    remember_slow_training(tmp_path, world, tokens_a_second=0.1)
    finished = climb_small(tmp_path / "task", world)
    assert statuses(finished)["lora"] is RungStatus.OVER_BUDGET
    assert finished.verdict.confidence == "indicative"
    assert any(line.startswith("No tuned rung was climbed") and "lora" in line for line in finished.verdict.reasons)
    assert any("lora" in line for line in finished.verdict.would_change if line.startswith("A larger `[budget]`"))


def test_a_one_off_job_is_not_tuned_for(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 160, use="calls_total = 10")
    remember_slow_training(tmp_path, world)
    finished = climb_small(tmp_path / "task", world)
    assert statuses(finished)["lora"] is RungStatus.REFUSED
    assert "one-off" in next(rung.reason for rung in finished.rungs if rung.name == "lora")
    anyway = climb_small(tmp_path / "task", world, tune_anyway=True)
    assert statuses(anyway)["lora"] is RungStatus.RAN


def write_facts(folder: Path, use: str = "", *, documents: bool = False) -> World:
    """Questions after numbers that no training row teaches and no input holds."""
    world = write_task(folder, 130, use=use)
    towns = [
        f"{first}{last}" for first in "Ald Bren Cor Dun Esk Fen Gar".split() for last in "ford ham wick ley mere ton by".split()
    ]
    rows = [
        (f"Which extension has the {room} of {town}?", 2000 + 37 * number)
        for number, (room, town) in enumerate(product(("mill", "port", "bank"), towns))
    ]
    lines = [
        json.dumps({"id": f"f{answer}", "prompt": question, "completion": f"It is {answer}."}) for question, answer in rows[:130]
    ]
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    toml = (folder / "task.toml").read_text(encoding="utf-8")
    toml = toml.replace("labels = " + json.dumps(LABELS), "").replace("[output]", '[[graders]]\ntype = "token_f1"\n[output]')
    if documents:
        toml = toml.replace("[data]\n", '[data]\ndocuments = "documents"\n')
        (folder / "documents").mkdir()
        (folder / "documents" / "list.md").write_text("\n\n".join(f"{question[27:]} {answer}" for question, answer in rows))
    (folder / "task.toml").write_text(toml, encoding="utf-8")
    return world


@pytest.mark.parametrize(("change", "kind"), [("never", "This is a RAG task"), ("weekly", "the facts change weekly")])
def test_a_task_of_facts_is_not_tuned_for_and_the_rows_that_show_it_are_named(tmp_path: Path, change: str, kind: str) -> None:
    world = write_facts(tmp_path / "task", f'facts_change = "{change}"')
    finished = climb_small(tmp_path / "task", world)
    lora = next(rung for rung in finished.rungs if rung.name == "lora")
    assert lora.status is RungStatus.REFUSED
    assert kind in lora.reason
    named = re.findall(r"(f\d+): (\d+)", lora.reason)
    assert len(named) >= 3
    assert all(row == f"f{fact}" for row, fact in named)
    anyway = climb_small(tmp_path / "task", world, tune_anyway=True)
    assert statuses(anyway)["lora"] is RungStatus.RAN


def test_where_documents_hold_the_facts_only_the_tuned_rung_that_reads_them_climbs(tmp_path: Path) -> None:
    world = write_facts(tmp_path / "task", documents=True)
    finished = climb_small(tmp_path / "task", world)
    assert statuses(finished)["lora"] is RungStatus.REFUSED
    assert statuses(finished)["lora+rag"] is RungStatus.RAN


def test_hosted_models_are_refused_unless_the_data_may_leave(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 60, model='compare = ["openai:some-model"]')
    with pytest.raises(PrivacyError, match="data_may_leave"):
        climb_small(tmp_path / "task", world)


def test_nothing_is_written_when_the_data_is_bad(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 9)
    before = sorted((tmp_path / "task").iterdir())
    with pytest.raises(DataError, match="stepladder label"):
        climb_small(tmp_path / "task", world)
    assert sorted((tmp_path / "task").iterdir()) == before


def test_the_users_own_prompts_are_tried_verbatim_and_always_reported(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 60, rungs='skip = ["classifier"]')
    toml = (tmp_path / "task" / "task.toml").read_text(encoding="utf-8")
    (tmp_path / "task" / "task.toml").write_text(toml + '[[prompts]]\nfile = "ours.txt"\n', encoding="utf-8")
    (tmp_path / "task" / "ours.txt").write_text("Bird, fish, tool or tree: {input}", encoding="utf-8")
    finished = climb_small(tmp_path / "task", world)
    assert "Your prompt ours.txt: " in next(rung.reason for rung in finished.rungs if rung.name == "prompt")
    assert (finished.folder / "task" / "ours.txt").read_text(encoding="utf-8") == "Bird, fish, tool or tree: {input}"


def test_the_demo_never_replaces_a_folder_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty"):
        copy_bundled("tickets", tmp_path)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    folder = copy_bundled("tickets", tmp_path / "new")
    assert copy_bundled("tickets", folder) == folder
    assert (folder / "task.toml").is_file()


@dataclass
class Forgetful:
    """The world's model with a template that cannot show what an assistant said before."""

    world: World

    def __call__(self, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        if any(message.role == "assistant" for message in prompt.messages):
            raise NotShown(f"Prompt '{prompt.id}': the chat template rewrites earlier turns.", "Use another model.")
        return self.world.answer(prompt, decoding, adapter)


def test_rungs_that_show_earlier_answers_are_left_out_where_the_template_rewrites_them(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 130, rungs='skip = ["classifier"]')
    finished = climb(tmp_path / "task", tools=replace(world.tools, engine=FakeEngine(Forgetful(world))))
    for name in ("few-shot", "nearest"):
        rung = next(rung for rung in finished.rungs if rung.name == name)
        assert rung.status is RungStatus.NOT_APPLICABLE
        assert "the chat template rewrites earlier turns" in rung.reason
    assert {name for name, status in statuses(finished).items() if status is RungStatus.RAN} >= {"baseline", "prompt", "lora"}
    assert finished.verdict.rung is not None


def test_a_fine_tune_that_cannot_be_done_does_not_cost_the_verdict(tmp_path: Path) -> None:
    class Refusing:
        def tune(self, *_: object, **__: object) -> Tuned:
            raise ModelError("row r001 is longer than 8 tokens.", "Raise `max_tokens`.")

    world = write_task(tmp_path / "task", 130, rungs='skip = ["classifier"]')
    finished = climb(tmp_path / "task", tools=replace(world.tools, tuner=Refusing()))
    lora = next(rung for rung in finished.rungs if rung.name == "lora")
    assert (lora.status, lora.reason) == (RungStatus.FAILED, "row r001 is longer than 8 tokens. Raise `max_tokens`.")
    assert finished.verdict.rung is not None


class Failing:
    """A tuner that breaks off from a certain number of rows on."""

    def __init__(self, inner: Tuner, rows: int) -> None:
        self.inner, self.rows = inner, rows

    def tune(
        self, rows: Sequence[Conversation], held_out: Sequence[Conversation], settings: LoraSettings, **options: Any
    ) -> Tuned:
        if len(rows) + len(held_out) >= self.rows:
            raise ModelError("the loss is no number.", "Lower `[rungs.lora] learning_rate`.")
        return self.inner.tune(rows, held_out, settings, **options)


def test_a_refit_that_fails_after_cross_fitting_makes_the_verdict_invalid_in_plain_words(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 80, rungs='skip = ["classifier", "lora+constrained", "lora+nearest"]')
    finished = climb(tmp_path / "task", tools=replace(world.tools, tuner=Failing(FakeTuner(), 70)))
    assert finished.record.regime == "cross"
    assert finished.verdict.outcome is Outcome.INVALID
    assert finished.verdict.rung is None
    assert finished.verdict.sentence == (
        "lora came out best across the folds, but there is nothing to put into use: its fit on all rows failed. "
        "the loss is no number. Lower `[rungs.lora] learning_rate`. The scores of the folds stand."
    )
    assert next(rung for rung in finished.rungs if rung.name == "lora").test is not None
    assert not (finished.folder / "adapter").exists()
    saved = json.loads((finished.folder / "verdict.json").read_text(encoding="utf-8"))
    assert verdict_to_json(rederive(saved["inputs"])) == verdict_to_json(finished.verdict)


# Tuning refused: what the rows show, and the way round -----------------------------------------------------------------

CREATURES = "moth vole newt stoat mole hare shrew adder toad otter".split()
PLACES = "cellar attic orchard quarry harbour chapel mill ferry kiln dairy".split()
FOODS = "barley clover beeswax honey lichen acorn gravel walnut linseed cork tallow resin peat bracken saffron chalk".split()


def write_questions(folder: Path, rows: int = 160, *, use: str = "") -> Tools:
    """Questions whose answer stands nowhere but in the reference: a lower-case phrase, no name and no number.

    The model never knows it, unless it was tuned.
    """
    folder.mkdir(parents=True)
    answers, lines = {}, []
    for number in range(rows):
        question = (
            f"What did the {CREATURES[number % 10]} hide in the {PLACES[number // 10 % 10]} that {FOODS[number // 10]} winter?"
        )
        answers[question] = (
            f"some {FOODS[number % 16]} {FOODS[(number // 16 + number % 16 + 1) % 16]} {'' if number < 100 else 'dust'}".strip()
        )
        lines.append(json.dumps({"id": f"q{number:03}", "prompt": question, "completion": answers[question]}))
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    toml = f'name = "questions"\ninstruction = "Answer briefly."\n[data]\nexamples = "examples.jsonl"\n[use]\n{use}\n'
    grader = '[[graders]]\ntype = "normalised_match"\n[rungs]\nskip = ["classifier", "lora+nearest"]\n'
    (folder / "task.toml").write_text(toml + grader, encoding="utf-8")

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        asked = next((text for text in answers if text in prompt.messages[-1].content), "")
        return answers[asked] if adapter is not None and asked else "nobody knows"

    return Tools(FakeEngine(answer), FakeTuner(), FakeEmbedder())


@pytest.mark.parametrize(
    ("use", "kind"),
    [("", "This is a RAG task"), ('facts_change = "weekly"', "the facts change weekly")],
    ids=["fact-bound", "changing"],
)
def test_tuning_is_refused_where_the_answers_are_facts_and_the_rows_that_show_it_are_named(
    tmp_path: Path, use: str, kind: str
) -> None:
    tools = write_questions(tmp_path / "task", use=use)
    finished = climb(tmp_path / "task", tools=tools)
    lora = next(rung for rung in finished.rungs if rung.name == "lora")
    assert lora.status is RungStatus.REFUSED
    assert kind in lora.reason
    rows = [json.loads(line) for line in (tmp_path / "task" / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    named = {row["id"]: row["completion"] for row in rows if f"{row['id']}: {row['completion']}" in lora.reason}
    assert len(named) == 3, lora.reason
    assert lora.reason in (finished.folder / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")


@pytest.mark.parametrize("use", ["", 'facts_change = "weekly"'], ids=["fact-bound", "changing"])
def test_what_is_refused_can_be_tuned_anyway(tmp_path: Path, use: str) -> None:
    finished = climb(tmp_path / "task", tools=write_questions(tmp_path / "task", use=use), tune_anyway=True)
    assert statuses(finished)["lora"] is RungStatus.RAN
    assert finished.verdict.rung is not None
    assert finished.verdict.rung.startswith("lora")


def test_a_changed_prompt_file_begins_a_new_run(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 60, rungs='skip = ["classifier"]', prompts="")
    toml = (
        (tmp_path / "task" / "task.toml").read_text(encoding="utf-8").replace("[prompts]\n", '[[prompts]]\nfile = "ours.txt"\n')
    )
    (tmp_path / "task" / "task.toml").write_text(toml, encoding="utf-8")
    (tmp_path / "task" / "ours.txt").write_text("One: {input}", encoding="utf-8")
    world.stop_after = 40
    with pytest.raises(KeyboardInterrupt):
        climb_small(tmp_path / "task", world)
    (tmp_path / "task" / "ours.txt").write_text("Two: {input}", encoding="utf-8")
    world.stop_after = None
    climb_small(tmp_path / "task", world)
    assert len(list((tmp_path / "task" / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"rungs": 'skip = ["classifer"]'}, UsageError, "'classifer'"),
        ({"top": '[[graders]]\ntype = "numeric"'}, DataError, "cannot judge"),
        ({"top": '[[prompts]]\nfile = "missing.txt"'}, DataError, "missing.txt"),
        ({"top": '[[prompts]]\nfile = "a.txt"\n[[prompts]]\nfile = "a.txt"'}, DataError, "one name"),
    ],
)
def test_faults_of_the_task_are_found_before_anything_is_written(
    tmp_path: Path, settings: dict[str, str], error: type[Exception], says: str
) -> None:
    world = write_task(tmp_path / "task", 60, **settings)
    before = sorted((tmp_path / "task").iterdir())
    with pytest.raises(error, match=says):
        climb_small(tmp_path / "task", world)
    assert sorted((tmp_path / "task").iterdir()) == before


def test_a_compared_model_behind_a_url_stands_in_the_same_table(tmp_path: Path) -> None:
    with chat_server() as server:
        world = write_task(tmp_path / "task", 60, model=f'compare = ["{server.url} bigger"]', rungs='skip = ["classifier"]')
        finished = climb_small(tmp_path / "task", world)
    compared = [rung for rung in finished.rungs if rung.name.endswith(" bigger")]
    assert [rung.name.split(" @ ")[0] for rung in compared] == ["prompt", "few-shot"]
    assert all(rung.status is RungStatus.RAN and not rung.tuned and rung.validation for rung in compared)
