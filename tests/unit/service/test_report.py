import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from hostile_texts import HOSTILE_TEXTS
from made_up_climb import RUNGS, absent, climb_full_of, climbs, made_up_climb, ran, training_history
from stepladder.domain.climb import ClimbRecord, RungStatus
from stepladder.domain.protocols import TrainPoint
from stepladder.domain.review import Review
from stepladder.domain.verdict import Cost, Interval, Outcome
from stepladder.service import charts
from stepladder.service.figures import visible
from stepladder.service.report import (
    REGRESSIONS,
    bound_text,
    metric_texts,
    moment_text,
    noise_text,
    recipe_text,
    render_report,
    write_report,
)

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LOADING = {
    "script",
    "iframe",
    "object",
    "embed",
    "link",
    "base",
    "form",
    "img",
    "image",
    "use",
    "a",
    "video",
    "audio",
    "foreignobject",
}


class Page(HTMLParser):
    """What a page is made of: its tags with their attributes, and its text without the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "line", "circle", "polyline", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def kinds(self) -> set[tuple[str, str]]:
        """Every tag with each of its attributes' names."""
        return {(tag, name) for tag, attributes in self.tags for name in ("", *attributes)}


def _normal(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def _assert_harmless(page: Page) -> None:
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & LOADING
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}>"
            assert name not in ("href", "src", "srcdoc", "action", "formaction", "style", "xlink:href")
            assert "javascript:" not in (value or "").lower()


@pytest.mark.parametrize("hostile", HOSTILE_TEXTS)
def test_whatever_a_text_holds_stays_text(hostile: str) -> None:
    page = Page(render_report(climb_full_of(hostile)))
    plain = Page(render_report(climb_full_of("plain words " * 4)))
    _assert_harmless(page)
    assert page.kinds <= plain.kinds | {("p", "class"), ("line", "class")}
    assert _normal(page.text).count(_normal(visible(hostile))) >= 60


def test_there_are_enough_hostile_texts() -> None:
    assert len(set(HOSTILE_TEXTS)) >= 40


def _all_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            if field.name != "method" and not (isinstance(value, ClimbRecord) and field.name == "rungs"):
                yield from _all_texts(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in _all_texts(part))
    elif isinstance(value, tuple):
        yield from (text for part in value for text in _all_texts(part))


def test_every_text_of_the_record_is_in_the_report() -> None:
    record = made_up_climb()
    shown = _normal(Page(render_report(record)).text)
    shown_as_words = {"sufficient", "target", "mean", "upper", *record.noise}
    assert all(name.replace("_", " ") in shown for name in record.noise)
    for text in set(_all_texts(record)) - shown_as_words:
        assert _normal(text) in shown, text
    for rung in record.rungs:
        for text in (rung.name, rung.role, _normal(rung.reason)):
            assert text in shown


def test_the_page_forbids_itself_everything_but_its_own_style() -> None:
    page = Page(render_report(made_up_climb()))
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == POLICY
    # the policy stands before anything it could not rule any more
    assert [tag for tag, _ in page.tags][:4] == ["html", "head", "meta", "meta"]
    _assert_harmless(page)
    assert "url(" not in render_report(made_up_climb())


def test_the_verdict_comes_first_and_the_ladder_second() -> None:
    html = render_report(made_up_climb())
    heads = re.findall(r"<h[12][^>]*>([^<]+)<", html)
    assert heads[0].startswith("Fine-tune: lora is the cheapest rung")
    assert heads[1:4] == ["Why", "What would change it", "The ladder"]


def test_price_break_even_and_latency_stand_before_the_reasons() -> None:
    html = render_report(made_up_climb())
    for fact in made_up_climb().verdict.facts:
        assert html.index("<h1") < html.index(fact) < html.index("<h2>Why</h2>")


def test_every_rung_has_its_row_in_ladder_order() -> None:
    html = render_report(made_up_climb())
    table = html[html.index('id="ladder"') : html.index('id="scores"')]
    names = re.findall(r'role="rowheader"><bdi>([^<]+)</bdi>', table)
    assert names == [rung.name for rung in RUNGS]
    assert "not applicable: The task has no documents folder." in table


def test_the_recommended_rung_is_marked_by_words_not_only_colour() -> None:
    record = made_up_climb()
    assert "★ recommended" in render_report(record)
    undecided = render_report(replace(record, verdict=replace(record.verdict, outcome=Outcome.UNDECIDED, needed_test_rows=220)))
    assert "★ best bet so far" in undecided
    assert "recommended" not in Page(undecided).text.lower()
    assert "About 220 test rows would decide this." in undecided


def test_column_heads_and_charts_can_be_read_aloud() -> None:
    page = Page(render_report(made_up_climb()))
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    charts_drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert charts_drawn
    for attributes in charts_drawn:
        assert attributes["role"] == "img"
        assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)


def test_long_texts_are_folded_and_kept_whole() -> None:
    record = made_up_climb()
    html = render_report(record)
    assert html.count("<summary><span") == 1
    assert _normal(record.regressions[1].input) in _normal(Page(html).text)


def test_an_empty_answer_is_said_to_be_empty() -> None:
    assert "(empty)" in render_report(made_up_climb())


def test_regressions_beyond_the_worst_are_counted_not_hidden() -> None:
    record = made_up_climb()
    html = render_report(replace(record, regressions=record.regressions[:1] * (REGRESSIONS + 3)))
    assert html.count('<article class="row">') == REGRESSIONS
    assert "3 more are in rows.jsonl" in html


def test_ungraded_rows_are_said_beside_the_score() -> None:
    rung = ran("prompt", 0.5)
    assert rung.validation is not None
    rung = replace(rung, validation=replace(rung.validation, ungraded=4))
    assert "4 ungraded" in render_report(replace(made_up_climb(), rungs=(rung,)))


def test_metrics_of_the_test_split_are_preferred() -> None:
    rung = replace(RUNGS[0], metrics={"validation/parses": 0.5, "test/parses": 0.75, "recall@3": 12.5})
    assert metric_texts(rung) == ("test", [("parses", "75 %"), ("recall@3", "12.5")])
    assert metric_texts(replace(rung, metrics={"validation/macro_f1": 0.5})) == ("validation", [("macro f1", "50 %")])


def test_long_runs_of_numbers_in_a_recipe_are_counted_not_printed() -> None:
    points = [{"step": step, "held_out_nll": None} for step in range(60)]
    text = recipe_text({"adapters": [{"held_out_nll": [0.5] * 40, "history": points}], "shots": ["a"] * 20, "k": [1, 2]})
    assert '"held_out_nll": "(40 entries, whole in verdict.json)"' in text
    assert '"history": "(60 entries, whole in verdict.json)"' in text
    assert text.count('"a"') == 20


def test_a_noise_figure_that_counts_is_no_percentage() -> None:
    assert [noise_text("seeds", 1), noise_text("replay_rows", 30), noise_text("floor", 0.034)] == ["1", "30", "3.4 %"]


def test_moments_are_shown_to_the_minute() -> None:
    assert moment_text("2026-11-22T10:15:04Z") == "2026-11-22 10:15 UTC"
    assert moment_text("yesterday") == "yesterday"


def test_no_line_ends_between_a_number_and_its_per_cent_sign() -> None:
    assert bound_text("80 % of 5 %") == "80\u00a0% of 5\u00a0%"


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    write_report(climb_full_of("\ud800 lone"), tmp_path / "run" / "report.html")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]
    assert (tmp_path / "run" / "report.html").read_text("utf-8").endswith("</html>")


# Charts ---------------------------------------------------------------------------------------------------------------

NAN = float("nan")
SAME = tuple(replace(ran(f"rung-{number}", 0.5, 0.5), cost=Cost(seconds_per_call=0.4)) for number in range(8))
DEGENERATE = {
    "no rung at all": (),
    "no rung ran": (absent("rag", RungStatus.NOT_APPLICABLE, "No documents."), absent("lora", RungStatus.REFUSED, "Fact-bound.")),
    "one rung": (ran("prompt", 0.5),),
    "all rungs equal": SAME,
    "no interval": (replace(ran("prompt", 0.5), validation=None),),
    "only zeros": (replace(ran("prompt", 0.0, 0.0), cost=Cost()), replace(ran("few-shot", 0.0), cost=Cost())),
    "only ones": (ran("prompt", 1.0, 1.0),),
    "not a number": (replace(ran("prompt", 0.5), validation=Interval(NAN, NAN, NAN), test=Interval(0.5, NAN, NAN)),),
    "endless cost": (replace(ran("prompt", 0.5), cost=Cost(seconds_per_call=float("inf"))),),
    "one step": (replace(ran("lora", 0.5), history=(TrainPoint(1, 0.1, 1e-3, 2.0),)),),
    "flat loss": (replace(ran("lora", 0.5), history=tuple(TrainPoint(step, 0.1, 1e-3, 1.0, 1.0) for step in range(3))),),
    "broken loss": (replace(ran("lora", 0.5), history=(TrainPoint(1, 0.1, 1e-3, NAN, NAN), TrainPoint(2, 0.2, 1e-3, 1.0, NAN))),),
}


@pytest.mark.parametrize("rungs", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_a_degenerate_climb_still_has_a_report(rungs: tuple[Any, ...]) -> None:
    page = Page(render_report(replace(made_up_climb(), rungs=rungs)))
    _assert_harmless(page)
    for tag, attributes in page.tags:
        if tag in ("line", "circle", "text", "polyline", "svg"):
            assert not re.search(r"nan|inf", " ".join(value or "" for name, value in attributes.items() if name != "class"))


def test_nothing_is_drawn_where_nothing_was_scored() -> None:
    rungs = DEGENERATE["no rung ran"]
    assert charts.forest(rungs, width=700, chosen=None, target=0.8) == ""
    assert charts.score_against_cost(rungs, width=700, chosen=None, target=0.8) == ""
    assert charts.learning(RUNGS[0], width=340, number=0) == ""


def test_validation_is_drawn_hollow_and_test_filled() -> None:
    drawn = charts.forest((ran("prompt", 0.4, 0.5),), width=700, chosen=None, target=None)
    assert re.findall(r'<circle [^>]*class="(\w+)"', drawn) == ["hollow", "solid"]


def test_the_forest_puts_a_better_score_further_right() -> None:
    drawn = charts.forest((ran("prompt", 0.4), ran("few-shot", 0.7)), width=700, chosen="few-shot", target=0.6)
    low, high = (float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn))
    (target,) = (float(x) for x in re.findall(r'<line x1="([\d.]+)"[^>]*class="target"', drawn))
    assert low < target < high
    assert "★ few-shot" in drawn


def test_costs_are_dollars_only_when_every_rung_has_a_price() -> None:
    priced = tuple(replace(rung, cost=Cost(seconds_per_call=1.0, usd_per_call=0.002)) for rung in (ran("a", 0.4), ran("b", 0.5)))
    assert charts.cost_spots(priced)[0]
    assert [spot.cost for spot in charts.cost_spots(priced)[1]] == [2.0, 2.0]
    in_usd, spots = charts.cost_spots((*priced, ran("c", 0.6, seconds_per_call=0.5)))
    assert not in_usd
    assert [spot.cost for spot in spots] == [1000.0, 1000.0, 500.0]


def test_a_wide_spread_of_costs_is_drawn_on_a_log_axis() -> None:
    cheap, dear = ran("a", 0.4, seconds_per_call=0.01), ran("b", 0.5, seconds_per_call=0.1)
    near = charts.score_against_cost((cheap, dear), width=700, chosen=None, target=None)
    far = charts.score_against_cost((cheap, dear, ran("c", 0.6, seconds_per_call=0.9)), width=700, chosen=None, target=None)
    assert "log scale" not in near
    assert "log scale" in far


def test_the_confirmed_score_is_the_one_set_against_cost() -> None:
    (spot,) = charts.cost_spots((ran("lora", 0.9, 0.88),))[1]
    assert (spot.score, spot.confirmed) == (0.88, True)


def test_the_kept_step_comes_from_the_recipe_else_from_the_lowest_held_out_loss() -> None:
    rung = replace(ran("lora", 0.9), history=training_history())
    assert charts.kept_step(rung) == (42, False)
    recipe = {"adapters": [{"best_step": 36}, {"best_step": 48}]}
    assert charts.kept_step(replace(rung, recipe=recipe)) == (36, True)
    assert charts.kept_step(replace(rung, recipe={"adapters": [{"best_step": 9999}]})) == (42, False)
    assert charts.kept_step(replace(rung, recipe={"adapters": "none"})) == (42, False)
    assert charts.kept_step(replace(rung, history=())) is None
    assert "kept: step 36" in charts.learning(replace(rung, recipe=recipe), width=340, number=0)


def test_a_long_history_is_thinned_to_what_the_eye_sees() -> None:
    history = training_history(5000)
    kept = charts.thinned(history)
    assert len(kept) <= charts.HISTORY_POINTS + 1
    assert (kept[0], kept[-1]) == (history[0], history[-1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(climbs())
def test_every_record_has_a_report(record: ClimbRecord) -> None:
    html = render_report(record)
    html.encode("utf-8")
    _assert_harmless(Page(html))


def test_what_tuning_forgot_is_a_table_with_its_limits() -> None:
    page = render_report(made_up_climb())
    section = page.split('id="retention"')[1].split("</section>")[0]
    assert "restored by adapter scale 0.5" in section
    assert "adapter scale 0.75 (still lost: general text), adapter scale 0.5 (held, validation" in section
    for text in ("3.210 nats per token", "+0.9 (at most +1.3)", "21.0 points", "reported only", "0.710 nats per token", "yes"):
        assert text in section.replace("\u00a0", " ")
    assert 'id="retention"' not in render_report(replace(made_up_climb(), retention=()))


def test_what_a_person_judged_stands_in_the_report_whatever_the_rungs_are_called() -> None:
    hostile = "<script>alert(1)</script> | \x1b[31m"
    review = Review(hostile, "reference", Interval(0.6, 0.42, 0.75, items=30), 16, 10, 3, 1, 2, 0.87)
    html = render_report(made_up_climb(), [review])
    assert "Judged by a person" in html
    assert "60 % (42–75)" in html
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert "Judged by a person" not in render_report(made_up_climb())
