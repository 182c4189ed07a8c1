"""JUnit XML that every parser takes, whatever a model wrote; and the lines of a scoring."""

from __future__ import annotations

from dataclasses import replace
from xml.dom import minidom
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile_texts import HOSTILE_TEXTS
from stepladder.domain.verdict import Interval
from stepladder.evaluation.worsening import Comparison
from stepladder.service.junit import junit_xml
from stepladder.service.score import Against, Scored, ScoredRow
from stepladder.service.score_lines import score_lines

ROWS = (
    ScoredRow("a", "Where is it?", "delivery", "delivery", 1.0, latency_seconds=0.25),
    ScoredRow("b", "Money back!", "refund", "delivery", 0.0, latency_seconds=0.5),
    ScoredRow("c", "Both.", "refund", "ref", 0.0, cut=True),
    ScoredRow("d", "Half.", "refund", "ref", 0.4),
    ScoredRow("e", "What?", "refund", "?", None, "the judge was silent"),
)
SCORED = Scored(
    run="2026-11-22-1015-quiet-heron",
    task="tickets",
    rung="few-shot",
    grader="labels",
    file="held-out.jsonl",
    report="report.html",
    rows=ROWS,
    new=5,
    interval=Interval(0.35, 0.1, 0.7, items=4, ungraded=1),
    target=0.3,
    probability_target=0.6,
    against=Against("run-1", "prompt", Comparison(Interval(0.5, 0.4, 0.6, items=60), Interval(-0.15, -0.4, 0.1), 0.9, True, 4)),
    metrics={"chrf": 0.62},
)


def test_the_gate_closes_when_more_than_two_rows_in_a_hundred_have_no_score() -> None:
    right = ScoredRow("a", "Q", "yes", "yes", 1.0)
    mute = ScoredRow("b", "Q", "yes", "yes", None, "the judge was silent")

    def scored(without: int) -> Scored:
        return replace(
            SCORED, rows=(right,) * (100 - without) + (mute,) * without, interval=Interval(1.0, 0.9, 1.0), against=None
        )

    assert scored(2).passed
    assert scored(3).failures == ("3 of 100 rows could not be graded: the judge was silent.",)
    assert not scored(99).passed


any_text = st.text(alphabet=st.characters(exclude_categories=[]))


def test_every_row_is_a_case_zero_fails_ungraded_is_an_error_and_the_aggregate_stands_in_the_properties() -> None:
    suite = ElementTree.fromstring(junit_xml(SCORED))[0]
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "time")} == {
        "tests": "5",
        "failures": "2",
        "errors": "1",
        "time": "0.750",
    }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ["a", "b", "c", "d", "e"]
    assert [[child.tag for child in case] for case in cases.values()] == [[], ["failure"], ["failure"], [], ["error"]]
    assert "Money back!" in (cases["b"][0].text or "")
    assert cases["c"][0].get("message") == "cut at the token limit"
    assert cases["e"][0].get("message") == "the judge was silent"
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties["passed"] == "false"  # one row of five could not be graded
    assert [properties[name] for name in ("score", "score_low", "score_high", "target")] == ["0.3500", "0.1000", "0.7000", "0.3"]
    assert properties["probability_worse"] == "0.9000"
    assert properties["against"] == "run-1 prompt"
    assert properties["metric/chrf"] == "0.6200"


@settings(max_examples=80, deadline=None)
@given(any_text | st.sampled_from(HOSTILE_TEXTS))
def test_any_text_gives_xml_that_parsers_take_and_that_says_the_same(text: str) -> None:
    rows = (ScoredRow(text, text, text, text, 0.0), ScoredRow(text + "2", text, text, text, None, text))
    page = junit_xml(replace(SCORED, rows=rows, task=text, rung=text, file=text, metrics={text or "x": 0.5}))
    page.encode("utf-8")
    minidom.parseString(page)
    cases = list(ElementTree.fromstring(page).iter("testcase"))
    assert len(cases) == 2
    plain = "".join(sign for sign in text if sign.isascii() and (sign.isprintable() or sign == "\n"))
    if plain == text:
        assert cases[0].get("name") == text
        assert (cases[0][0].text or "").endswith(f"Answer:\n{text}")


@pytest.mark.parametrize(("sign", "shown"), [("\x00", "\\x00"), ("\x1b", "\\x1b"), ("\ud800", "\\ud800"), ("\uffff", "\\uffff")])
def test_what_xml_forbids_is_written_out(sign: str, shown: str) -> None:
    page = junit_xml(replace(SCORED, rows=(ScoredRow("x", "in", "ref", f"a{sign}b", 0.0),)))
    assert (ElementTree.fromstring(page)[0].find("testcase/failure").text or "").endswith(f"a{shown}b")  # type: ignore[union-attr]


def test_the_lines_show_score_interval_target_and_comparison() -> None:
    text = "\n".join(score_lines(SCORED))
    assert "35 % (10–70)" in text
    assert "4 rows of held-out.jsonl, 1 ungraded" in text
    assert "P(reached) 60 %" in text
    assert "−15 points" in text
    assert "the same 4 rows, pair by pair" in text
    assert "1 of 5 rows could not be graded: the judge was silent." in text
    assert "Passed." in "\n".join(score_lines(replace(SCORED, rows=ROWS[:4])))


def test_a_low_score_a_worse_one_and_none_at_all_say_why_the_gate_closes() -> None:
    graded = replace(SCORED, rows=ROWS[:4])
    low = replace(graded, target=0.9)
    assert not low.passed
    assert "below the target of 90 %" in low.failures[0]
    assert graded.against is not None
    worse = replace(
        graded, against=replace(graded.against, comparison=replace(graded.against.comparison, probability_worse=0.95))
    )
    assert "It is worse than 'prompt' of run-1: P(worse) 95 %." in score_lines(worse)[-1]
    none = replace(SCORED, interval=None, rows=ROWS[4:])
    assert none.failures == ("No row could be graded: the judge was silent.",)
    assert "–" in score_lines(none)[2]


@settings(max_examples=30, deadline=None)
@given(any_text | st.sampled_from(HOSTILE_TEXTS))
def test_no_text_can_steer_the_terminal(text: str) -> None:
    shown = score_lines(replace(SCORED, task=text, rung=text, run=text, file=text, metrics={text: 0.5}))
    "\n".join(shown).encode("utf-8")
    assert not any(ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0 for line in shown for sign in line)
