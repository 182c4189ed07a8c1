import io
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from hostile_texts import HOSTILE_TEXTS
from made_up_climb import RUNGS, climb_full_of, climbs, lost, made_up_climb, ran
from stepladder.domain.climb import ClimbRecord
from stepladder.domain.retention import Retention
from stepladder.domain.verdict import Outcome
from stepladder.service.figures import one_line
from stepladder.service.retention_text import retention_line, retention_lines
from stepladder.service.show import fixed_line, html_fragment, ladder_lines, ladder_rows, ladder_table


def printed(record: ClimbRecord, width: int = 100, *, colour: bool = False) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None).print(ladder_table(record))
    return out.getvalue()


def test_every_rung_has_one_row_in_ladder_order() -> None:
    lines = ladder_lines(made_up_climb())
    rows = lines[3 : 3 + len(RUNGS)]
    assert [row.removeprefix("★").split()[0] for row in rows] == [rung.name for rung in RUNGS]
    assert [row[0] == "★" for row in rows] == [rung.name == "lora" for rung in RUNGS]


def test_a_rung_that_did_not_run_says_why() -> None:
    (line,) = [line for line in ladder_lines(made_up_climb()) if line.split()[0:1] == ["lora+nearest"]]
    assert line.endswith("over budget: Its training needs about 6 minutes; 2 are left of 8 (--budget-minutes).")


def test_what_has_to_be_said_about_a_rung_that_ran_stands_below_the_table() -> None:
    record = made_up_climb()
    record = replace(record, rungs=(replace(record.rungs[0], reason="Ran in 4 of 5 folds."), *record.rungs[1:]))
    for shown in (printed(record), "\n".join(ladder_lines(record)), html_fragment(record)):
        assert "baseline: Ran in 4 of 5 folds." in shown


def test_how_far_batching_moved_answers_stands_below_the_table_with_its_count() -> None:
    said = "Noise: 32 test rows asked again one by one (prompt 16, lora 16): 25 % of answers and 6.2 % of scores changed."
    record = made_up_climb()
    for shown in (printed(record), "\n".join(ladder_lines(record)), html_fragment(record)):
        assert said in " ".join(shown.split())
    assert "Noise" not in "\n".join(ladder_lines(replace(record, noise={})))


def test_what_tuning_forgot_stands_below_the_table_in_one_line() -> None:
    line = next(line for line in ladder_lines(made_up_climb()) if "General abilities" in line)
    assert line.strip() == (
        "General abilities of lora: restored by adapter scale 0.5. Loss: general text +0.9 (at most +1.3) %;"
        " multiple choice +1.0 points; self-stopping -12.5 points."
    )


def test_lost_and_unmeasured_abilities_are_said_as_such() -> None:
    retention = made_up_climb().retention[0]
    bad = replace(retention, measures=(lost("repetition", 0.1, 0.4, 0.3, 0.1, always=True),), remedy="")
    assert "of lora: LOST (repetition). repetition +30.0 points. Tried in vain: adapter scale 0.75" in retention_line(bad)
    nothing = Retention("lora", True, unmeasured="the engine 'endpoint' cannot.", fold=1)
    assert retention_line(nothing) == "General abilities of lora (fold 2): not measured. the engine 'endpoint' cannot."
    assert "(fitted again on all rows): restored" in retention_line(replace(retention, refit=True))


def test_of_several_folds_the_worst_speaks() -> None:
    retention = made_up_climb().retention[0]
    worse = replace(retention, fold=1, measures=(lost("general text", 3.0, 3.1, 0.02, 0.03, "upper"),))
    lines = retention_lines((replace(retention, fold=0), worse, replace(retention, refit=True)))
    assert len(lines) == 2
    assert lines[0].startswith("General abilities of lora (fold 2): restored")
    assert lines[0].endswith("+2.0 (at most +2.4) %. The worst of 2 folds.")


def test_scores_choose_and_confirm_in_columns_of_their_own() -> None:
    shown = printed(made_up_climb())
    assert [word in shown for word in ("chooses", "confirms", "90 % (82–98)", "88 % (82–94)")] == [True] * 4


def test_the_verdict_stands_below_the_table_then_what_would_change_it_then_the_rows() -> None:
    for shown in (printed(made_up_climb()), "\n".join(ladder_lines(made_up_climb()))):
        places = [
            shown.index(text)
            for text in (
                "★ lora",
                "Fine-tune: lora",
                "Price of",
                "Break-even",
                "Latency",
                "85 were needed",
                "What would change it",
                "A target of 75 %",
                "14 test rows fixed, 3 broken",
            )
        ]
        assert places == sorted(places)


@pytest.mark.parametrize("width", [100, 80, 60, 40])
def test_the_table_fits_the_terminal(width: int) -> None:
    lines = printed(made_up_climb(), width).splitlines()
    assert max(cell_len(line) for line in lines) <= width
    assert any("lora+constrained"[:14] in line for line in lines)


def test_a_wide_terminal_gets_no_more_than_100_columns() -> None:
    assert max(cell_len(line) for line in printed(made_up_climb(), 200).splitlines()) <= 100


def test_long_names_give_way_before_columns_do() -> None:
    record = made_up_climb()
    long_name = replace(record, rungs=(replace(record.rungs[2], name="prompt-" + "x" * 80), *record.rungs[3:]))
    shown = printed(long_name)
    assert "…" in shown
    assert "p50 / p95" in shown


def test_the_model_is_named_only_where_there_are_several() -> None:
    record = made_up_climb()
    assert "smollm2" not in "\n".join(row.name for row in ladder_rows(record))
    compared = replace(record, rungs=(*record.rungs, replace(ran("prompt", 0.9), model="gpt-large")))
    assert ladder_rows(compared)[-1].name == "prompt (gpt-large)"


def test_colour_is_used_on_a_terminal_and_not_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in printed(made_up_climb(), colour=True)
    assert "\x1b" not in printed(made_up_climb())


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, width=100, force_terminal=True).print(ladder_table(made_up_climb()))
    assert not any(f"\x1b[{colour}" in out.getvalue() for colour in ("31", "32", "33", "1;32"))


def test_only_a_sufficient_verdict_recommends() -> None:
    record = made_up_climb()
    assert "★ recommended" in printed(record)
    undecided = replace(record, verdict=replace(record.verdict, outcome=Outcome.UNDECIDED, needed_test_rows=220))
    assert "★ best bet so far" in printed(undecided)
    assert "About 220 test rows would decide this." in ladder_lines(undecided)


def test_fixed_and_broken_rows_name_the_pair_they_compare() -> None:
    record = made_up_climb()
    assert fixed_line(record) == "14 test rows fixed, 3 broken (lora against nearest)."
    by_gain = replace(record, regressions=(), improvements=())
    assert fixed_line(by_gain) == "14 test rows fixed, 3 broken (lora against nearest)."
    assert fixed_line(replace(by_gain, fixed=1, broken=0)) == "1 test row fixed, 0 broken."
    better = replace(record.regressions[0], baseline="prompt", candidate="baseline")
    nothing_broken = replace(record, regressions=(), improvements=(better,), fixed=12, broken=0)
    assert fixed_line(nothing_broken) == "12 test rows fixed, 0 broken (baseline against prompt)."


@pytest.mark.parametrize("hostile", HOSTILE_TEXTS)
def test_no_text_steers_the_terminal(hostile: str) -> None:
    record = climb_full_of(hostile)
    for shown in (printed(record, 100), "\n".join(ladder_lines(record))):
        shown.encode("utf-8")
        assert not {sign for sign in shown if (ord(sign) < 32 and sign != "\n") or 0x7F <= ord(sign) < 0xA0}
        assert not set(shown) & set("\u202d\u202e\u2066\u2067\u2068")
    assert one_line(hostile) in "\n".join(ladder_lines(record))


class Fragment(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.kinds: set[tuple[str, str]] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.kinds |= {(tag, name) for name, _ in [("", None), *attrs]}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("hostile", HOSTILE_TEXTS)
def test_no_text_becomes_markup_in_a_notebook(hostile: str) -> None:
    fragment, plain = Fragment(html_fragment(climb_full_of(hostile))), Fragment(html_fragment(climb_full_of("plain")))
    assert fragment.kinds == plain.kinds
    assert fragment.text.count(one_line(hostile)) >= 10


def test_a_notebook_sees_table_and_verdict() -> None:
    fragment = Fragment(html_fragment(made_up_climb()))
    for text in (
        "Break-even of lora against nearest: 2,300 calls",
        "lora (recommended)",
        "88 % (82–94)",
        "not applicable: The task has no documents folder.",
        "Fine-tune: lora",
    ):
        assert text in fragment.text
    assert not {name for _, name in fragment.kinds} - {"", "style", "class", "scope", "colspan"}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(climbs(), st.integers(20, 120))
def test_every_record_can_be_shown(record: ClimbRecord, width: int) -> None:
    assert "Verdict" in printed(record, width)
    lines = ladder_lines(record)
    assert not any("\n" in line for line in lines)
    assert len(lines) >= 3 + len(record.rungs)
    assert html_fragment(record).startswith("<div")
