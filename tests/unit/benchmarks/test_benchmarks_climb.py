"""The comparison of a whole climb with a script: the work list is the climb's, sums and table follow from what was measured."""

import json

import pytest

import bench_climb
from climb.script import Script
from climb.table import climb_table, raced_seconds, ratios, script_seconds
from climb.work_list import RUNGS, build_work_list
from small_tasks import write_task
from stepladder.domain.errors import DataError
from stepladder.domain.task import Task
from stepladder.service.climb import climb
from stepladder.service.setup import ClimbOptions, Watcher, make_base
from stepladder.storage.records import to_json
from tiny_model import build_tiny_model

LORA = "rank = 4\nalpha = 8\nlearning_rate = 1e-3\nbatch_size = 8"


@pytest.fixture(scope="module")
def climbed(tmp_path_factory):
    """A finished climb of made-up rows, as (base, record)."""
    folder = tmp_path_factory.mktemp("task") / "things"
    skip = 'skip = ["baseline", "classifier", "lora+constrained", "lora+nearest"]'
    world = write_task(folder, 130, **{"rungs": skip, "rungs.lora": LORA})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        finished = climb(folder, tools=world.tools)
        base = make_base(Task.load(folder), ClimbOptions(), Watcher(), tools=world.tools)
    return base, to_json(finished.record)


def test_every_candidate_of_the_climb_is_asked_all_rows_and_every_rung_is_tested(climbed):
    base, record = climbed
    steps = build_work_list(base, record)
    names = [step["name"] for step in steps]
    assert len(set(names)) == len(names)
    rungs = {rung["name"]: rung for rung in record["rungs"]}
    for rung in RUNGS:
        assert f"{rung}, test" in names
        tried = {entry["name"] for entry in rungs[rung]["recipe"].get("tried", ())}
        assert {name for name in tried if " + label scoring" not in name} <= {name.partition(", ")[2] for name in names}
    asked = {step["name"]: len(step["prompts"]) for step in steps if step["kind"] == "answer"}
    test = len(base.data.splits.counted(base.data.examples, "test"))
    assert {count for name, count in asked.items() if name.endswith(", test")} == {test}
    assert asked["few-shot, 2 shots"] == asked["nearest, 8 nearest"] == asked["prompt, plain"] == 130 - test


def test_trainings_have_the_steps_and_settings_of_the_climbs(climbed):
    base, record = climbed
    steps = build_work_list(base, record)
    recipe = next(rung["recipe"] for rung in record["rungs"] if rung["name"] == "lora")
    trainings = [step for step in steps if step["kind"] == "train"]
    assert len(trainings) == len(recipe["variants"]) + len(recipe["adapters"]) - 1
    assert [step["steps"] for step in trainings][: len(recipe["variants"])] == [one["steps"] for one in recipe["variants"]]
    assert {(step["rank"], step["batch_size"], len(step["rows"][0][-1])) for step in trainings} == {(4, 8, 2)}
    answering = {step["adapter"] for step in steps if step["kind"] == "answer"} - {""}
    assert answering == {step["adapter"] for step in trainings}


def test_the_script_answers_every_prompt_and_holds_answers_to_the_schema(tmp_path):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    prompts = [[["user", "how many " * number]] for number in range(1, 19)]  # more than one batch
    step = {"prompts": prompts, "max_new_tokens": 20, "schema": json.dumps(schema), "adapter": ""}
    folder = build_tiny_model(tmp_path / "tiny")
    script = Script({"model": str(folder), "adapters": str(tmp_path), "stop_ids": [2]})
    answers = script.answer(step)
    assert len(answers) == len(prompts)
    assert {json.loads(answer)["a"] for answer in answers} <= {1, 2}
    free = script.answer({**step, "schema": "", "max_new_tokens": 3})
    assert len(free) == len(prompts)


STEPS = [
    {"name": "prompt, plain", "rung": "prompt", "rows": 100, "race_rows": 100, "seconds": 50.0},
    {"name": "prompt, other", "rung": "prompt", "rows": 100, "race_rows": 12, "seconds": 50.0},
    {"name": "lora, training", "rung": "lora", "rows": 80, "race_rows": 80, "seconds": 300.0},
]
MACHINE = {"cpu": "Abacus", "cores": 2, "system": "Linux", "date": "2026-11-22"}
CONTENT = {
    "climbs": [
        {
            "seconds": seconds,
            "rungs": {"prompt": 10.0, "lora": 30.0},
            "budget_minutes": 10.0,
            "outcome": "sufficient",
            "commit": "abc",
            "machine": MACHINE,
        }
        for seconds in (40.0, 50.0, 90.0)
    ],
    "script": STEPS,
    "missing": False,
    "start_seconds": 10.0,
    "versions": {"trl": "1.16.0"},
}


def test_ratios_are_of_medians_and_say_what_the_races_spare():
    assert (script_seconds(STEPS), script_seconds(STEPS, "prompt"), raced_seconds(STEPS)) == (400.0, 100.0, 356.0)
    assert ratios(CONTENT) == {"end_to_end": pytest.approx(8.2), "same_rows": pytest.approx(7.32)}
    assert ratios({**CONTENT, "missing": True}) is None


def test_the_table_is_there_once_nothing_is_missing():
    table = climb_table(CONTENT)
    assert "| **all** | **50 s** | **410 s** |" in table
    assert "8.2 times as long (wanted: 8)" in table
    assert "7.3 times" in table
    assert climb_table({**CONTENT, "missing": True}) == ""


def test_test_rows_that_the_climb_did_not_open_are_not_among_the_same_rows():
    steps = [{"kind": "answer", "name": f"{rung}, test", "race_rows": 9} for rung in ("prompt", "lora")]
    done = {step["name"]: {"rows": 9, "seconds": 3.0} for step in steps}
    assert [one["race_rows"] for one in bench_climb.as_steps(steps, done, ["lora"])] == [0, 9]
    assert bench_climb.as_steps(steps, {}, []) == []


def test_a_trial_run_is_short_and_stays_out_of_the_committed_results(climbed, tmp_path, capsys):
    whole = build_work_list(*climbed)
    steps = bench_climb.shortened([{**step, **({"steps": 40} if step["kind"] == "train" else {})} for step in whole], 3)
    assert {len(step["rows" if step["kind"] == "train" else "prompts"]) for step in steps} == {3}
    assert max(step["steps"] for step in steps if step["kind"] == "train") == 3
    with pytest.raises(SystemExit):
        bench_climb.parse(["--trial", "3"])
    assert "--results" in capsys.readouterr().err
    assert bench_climb.parse(["--trial", "3", "--results", str(tmp_path / "trial.json")]).trial == 3


def test_results_are_read_again_and_another_file_is_refused(tmp_path):
    path = tmp_path / "climb.json"
    assert bench_climb.read_results(path)["missing"]
    path.write_text(json.dumps(CONTENT))
    assert ratios(bench_climb.read_results(path)) is not None
    path.write_text("no json")
    with pytest.raises(DataError, match="no results of this benchmark"):
        bench_climb.read_results(path)
