"""Climbing real tasks: one process each, and a result that holds figures only. The climb itself is a stand-in here."""

import dataclasses
import json
import subprocess
import sys

import pytest
import run
import tickets60
from climb_result import LEFT_OUT, add_field_metric, describe_machine, reduce_record, row_texts

from stepladder.domain.climb import ChangedRow, ClimbRecord, RungResult, RungStatus
from stepladder.domain.errors import EngineError
from stepladder.domain.protocols import ModelIdentity
from stepladder.domain.task import Task
from stepladder.domain.verdict import Interval, Outcome, Route, Verdict

QUESTION = "Which boat left the harbour first?"
ANSWER = "the small red one"


def record(**changes):
    changed = ChangedRow("q1", QUESTION, ANSWER, "prompt", "none", 0.0, "lora", ANSWER, 1.0)
    rungs = (
        RungResult("prompt", False, RungStatus.RAN, validation=Interval(0.5, 0.4, 0.6), recipe={"shots": [[QUESTION, ANSWER]]}),
        RungResult("lora", True, RungStatus.REFUSED, reason=f"fact-bound: {QUESTION} → {ANSWER}"),
    )
    verdict = Verdict(Outcome.SUFFICIENT, "prompt", Route.CHEAPEST, "indicative", "Use prompt; nothing dearer proved better.")
    model = ModelIdentity("tiny", "fake")
    built = ClimbRecord(
        "run-1", "boats", "2026-01-02T03:04:05Z", model, "token_f1", rungs, verdict, "small", {"test": 6}, None, 0.03,
        notes=(f"row q1 ({QUESTION}) is long",), regressions=(changed,),
    )  # fmt: skip
    return json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(built, **changes))))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "work" / "boats"
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text('name = "boats"\n', encoding="utf-8")
    row = {"id": "q1", "prompt": QUESTION, "completion": ANSWER}
    (folder / "examples.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def stand_in(output, exit_code=0):
    """A command that notes its arguments on stderr, prints `output` and ends with `exit_code`."""
    code = f"import sys; print(sys.argv[1:], file=sys.stderr); print({output!r}); sys.exit({exit_code})"
    return [sys.executable, "-c", code]


def test_no_text_of_a_row_reaches_the_result(folder):
    reduced = reduce_record(record(), row_texts(folder))
    assert QUESTION not in json.dumps(reduced, ensure_ascii=False)
    assert ANSWER not in json.dumps(reduced, ensure_ascii=False)
    assert [rung["reason"] for rung in reduced["rungs"]] == ["", LEFT_OUT]


def test_the_result_keeps_scores_verdict_and_identity(folder):
    reduced = reduce_record(record(), row_texts(folder))
    assert reduced["verdict"]["sentence"] == "Use prompt; nothing dearer proved better."
    assert (reduced["rungs"][0]["validation"]["value"], reduced["rungs"][1]["status"]) == (0.5, "refused")
    assert (reduced["model"]["name"], reduced["regime"], reduced["split_sizes"]) == ("tiny", "small", {"test": 6})


def test_recall_is_kept_of_a_rung_that_retrieves_and_its_phrases_are_not():
    abstention = {"rows": 3, "abstained": 1.0, "phrases": [ANSWER]}
    figures = {"recall": {"1": 0.5}, "gold_rows": 4, "closed_book": 0.1, "retrieved": 0.5, "oracle_context": 1.0}
    rung = RungResult("rag", False, RungStatus.RAN, recipe={"k": 1, "diagnosis": {**figures, "abstention": abstention}})
    reduced = reduce_record(record(rungs=(rung,)), [])
    assert reduced["rungs"][0]["retrieval"] == figures


def test_short_answers_in_a_reason_are_no_quotes():
    kept = reduce_record(record(), ["unknown", "1961"])
    assert kept["rungs"][1]["reason"].startswith("fact-bound")


def test_the_share_of_right_intents_is_read_from_the_rows(tmp_path):
    task = {"id": "a", "prompt": "rain?", "completion": '{"intent": "GetWeather", "slots": {}}'}
    (tmp_path / "test.jsonl").write_text(json.dumps(task) + "\n", encoding="utf-8")
    rows = tmp_path / "runs" / "run-1" / "rows.jsonl"
    rows.parent.mkdir(parents=True)
    answers = ['{"intent": "GetWeather"}', '{"intent": "PlayMusic"}', "no JSON", '["GetWeather"]']
    lines = [json.dumps({"rung": "prompt", "split": "test", "id": "a", "answer": answer}) for answer in answers]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    reduced = reduce_record(record(), [])
    add_field_metric(reduced, tmp_path, "intent")
    assert [rung["metrics"] for rung in reduced["rungs"]] == [{"test/intent right": 0.25}, {}]


def test_the_climb_gets_the_folder_and_the_budget_and_its_progress_is_seen(folder, capfd):
    assert run.climb(folder, minutes=2.5, command=stand_in(json.dumps(record())))["run"] == "run-1"
    arguments = capfd.readouterr().err
    assert "'climb'" in arguments
    assert str(folder) in arguments
    assert "'--json', '--budget-minutes', '2.5'" in arguments


def test_a_target_not_reached_is_a_verdict_too(folder):
    assert run.climb(folder, minutes=None, command=stand_in(json.dumps(record()), exit_code=1))["task"] == "boats"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (stand_in("{}", exit_code=3), "boats: the climb ended with exit code 3"),
        (stand_in("Traceback"), "printed something else than JSON"),
        (stand_in("[]"), "printed no JSON object"),
    ],
)
def test_a_climb_without_a_verdict_is_an_error(folder, command, message):
    with pytest.raises(EngineError, match=message):
        run.climb(folder, minutes=None, command=command)


def measure(folder, output, tmp_path):
    return run.measure(
        "boats", {"commit": "abc"}, datasets=tmp_path, work=folder.parent, results=tmp_path / "results", minutes=None,
        command=stand_in(output),
    )  # fmt: skip


def test_an_existing_folder_is_climbed_as_it_is_and_its_result_stored(folder, tmp_path):
    path = measure(folder, json.dumps(record()), tmp_path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "results" / "boats.json"
    assert (stored["name"], stored["machine"], stored["budget_minutes"]) == ("boats", {"commit": "abc"}, None)


def test_a_record_that_lacks_something_is_an_error_and_nothing_is_stored(folder, tmp_path):
    incomplete = record()
    del incomplete["verdict"]
    with pytest.raises(EngineError, match="boats: the climb's JSON lacks 'verdict'"):
        measure(folder, json.dumps(incomplete), tmp_path)
    assert not (tmp_path / "results").exists()


def test_the_60_row_task_is_the_bundled_one_cut(tmp_path):
    task = Task.load(tickets60.build(tmp_path / "tickets-60"))
    bundled = Task.load(tickets60.bundled_folder())
    lines = (bundled.folder / "examples.jsonl").read_text(encoding="utf-8").split("\n")
    assert (task.folder / "examples.jsonl").read_text(encoding="utf-8").split("\n") == [*lines[:60], ""]
    assert task.settings == bundled.settings.model_copy(update={"name": "tickets-60"})
    assert task.output_schema == bundled.output_schema


def test_the_machine_is_described_with_commit_versions_and_date(tmp_path):
    described = describe_machine(tmp_path)
    assert (described["commit"], described["dirty"]) == ("", False)
    assert described["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert described["cores"] >= 1
    assert described["cpu"]


def test_results_alone_do_not_make_the_tree_dirty(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "empty")
    result = tmp_path / "benchmarks" / "results" / "real" / "boats.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}", encoding="utf-8")
    assert describe_machine(tmp_path)["dirty"] is False
    assert len(describe_machine(tmp_path)["commit"]) == 12
    (tmp_path / "new.py").write_text("", encoding="utf-8")
    assert describe_machine(tmp_path)["dirty"] is True


def test_an_unknown_task_is_named_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["snaps"])
    assert stopped.value.code == 2
    assert (
        "there is no task 'snaps'; choose from tickets, handbook, voice, clinic, repairs, snips, disfluent-qa, tickets-60"
        in capsys.readouterr().err
    )
