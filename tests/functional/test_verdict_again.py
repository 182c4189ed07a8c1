"""`verdict` and `verify`: a finished run looked at again, through the whole service and the command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from judges import fenced, judge
from small_tasks import LABELS, World, write_task
from stepladder import __version__
from stepladder.domain.errors import RunError, UsageError
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.domain.verdict import Outcome, Route
from stepladder.engines.fake import FakeEngine
from stepladder.evaluation.learning_curve import forecast
from stepladder.evaluation.records import inputs_from_json, verdict_to_json
from stepladder.evaluation.wording import growth
from stepladder.files import hash_text
from stepladder.service.climb import Climb, climb
from stepladder.service.open_run import find_run
from stepladder.service.report import render_report
from stepladder.service.verdict import Assumptions, derive_verdict
from stepladder.service.verify import TAKEN, Verified, verify

SKIP = 'skip = ["classifier", "lora+constrained", "lora+nearest"]'


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Climb:
    """A climb in which the tuned rung is much better; module-wide, since nothing here changes it."""
    folder = tmp_path_factory.mktemp("again") / "task"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(folder.parent / "cache"))
        world = write_task(folder, 160, rungs=SKIP, use="max_latency_seconds = 30")
        return climb(folder, tools=world.tools)


@pytest.fixture
def copied(finished: Climb, tmp_path: Path) -> Path:
    """The run folder at another place, without its task."""
    return Path(shutil.copytree(finished.folder, tmp_path / "elsewhere" / "run"))


def stepladder(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def rewrite(path: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


# --- verdict ---------------------------------------------------------------------------------------------------------


def test_without_other_assumptions_the_recorded_verdict_follows_to_the_letter(finished: Climb) -> None:
    derived = derive_verdict(finished.folder)
    assert verdict_to_json(derived.verdict) == verdict_to_json(finished.verdict)
    assert derived.changed == ()
    assert derived.climb.record == finished.record


def test_what_more_rows_would_bring_is_reckoned_anew_for_another_smallest_gain(finished: Climb, copied: Path) -> None:
    (curve,) = finished.record.curves
    assert growth(curve) in finished.verdict.would_change
    for asked in (0.001, 0.6):
        derived = derive_verdict(copied, Assumptions(minimum_gain=asked))
        assert [line for line in derived.verdict.would_change if "training rows" in line] == [growth(forecast(curve, asked))]
        assert derived.climb.record.curves == (forecast(curve, asked),)
    assert "unlikely to help" in growth(curve)
    assert "the odds of 0.1 points or more" in growth(forecast(curve, 0.001))
    rewrite(copied / "verdict.json", lambda content: content["record"].update(curves=[]))
    derived = derive_verdict(copied, Assumptions(minimum_gain=0.6))
    assert not any("training rows" in line for line in derived.verdict.would_change)
    assert any("no points to reckon it anew from" in note for note in derived.notes)


def test_another_target_another_outcome(finished: Climb) -> None:
    low = derive_verdict(finished.folder, Assumptions(target=0.4)).verdict
    assert (low.outcome, low.route) == (Outcome.SUFFICIENT, Route.TARGET)
    assert low.rung in {"few-shot", "nearest"}
    assert derive_verdict(finished.folder, Assumptions(target=0.999)).verdict.outcome is not Outcome.SUFFICIENT
    best = derive_verdict(finished.folder, Assumptions(target=0.4, no_target=False))
    assert best.changed == ("target = 0.4 instead of nothing",)


def test_a_larger_minimum_gain_keeps_the_cheaper_rung(finished: Climb) -> None:
    assert (finished.verdict.rung or "").startswith("lora")
    stay = derive_verdict(finished.folder, Assumptions(minimum_gain=0.9)).verdict
    assert not (stay.rung or "").startswith("lora")


def test_costs_follow_calls_horizon_and_the_machines_price(finished: Climb) -> None:
    derived = derive_verdict(
        finished.folder, Assumptions(calls_per_month=50_000, horizon_months=6, machine_usd_per_hour=0.4, facts_change="monthly")
    )
    lora = next(rung for rung in derived.climb.rungs if rung.name == "lora")
    before = next(rung for rung in finished.rungs if rung.name == "lora")
    assert lora.cost.calls == 300_000
    assert lora.cost.retrainings == 6
    assert lora.cost.usd_once == pytest.approx(before.cost.seconds_once * 0.4 / 3600)
    assert lora.cost.usd_per_call == pytest.approx(before.cost.seconds_per_call * 0.4 / 3600)
    assert lora.cost.labels == 6 * before.cost.labelled_rows > 0
    assert any("300,000" in fact for fact in derived.verdict.facts)
    assert any("$" in fact for fact in derived.verdict.facts)


def test_a_latency_limit_rules_rungs_out(finished: Climb) -> None:
    derived = derive_verdict(finished.folder, Assumptions(max_latency_seconds=1e-9))
    assert derived.verdict.outcome is Outcome.NOT_REACHED
    assert any("too slow" in reason for reason in derived.verdict.reasons)


def test_a_job_that_ends_before_a_training_pays_is_not_trained_for(finished: Climb) -> None:
    verdict = derive_verdict(finished.folder, Assumptions(calls_total=1)).verdict
    assert not (verdict.rung or "").startswith("lora")
    assert any("the job ends after 1 calls" in reason for reason in verdict.reasons)


@pytest.mark.parametrize("tune_anyway", [True, False])
def test_a_one_off_job_has_one_verdict_however_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tune_anyway: bool
) -> None:
    """Planned to take no time, the training is not refused; measured, it pays for itself from some thousand calls."""
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    world = write_task(tmp_path / "task", 160, rungs=SKIP, use="calls_total = 20")
    identity = world.tools.engine.identity
    key = f"{identity.name} {identity.base_sha256[:12]} {identity.dtype}"
    speeds = {key: {"prompt": 1e9, "completion": 1e9, "training": 1e12}}
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "speeds.json").write_text(json.dumps(speeds), encoding="utf-8")
    finished = climb(tmp_path / "task", tools=world.tools, tune_anyway=tune_anyway)
    assert (finished.verdict.rung == "lora") is tune_anyway
    assert any("lora is ruled out: the job ends after" in reason for reason in finished.verdict.reasons) is not tune_anyway
    derived = derive_verdict(finished.folder)
    assert verdict_to_json(derived.verdict) == verdict_to_json(finished.verdict)
    assert derived.changed == ()
    assert verify(finished.folder).agrees
    elsewhere = derive_verdict(finished.folder, Assumptions(calls_per_month=1_000)).verdict
    assert elsewhere.rung == "lora"  # a job without an end


def test_a_rung_that_validation_would_name_and_that_never_answered_the_test_is_said(finished: Climb) -> None:
    """At a target of 10 % the cheapest untuned rung is the nominee, whatever it is."""
    derived = derive_verdict(finished.folder, Assumptions(target=0.1))
    contenders = {rung.name for rung in finished.rungs if rung.role}
    named = [note for note in derived.notes if "never answered the test rows" in note]
    assert named == [] or not any(f" {name} " in note for note in named for name in contenders)
    assert any("baseline" in note for note in named)


@pytest.mark.parametrize(
    ("assumptions", "says"),
    [
        (Assumptions(target=1.2), "at most 1"),
        (Assumptions(target=0.5, no_target=True), "at once"),
        (Assumptions(minimum_gain=0.0), "between 0 and 1"),
        (Assumptions(calls_per_month=-1), "calls_per_month"),
        (Assumptions(facts_change="hourly"), "facts_change"),
        (Assumptions(calls_per_month=1, calls_total=1), "calls_total"),
        (Assumptions(calls_per_month=float("inf")), "calls_per_month: Input should be a finite number"),
    ],
)
def test_assumptions_that_make_no_sense_are_refused(finished: Climb, assumptions: Assumptions, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        derive_verdict(finished.folder, assumptions)


def test_hosted_rungs_are_ruled_out_when_the_data_must_stay(finished: Climb, copied: Path) -> None:
    path = copied / "verdict.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for contender in content["inputs"]["contenders"]:
        contender["hosted"] = contender["tuned"]
    path.write_text(json.dumps(content), encoding="utf-8")
    leaving = derive_verdict(copied, Assumptions(data_may_leave=True)).verdict
    derived = derive_verdict(copied, Assumptions(data_may_leave=False))
    staying = derived.verdict
    assert any("only a climb without them says" in note for note in derived.notes)
    assert leaving.rung == finished.verdict.rung
    assert not (staying.rung or "").startswith("lora")
    assert any("`[use] data_may_leave` is false" in reason for reason in staying.reasons)


def test_the_command_writes_nothing_and_says_what_it_assumed(finished: Climb) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    shown = stepladder("verdict", finished.folder, "--target", "0.4", "--calls-per-month", "500")
    assert shown.returncode == 0, shown.stderr
    assert "target = 0.4 instead of nothing; calls_per_month = 500 instead of nothing" in shown.stdout
    assert "Otherwise than recorded: sufficient, lora" in shown.stdout
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before
    printed = json.loads(stepladder("verdict", finished.folder, "--json", "--minimum-gain", "0.9").stdout)
    assert printed["recorded"]["rung"] == finished.verdict.rung
    assert printed["verdict"]["rung"] != finished.verdict.rung


def test_all_outcomes_and_routes_follow_from_recorded_runs(finished: Climb, copied: Path) -> None:
    def said(path: Path, **assumed: object) -> tuple[Outcome, Route | None]:
        verdict = derive_verdict(path, Assumptions(**assumed)).verdict  # type: ignore[arg-type]
        return verdict.outcome, verdict.route

    lora = next(rung for rung in finished.rungs if rung.name == finished.verdict.rung)
    assert lora.test is not None
    assert said(copied) == (Outcome.SUFFICIENT, Route.GAIN)
    assert said(copied, minimum_gain=0.9) == (Outcome.SUFFICIENT, Route.CHEAPEST)
    assert said(copied, target=0.4) == (Outcome.SUFFICIENT, Route.TARGET)
    assert said(copied, target=round(lora.test.value, 3)) == (Outcome.UNDECIDED, None)
    assert said(copied, target=1.0) == (Outcome.NOT_REACHED, None)

    def as_good_and_cheaper(inputs: dict) -> None:  # type: ignore[type-arg]
        shown = next(one for one in inputs["contenders"] if one["rung"] in ("few-shot", "nearest"))
        tuned = next(one for one in inputs["contenders"] if one["tuned"])
        tuned["scores"] = shown["scores"]
        tuned["cost"] = {**tuned["cost"], "seconds_once": 60.0, "seconds_per_call": 0.1}
        shown["cost"] = {**shown["cost"], "seconds_once": 10.0, "seconds_per_call": 0.5}
        for other in inputs["contenders"]:
            if not other["tuned"] and other is not shown:
                other["scores"] = [[0.0] * len(line) for line in other["scores"]]

    rewrite(copied / "verdict.json", lambda content: as_good_and_cheaper(content["inputs"]))
    assert said(copied, minimum_gain=0.1, calls_per_month=10_000) == (Outcome.SUFFICIENT, Route.CHEAPER_TO_RUN)
    assert said(copied, minimum_gain=0.1, calls_per_month=1) == (Outcome.SUFFICIENT, Route.GAIN)
    rewrite(copied / "verdict.json", lambda content: content["inputs"].update(leaks=["your prompt holds test row r1."]))
    assert said(copied) == (Outcome.INVALID, None)


def test_mistakes_and_changed_rows_stand_in_the_terminal_the_report_and_the_record(finished: Climb) -> None:
    own = [one for one in finished.record.mistakes if one.rung == finished.verdict.rung]
    shown, report = str(finished), (finished.folder / "report.html").read_text(encoding="utf-8")
    test = next(rung.test for rung in finished.rungs if rung.name == finished.verdict.rung)
    assert test is not None
    assert own
    assert own[0].wrong == round((1 - test.value) * test.items)
    assert own[0].asked == test.items
    assert f"{finished.verdict.rung} has {own[0].wrong} of {test.items} test rows wrong:" in shown
    for one in own:
        assert f"{one.kind.value}, {len(one.rows)} row" in shown
        assert one.remedy in shown
        assert one.remedy in report
    prompt = [one for one in finished.record.mistakes if one.rung == "prompt"]
    assert prompt[0].right_elsewhere["lora"] > 0
    assert len(finished.record.fixed_rows) == finished.record.fixed == 0 or finished.record.fixed_rows[0] in report
    assert len(finished.record.broken_rows) == finished.record.broken
    assert {row.id for row in finished.record.improvements} <= set(finished.record.fixed_rows)
    assert [one.column for one in finished.record.slices] == ["expected answer"] * 4


def test_rows_fixed_and_broken_are_counted_over_all_seeds_as_in_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    world = write_task(tmp_path / "task", 160, rungs=SKIP)

    def answer(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        """Each training is wrong on rows of its own."""
        said = world.answer(prompt, decoding, adapter)
        luck = 256 if adapter is None else int(hash_text(f"{prompt.messages[-1].content} {adapter.name}")[:2], 16)
        return said if luck >= 50 else next(label for label in LABELS if label != said)

    finished = climb(tmp_path / "task", tools=replace(world.tools, engine=FakeEngine(answer)))
    record = finished.record
    assert finished.verdict.rung == "lora"
    assert record.noise["seed_disagreement lora"] > 0.1
    against = record.improvements[0].baseline
    (gain,) = (one for one in finished.verdict.gains if one.candidate == against)
    assert (record.fixed, record.broken) == (gain.losses, gain.wins)
    assert (len(record.fixed_rows), len(record.broken_rows)) == (record.fixed, record.broken)
    assert record.broken > 0
    assert {row.candidate_score for row in record.regressions} >= {0.5}
    assert all(row.candidate_answer != row.reference for row in record.regressions)
    assert "Scores are means over the trainings" in (finished.folder / "report.html").read_text(encoding="utf-8")
    own = next(one for one in record.mistakes if one.rung == "lora")
    scores = next(
        one for one in inputs_from_json(find_run(finished.folder).read_inputs()).contenders if one.rung == "lora"
    ).scores
    assert own.wrong == int((scores.mean(axis=0) < 1).sum())
    rung = next(rung for rung in finished.rungs if rung.name == "lora")
    assert rung.test is not None
    assert rung.metrics["test/accuracy"] == pytest.approx(rung.test.value)


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_moved_run_verifies(copied: Path) -> None:
    found = verify(copied)
    assert found.differences == ()
    assert found.files > 10
    assert found.rows == len((copied / "rows.jsonl").read_text(encoding="utf-8").splitlines())
    shown = stepladder("verify", copied, "--json")
    assert shown.returncode == 0
    printed = json.loads(shown.stdout)
    assert printed["agrees"] is True
    assert "openings of the test split" in printed["taken_as_recorded"]


def test_a_changed_byte_in_any_file_is_named(copied: Path) -> None:
    for path in sorted(copied.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        name = path.relative_to(copied).as_posix()
        assert name in {difference.file for difference in verify(copied).differences}, name
        path.write_bytes(whole)
    assert verify(copied).agrees


def test_a_change_is_located_and_exits_3(copied: Path) -> None:
    path = copied / "generations.jsonl"
    content = bytearray(path.read_bytes())
    content[9000] ^= 1
    path.write_bytes(content)
    (difference,) = verify(copied).differences
    first, last = re.search(r"bytes ([\d,]+) to ([\d,]+) differ first", difference.problem).groups()
    assert int(first.replace(",", "")) <= 9000 < int(last.replace(",", ""))
    assert "line " in difference.problem
    shown = stepladder("verify", copied)
    assert shown.returncode == 3
    assert "generations.jsonl: it was changed" in shown.stdout


def problems(found: Verified) -> str:
    return "\n".join(map(str, found.differences))


def test_a_grade_that_does_not_follow_from_its_answer_is_named_with_its_row(copied: Path) -> None:
    path = copied / "rows.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    place = next(number for number, line in enumerate(lines) if json.loads(line)["split"] == "test")
    row = json.loads(lines[place])
    lines[place] = json.dumps({**row, "score": 1.0 - row["score"]})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = problems(verify(copied))
    assert f"rows.jsonl: line {place + 1}: row '{row['id']}' of {row['rung']}: labels gives {row['score']:g}" in found
    assert f"verdict.json: the scores of {row['rung']} are not those of rows.jsonl." in found


def test_a_verdict_that_does_not_follow_from_its_inputs_is_named(copied: Path) -> None:
    rewrite(copied / "verdict.json", lambda content: content["record"]["verdict"].update(rung="prompt"))
    assert "the verdict's `rung` follows as 'lora', and 'prompt' is recorded." in problems(verify(copied))


def test_words_of_the_same_version_are_compared_and_shown_where_they_differ(copied: Path) -> None:
    def lie(content: dict[str, Any]) -> None:
        said = content["record"]["verdict"]["sentence"]
        content["record"]["verdict"]["sentence"] = said[:-9] + "LIE" + said[-6:]

    rewrite(copied / "verdict.json", lie)
    assert re.search(r"the verdict's `sentence` follows as ….*, and ….*LIE.* is recorded\.", problems(verify(copied)))


def test_words_of_another_version_are_a_note_and_its_figures_are_not(copied: Path) -> None:
    def of_another_version(content: dict[str, Any]) -> None:
        content["record"]["versions"]["stepladder"] = "0.0.9"
        content["record"]["verdict"]["sentence"] = "Take lora, as we used to say."

    rewrite(copied / "verdict.json", of_another_version)
    found = verify(copied)
    assert "verdict's" not in problems(found)
    said = f"Version 0.0.9 worded `sentence` of the verdict otherwise than {__version__} does; all figures follow."
    assert found.notes == (said,)
    rewrite(copied / "verdict.json", lambda content: content["record"]["verdict"].update(rung="prompt"))
    assert f"and 'prompt' is recorded (written by version 0.0.9; this is {__version__})." in problems(verify(copied))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cross_fit": True}, "`cross_fit` is True in the inputs, False by rows.jsonl."),
        ({"base_parameters": 7}, "`base_parameters` is 7 in the inputs, 1 in the record."),
        ({"calls_total": 5.0}, "`calls_total` is 5.0 in the inputs, None in the task."),
        ({"tune_anyway": True}, "`tune_anyway` is True in the inputs, False in climb.json."),
    ],
    ids=str,
)
def test_circumstances_that_are_not_those_of_the_run_are_named(copied: Path, change: dict[str, Any], said: str) -> None:
    rewrite(copied / "verdict.json", lambda content: content["inputs"].update(change))
    assert said in problems(verify(copied))


def first(content: dict[str, Any], part: str) -> Any:
    return content["record"][part][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda content: content["record"].update(fixed=99),
            r"\d+ rows are fixed by rows\.jsonl, and 99 are recorded, or others\.",
        ),
        (
            lambda content: content["record"].update(broken_rows=["t1", "t2"]),
            r"\d+ rows are broken by rows\.jsonl, and \d+ are rec",
        ),
        (
            lambda content: first(content, "improvements").update(candidate_answer="else"),
            "the fixed rows that are shown are not th",
        ),
        (lambda content: first(content, "mistakes").update(wrong=1), "the mistakes of .+ are not those of rows.jsonl"),
        (lambda content: first(content, "mistakes")["rows"].pop(), "the mistakes of .+ are not those of rows.jsonl"),
        (lambda content: first(content, "mistakes").update(right_elsewhere={}), "the mistakes of .+ are not those of rows.jsonl"),
        (lambda content: first(content, "slices").update(chance=0.0), "the slices of .+ do not follow from its rows"),
        (lambda content: content["record"]["noise"].update({"seed_floor lora": 0.5}), "the noise between training seeds"),
        (
            lambda content: content["inputs"]["contenders"][0]["cost"].update(calls=1.0),
            r"`calls` of \S+ is \S+ by the task, and 1\.0",
        ),
        (
            lambda content: content["inputs"]["contenders"][0]["cost"].update(retrainings=3.0),
            "`retrainings` of .+ 3.0 is recorded",
        ),
        (
            lambda content: content["inputs"]["contenders"][0]["cost"].update(usd_per_call=0.1),
            "`usd_per_call` of .+ is None by th",
        ),
        (
            lambda content: content["inputs"]["contenders"][0]["cost"].update(labels=4.0),
            "the cost shown for .+ is not that of the",
        ),
    ],
    ids=["fixed", "broken", "shown", "wrong", "rows", "elsewhere", "slice", "noise", "calls", "retrainings", "usd", "shown cost"],
)
def test_what_a_record_lists_and_does_not_follow_from_the_rows_is_named(
    copied: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    rewrite(copied / "verdict.json", change)
    assert re.search(said, problems(verify(copied)))


def test_a_cross_fitted_run_agrees_with_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    use = 'machine_usd_per_hour = 0.4\nlabel_usd_each = 2.0\nfacts_change = "yearly"'
    finished = climb(tmp_path / "task", tools=write_task(tmp_path / "task", 60, rungs=SKIP, use=use).tools)
    assert finished.record.slices
    assert finished.record.mistakes
    assert verify(finished.folder).differences == ()


def test_what_is_taken_as_recorded_is_listed() -> None:
    taken = (
        "of which kind a mistake is",
        "asked again say about noise",
        "what they charge",
        "were no contenders",
        "labelled again",
    )
    assert "which rows they set aside" in TAKEN
    for named in taken:
        assert named in TAKEN
    for named in ("models are hosted", "learning curves forecast", "were left out", "fit on all rows failed", "test split grows"):
        assert named in TAKEN


def test_inputs_that_do_not_follow_from_the_rows_are_named(copied: Path) -> None:
    rewrite(copied / "verdict.json", lambda content: content["inputs"].update(target=0.1))
    assert "`target` is 0.1 in the inputs, None in the task and None in the record." in problems(verify(copied))
    rewrite(copied / "verdict.json", lambda content: content["inputs"].update(max_latency_seconds=9.0))
    assert "`max_latency_seconds` is 9.0 in the inputs, 30.0 in the task." in problems(verify(copied))


def test_a_missing_file_and_a_missing_receipt_are_differences_and_a_later_file_is_not(copied: Path) -> None:
    (copied / "notes.txt").write_text("mine", encoding="utf-8")
    found = verify(copied)
    assert found.agrees
    assert found.notes == ("1 file came after the verdict: notes.txt.",)
    (copied / "checks.json").unlink()
    assert problems(verify(copied)) == "checks.json: it is missing."
    (copied / "receipt.json").unlink()
    assert "receipt.json: it is missing" in problems(verify(copied))


def test_a_report_written_again_and_answers_added_by_predict_are_no_differences(copied: Path) -> None:
    run = find_run(copied)
    run.write_report(render_report(run.read_verdict()) + "<!-- another version -->")
    with run.generations_path.open("a", encoding="utf-8") as file:
        file.write('{"key": "of a later call"}\n')
    assert verify(copied).agrees


def test_an_unfinished_run_cannot_be_verified(copied: Path) -> None:
    (copied / "verdict.json").unlink()
    with pytest.raises(RunError, match="no verdict yet"):
        verify(copied)


JUDGE = """
[[graders]]
type = "label_model"
name = "kind"
model = "fake:judge"
labels = ["right", "wrong"]
passing_labels = ["right"]
accept_uncalibrated = true
"""


def judged_climb(folder: Path) -> Climb:
    world: World = write_task(folder, 20, rungs='skip = ["classifier"]')
    with (folder / "task.toml").open("a", encoding="utf-8") as file:
        file.write(JUDGE)
    engine = judge(
        lambda prompt: "right" if fenced(prompt)["sample.output_text"] == fenced(prompt)["item.reference"] else "wrong"
    )
    return climb(folder, tools=replace(world.tools, judges={"fake:judge": engine}))


def test_grades_of_a_model_judge_are_reckoned_from_its_stored_judgements_or_said_to_be_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))
    run = Path(shutil.move(judged_climb(tmp_path / "task").folder, tmp_path / "moved"))
    shutil.rmtree(tmp_path / "task")
    found = verify(run)
    assert found.differences == ()
    assert any("reckoned from its judgements in the run; nobody was asked" in note for note in found.notes)
    assert not any("taken as recorded" in note for note in found.notes)
    (run / "judgements.jsonl").unlink()
    without = verify(run)
    assert [difference.file for difference in without.differences] == ["judgements.jsonl"]
    assert any("taken as recorded: its judgements are not in the run folder" in note for note in without.notes)
