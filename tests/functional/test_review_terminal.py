"""`stepladder review` in a real terminal: blind to the end, continued after a kill, counted rightly."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import beta
from statsmodels.stats.proportion import proportion_confint

from small_tasks import THINGS, write_task
from stepladder.domain.errors import RunError, UsageError
from stepladder.service.climb import climb
from stepladder.service.review import Choice, open_review
from terminal import last_question, screen

KIND = {thing: label for label, things in THINGS.items() for thing in things}
HINT = r"q stop[^\n]*\n"


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPLADDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("review") / "things"
        world = write_task(folder, 60, rungs='skip = ["baseline", "classifier", "lora", "lora+nearest", "lora+constrained"]')
        climb(folder, tools=world.tools)
    return folder


@pytest.fixture
def run(climbed: Path) -> Path:
    """The one run of the task, nobody having reviewed it yet."""
    (path,) = (climbed / "runs").iterdir()
    for name in ("review.jsonl", "review.json"):
        (path / name).unlink(missing_ok=True)
    return path


def right_one(question: str) -> str:
    """What a person presses who knows the things."""
    kind = KIND[question.split()[1]]
    a, b = re.findall(r"^[AB]:\n(.*)$", question, re.MULTILINE)
    return "t" if a == b else "a" if a == kind else "b" if b == kind else "s"


def test_a_person_judges_blind_and_the_result_stands_in_the_run_and_its_report(run: Path) -> None:
    verdict = json.loads((run / "verdict.json").read_text(encoding="utf-8"))["record"]["verdict"]
    work = open_review(run, rows=12)
    pairs = list(work.answers.values())
    differing = sum(first != second for first, second in pairs)
    assert 2 <= differing < 12
    with screen("review", run, "--rows", "12") as shown:
        _, question = last_question(shown.until(HINT))
        shown.press(right_one(question))
        shown.until(HINT)
        shown.kill(signal.SIGKILL)
        assert verdict["rung"] not in shown.all
        assert "reference" not in shown.all
    assert not (run / "review.json").exists()
    with screen("review", run, "--rows", "12") as shown:
        head, _ = last_question(shown.until(HINT))
        assert head == f"2 of {differing}"
        shown.press("q")
        assert shown.end() == 0
        assert "nothing is uncovered before the end" in shown.all
        assert verdict["rung"] not in shown.all
    with screen("review", run, "--rows", "12") as shown:
        for _ in range(differing - 1):
            shown.press(right_one(last_question(shown.until(HINT))[1]))
        assert shown.end() == 0
        assert f"{verdict['rung']} preferred to reference in" in shown.all.replace("\n", " ")
    (review,) = json.loads((run / "review.json").read_text(encoding="utf-8"))["reviews"]
    assert (review["wins"], review["losses"], review["ties"]) == (0, differing, 0)  # the reference was right each time
    assert review["identical"] == 12 - differing
    liked = (12 - differing) / 2
    low, high = proportion_confint(liked, 12, method="wilson")
    assert (review["preferred"]["low"], review["preferred"]["high"]) == pytest.approx((low, high))
    assert review["probability_better"] == pytest.approx(beta.sf(0.5, liked + 1, 12 - liked + 1))
    assert "Judged by a person" in (run / "report.html").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", "report", str(run)]
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "Judged blind by a person" in again.stdout
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(as_json.stdout)["reviews"] == [review]
    finished = subprocess.run(
        [*command[:3], "review", str(run), "--rows", "12", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(finished.stdout)["finished"] is True  # nothing is left to ask: no terminal is needed


def test_sides_are_mixed_fixed_and_not_written_down(run: Path) -> None:
    first, second = open_review(run, rows=60), open_review(run, rows=60)
    sides = []
    while (pair := first.next_pair()) is not None:
        other = second.next_pair()
        assert other == pair
        sides.append((pair.a, pair.b) == first.answers[pair.id])
        first.choose(pair, "tie")
        second = open_review(run, rows=60)
    assert 0.2 < sum(sides) / len(sides) < 0.8
    kept = [json.loads(line) for line in (run / "review.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {frozenset(line) for line in kept} == {frozenset(("rung", "against", "id", "choice"))}


@pytest.mark.parametrize(("choose", "value"), [("ours", 1.0), ("theirs", 0.0), ("tie", 0.5)])
def test_every_choice_counts_for_the_answer_it_was_made_for(run: Path, choose: str, value: float) -> None:
    work = open_review(run, rows=60)
    differing = 0
    while (pair := work.next_pair()) is not None:
        ours = "a" if (pair.a, pair.b) == work.answers[pair.id] else "b"
        theirs: Choice = "b" if ours == "a" else "a"
        work.choose(pair, "tie" if choose == "tie" else ours if choose == "ours" else theirs)
        differing += 1
    review = work.finish()
    same = len(work.answers) - differing
    assert review.preferred.value == pytest.approx((value * differing + same / 2) / (differing + same))


def test_more_rows_go_on_from_those_judged_already(run: Path) -> None:
    few, more = open_review(run, rows=10), open_review(run, rows=20)
    assert list(more.answers)[:10] == list(few.answers)


def test_another_rung_may_be_the_rival_and_one_that_was_not_tested_is_refused(run: Path) -> None:
    rung = open_review(run).rung
    rows = [json.loads(line) for line in (run / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    rival = next(row["rung"] for row in rows if row["split"] == "test" and row["rung"] != rung)
    assert open_review(run, against=rival).against == rival
    with pytest.raises(RunError, match="did not answer the test rows.*reference"):
        open_review(run, against="rag")
    with pytest.raises(UsageError, match="own rung"):
        open_review(run, against=rung)


def test_without_a_terminal_a_review_says_so(run: Path) -> None:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", "review", str(run)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120)
    assert refused.returncode == 2
    assert "asks a person" in refused.stderr
