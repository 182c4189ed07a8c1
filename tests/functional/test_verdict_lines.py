"""What a climb says beside its verdict, and what makes it decide nothing: through the whole service, over fakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from small_tasks import World, write_task
from stepladder.domain.errors import DataError
from stepladder.domain.task import Task
from stepladder.domain.verdict import Outcome
from stepladder.evaluation.records import rederive, verdict_to_json
from stepladder.service.climb import Climb, climb
from stepladder.service.planning import plan_climb
from stepladder.service.setup import ClimbOptions, Watcher, make_base
from stepladder.service.verify import verify

SKIP = 'skip = ["classifier", "lora+constrained", "lora+nearest"]'


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def climbed(folder: Path, rows: int = 140, *, world: World | None = None, **settings: str) -> Climb:
    found = write_task(folder, rows, **{"rungs": SKIP, **settings})
    return climb(folder, tools=(world or found).tools)


def rederived(finished: Climb) -> Mapping[str, object]:
    saved = json.loads((finished.folder / "verdict.json").read_text(encoding="utf-8"))
    return verdict_to_json(rederive(saved["inputs"]))


def lines_of(finished: Climb, start: str) -> list[str]:
    return [line for line in finished.verdict.facts if line.startswith(start)]


def test_a_climb_says_price_break_even_and_latency_and_they_follow_from_its_file(tmp_path: Path) -> None:
    finished = climbed(tmp_path / "task")
    for start in ("Price of 1,000 calls", "Break-even of lora against ", "Latency of one answer: ", "Base model: "):
        assert len(lines_of(finished, start)) == 1
        assert lines_of(finished, start)[0] in str(finished)
        assert lines_of(finished, start)[0] in (finished.folder / "report.html").read_text(encoding="utf-8")
    assert rederived(finished) == verdict_to_json(finished.verdict)


def test_where_nothing_was_tuned_the_break_even_says_why(tmp_path: Path) -> None:
    finished = climbed(tmp_path / "task", 30)
    (line,) = lines_of(finished, "Break-even")
    assert line.startswith("Break-even: not known, no tuned rung answered the test rows: lora: not applicable. Fine-tuning needs")
    skipped = climbed(tmp_path / "other", 140, rungs='skip = ["lora", "lora+nearest", "lora+constrained"]')
    assert "lora: not applicable. `[rungs] skip` names it." in lines_of(skipped, "Break-even")[0]


# --- labels ----------------------------------------------------------------------------------------------------------


def usd_labels(finished: Climb) -> dict[str, float]:
    return {rung.name: rung.cost.usd_labels for rung in finished.rungs if rung.validation}


def test_a_rung_pays_for_the_labels_it_is_made_of_whenever_the_facts_change(tmp_path: Path) -> None:
    use = 'label_usd_each = 2.0\nfacts_change = "monthly"\nhorizon_months = 6\nmachine_usd_per_hour = 1.0'
    finished = climbed(tmp_path / "task", 140, use=use)
    train = finished.record.split_sizes["train"]
    paid = usd_labels(finished)
    few_shot = next(rung for rung in finished.rungs if rung.name == "few-shot").recipe
    assert paid["prompt"] == paid["constrained"] == 0
    assert paid["nearest"] == paid["lora"] == 2.0 * 6 * train
    assert paid["few-shot"] == 2.0 * 6 * len({*few_shot["shots"], *few_shot["reserves"]})
    prices = {rung.name: rung.cost.usd_total for rung in finished.rungs}
    assert prices["nearest"] is not None
    assert prices["nearest"] > paid["nearest"] > 0


@pytest.mark.parametrize(
    "use", ["label_usd_each = 2.0", 'facts_change = "monthly"', "label_usd_each = 2.0\ncalls_total = 100000"]
)
def test_labels_that_exist_or_have_no_price_cost_nothing(tmp_path: Path, use: str) -> None:
    finished = climbed(tmp_path / "task", 60, use=use)
    assert set(usd_labels(finished).values()) == {0.0}
    assert lines_of(finished, "To be labelled again") == []


def test_what_labelling_costs_beside_machine_time_is_said(tmp_path: Path) -> None:
    finished = climbed(tmp_path / "task", 140, use='label_usd_each = 2.0\nfacts_change = "yearly"')
    train = finished.record.split_sizes["train"]
    assert f"{train} rows for lora (${2 * train:,.2f})" in lines_of(finished, "To be labelled again")[0]


# --- leaks -----------------------------------------------------------------------------------------------------------


def task_with(folder: Path, rows: int = 140, **settings: str) -> tuple[World, list[dict[str, str]], set[str]]:
    """A split task: what knows its answers, its rows, and the ids of the test rows."""
    world = write_task(folder, rows, rungs=SKIP, **settings)
    base = make_base(Task.load(folder), ClimbOptions(), Watcher(), tools=world.tools)
    test = {row.id for row in base.data.splits.counted(base.data.examples, "test")}
    written = [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]
    return world, written, test


def accept(folder: Path, code: str) -> None:
    """Climb although the data check of this code blocks: what it lets pass must still be in the verdict."""
    toml = (folder / "task.toml").read_text(encoding="utf-8")
    (folder / "task.toml").write_text(toml.replace("[data]\n", f'[data]\naccept = ["{code}"]\n'), encoding="utf-8")


def own_prompt(folder: Path, text: str) -> None:
    toml = (folder / "task.toml").read_text(encoding="utf-8")
    (folder / "task.toml").write_text(toml + '[[prompts]]\nfile = "ours.txt"\n', encoding="utf-8")
    (folder / "ours.txt").write_text(text, encoding="utf-8")


def with_documents(folder: Path, text: str) -> None:
    toml = (folder / "task.toml").read_text(encoding="utf-8")
    toml = toml.replace('examples = "examples.jsonl"', 'examples = "examples.jsonl"\ndocuments = "documents"')
    (folder / "task.toml").write_text(toml, encoding="utf-8")
    (folder / "documents").mkdir()
    (folder / "documents" / "notes.md").write_text(text, encoding="utf-8")


def test_an_own_prompt_that_holds_a_test_row_makes_the_verdict_invalid(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    world, rows, test = task_with(folder)
    leaked = next(row for row in rows if row["id"] in test)
    own_prompt(folder, f"Say what it is. For example:\n{leaked['prompt'].upper()}\n-> {leaked['completion']}\nNow: {{input}}")
    with pytest.raises(DataError, match="leak-prompt.*repairs what it can\\.$"):
        climb(folder, tools=world.tools)
    accept(folder, "leak-prompt")
    finished = climb(folder, tools=world.tools)
    assert (finished.verdict.outcome, finished.verdict.rung) == (Outcome.INVALID, None)
    assert f"leak: your prompt ours.txt holds the input of test row {leaked['id']} word for word." in finished.verdict.sentence
    assert any(line.startswith("Leak, the verdict would be invalid: your prompt ours.txt") for line in finished.record.plan)
    assert rederived(finished) == verdict_to_json(finished.verdict)


def test_an_own_prompt_may_show_training_rows(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    world, rows, test = task_with(folder)
    shown = next(row for row in rows if row["id"] not in test)
    own_prompt(folder, f"Say what it is. For example:\n{shown['prompt']} -> {shown['completion']}\nNow: {{input}}")
    assert climb(folder, tools=world.tools).verdict.outcome is not Outcome.INVALID


def test_an_instruction_that_holds_a_test_row_is_a_leak_too(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    world, rows, test = task_with(folder)
    leaked = next(row for row in rows if row["id"] in test)
    toml = (folder / "task.toml").read_text(encoding="utf-8")
    toml = toml.replace("kind of thing it is.", f"kind of thing it is. {leaked['prompt']} {leaked['completion']}")
    (folder / "task.toml").write_text(toml, encoding="utf-8")
    accept(folder, "leak-prompt")
    assert "the instruction holds the input of test row" in climb(folder, tools=world.tools).verdict.sentence


@pytest.mark.parametrize(
    ("text", "leaks"),
    [
        ("# Things\n\n{prompt}\n\nAnswer: {completion}.\n", True),
        ("# Things\n\n{prompt}\n\nNobody knows what that is.\n", False),
        ("# Things\n\nThe heron is a bird. The trout is a fish. A hammer is a tool, and a birch a tree.\n", False),
        ("# Things\n\n{prompt}\n\n" + "Nothing of use stands here. " * 40 + "It is a {completion}.\n", False),
    ],
)
def test_a_document_leaks_only_with_question_and_answer_side_by_side(tmp_path: Path, text: str, leaks: bool) -> None:
    folder = tmp_path / "task"
    world, rows, test = task_with(folder, 130)
    with_documents(folder, text.format(**next(row for row in rows if row["id"] in test)))
    accept(folder, "leak-documents")
    base = make_base(Task.load(folder), ClimbOptions(), Watcher(), tools=world.tools)
    said = [line for line in plan_climb(base).lines if line.startswith("Accepted leak")]
    assert bool(said) == leaks
    assert all("the document documents/notes.md holds the input and the answer of test row" in line for line in said)


def test_a_document_that_leaks_and_is_accepted_leaves_an_indicative_verdict_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    world, rows, test = task_with(folder)
    leaked = next(row for row in rows if row["id"] in test)
    with_documents(folder, "# Things\n\n{prompt}\n\nAnswer: {completion}.\n".format(**leaked))
    accept(folder, "leak-documents")
    finished = climb(folder, tools=world.tools)
    said = f"the document documents/notes.md holds the input and the answer of test row {leaked['id']} word for word."
    assert finished.verdict.outcome is not Outcome.INVALID
    assert finished.verdict.confidence == "indicative"
    assert any(reason.startswith(f"Accepted in `[data] accept`: {said}") for reason in finished.verdict.reasons)
    assert f"Accepted leak, the verdict will be indicative: {said}" in finished.record.plan
    assert rederived(finished) == verdict_to_json(finished.verdict)
    assert verify(finished.folder).agrees
    task = finished.folder / "task" / "task.toml"
    task.write_text(task.read_text(encoding="utf-8").replace('accept = ["leak-documents"]\n', ""), encoding="utf-8")
    assert any("the task does not accept `leak-documents`" in str(one) for one in verify(finished.folder).differences)
