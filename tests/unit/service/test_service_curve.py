"""Nested parts of the training rows, and the curves a climb draws from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from made_up_climb import made_up_climb
from small_tasks import LABELS, World, write_task
from stepladder.domain.learning_curve import CurvePoint, Doubling, LearningCurve
from stepladder.domain.messages import Example, Input, Message
from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.domain.verdict import Interval
from stepladder.engines.fake import FakeEngine
from stepladder.evaluation.wording import growth
from stepladder.service.climb import Climb, climb
from stepladder.service.curve import SHARES, nested_parts
from stepladder.service.growth_chart import growth_chart, mean_scores
from stepladder.service.show import ladder_lines


def rows_of(count: int) -> list[Example]:
    turns = [(Message("user", f"question {number}"), Message("assistant", "yes")) for number in range(count)]
    return [Example(Input(f"r{number}", (asked,)), answer) for number, (asked, answer) in enumerate(turns)]


def test_the_parts_of_a_draw_are_nested_whole_clusters_up_to_seven_eighths() -> None:
    rows = rows_of(64)
    clusters = {row.id: number // 2 for number, row in enumerate(rows)}
    parts = nested_parts(rows, clusters, shares=SHARES, draws=3, seed=0)
    assert {part.draw for part in parts} == {0, 1, 2}
    for draw in range(3):
        own = [part.train for part in parts if part.draw == draw]
        assert [len(part) for part in own] == [16, 24, 32, 40, 48, 56]
        for smaller, larger in pairwise(own):
            assert {row.id for row in smaller} < {row.id for row in larger}
        for part in own:
            assert len({clusters[row.id] for row in part}) * 2 == len(part)
            assert [row for row in rows if row in part] == list(part)
    first, second, _ = (next(part.train for part in parts if part.draw == draw) for draw in range(3))
    assert first != second


def test_a_part_is_never_larger_than_its_share_and_never_all_rows() -> None:
    rows = rows_of(10)
    assert [
        len(part.train) for part in nested_parts(rows, dict.fromkeys([row.id for row in rows], 0), shares=SHARES, draws=1, seed=0)
    ] == []
    sizes = [
        len(part.train) for part in nested_parts(rows, {row.id: n for n, row in enumerate(rows)}, shares=SHARES, draws=1, seed=0)
    ]
    assert sizes == [4, 4, 5, 6, 7, 8]


def climbed(folder: Path, rows: int = 160, **settings: str) -> tuple[Climb, World]:
    world = write_task(folder, rows, **settings)
    return climb(folder, tools=world.tools), world


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


SKIP = 'skip = ["lora", "lora+constrained", "lora+nearest", "few-shot"]'


def test_a_climb_draws_the_curves_of_the_cheap_rungs_and_says_what_they_forecast(tmp_path: Path) -> None:
    finished, _ = climbed(tmp_path / "task", rungs=SKIP)
    curves = {curve.rung: curve for curve in finished.record.curves}
    assert set(curves) == {"classifier", "nearest"}
    for curve in curves.values():
        assert curve.doubling is not None
        assert max(point.rows for point in curve.points) <= 7 / 8 * curve.rows
        assert {point.draw for point in curve.points} == {0, 1, 2}
        assert growth(curve) in finished.verdict.would_change
        assert growth(curve) in "\n".join(ladder_lines(finished.record))
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "Would more rows help?" in report
    assert "twice the rows" in report


def test_no_curve_touches_a_test_row(tmp_path: Path) -> None:
    finished, _ = climbed(tmp_path / "task", rungs=SKIP)
    places = json.loads((tmp_path / "task" / "splits.json").read_text(encoding="utf-8"))["rows"]
    train = sum(place["split"] == "train" for place in places.values())
    assert {curve.rows for curve in finished.record.curves} == {train}
    assert {curve.scored_rows for curve in finished.record.curves} == {train}  # medium size: chosen on the train rows


def test_curves_can_be_switched_off(tmp_path: Path) -> None:
    finished, _ = climbed(tmp_path / "task", rungs=f"{SKIP}\nlearning_curve = []")
    assert finished.record.curves == ()
    assert "Would more rows help?" not in (finished.folder / "report.html").read_text(encoding="utf-8")


def test_a_fine_tune_is_repeated_only_when_asked_for(tmp_path: Path) -> None:
    skip = 'skip = ["classifier", "lora+constrained", "lora+nearest", "few-shot", "nearest"]'
    finished, _ = climbed(tmp_path / "task", rungs=f'{skip}\nlearning_curve = ["lora"]')
    (curve,) = finished.record.curves
    assert curve.rung == "lora"
    assert len(curve.points) == 9
    assert curve.doubling is not None


class Checking(FakeEngine):
    """Notes the drafts that it is handed; its answers do not depend on them."""

    drafts: list[str | None]

    def generate_drafted(
        self, prompts: Sequence[Prompt], drafts: Sequence[str | None], decoding: Decoding, **more: Any
    ) -> list[Generation]:
        self.drafts = [*getattr(self, "drafts", []), *drafts]
        return self.generate(prompts, decoding, **more)


def test_references_are_drafts_in_the_curve_of_a_fine_tune_and_nowhere_else(tmp_path: Path) -> None:
    settings = {"rungs": 'skip = ["few-shot", "nearest", "lora+nearest"]\nlearning_curve = ["lora"]'}
    plain, _ = climbed(tmp_path / "plain", **settings)
    world = write_task(tmp_path / "task", 160, **settings)
    engine = Checking(world.answer)
    finished = climb(tmp_path / "task", tools=replace(world.tools, engine=engine))
    (curve,), (same,) = finished.record.curves, plain.record.curves
    assert [(point.rows, point.score) for point in curve.points] == [(point.rows, point.score) for point in same.points]
    assert set(engine.drafts) == set(LABELS)
    answers = finished.folder.joinpath("rungs", "lora", "curve", "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert sum('"generation"' in line for line in answers) == len(engine.drafts)


def made_up(*, gain: float, odds: float) -> LearningCurve:
    points = tuple(CurvePoint(rows, draw, 0.5 + rows / 1000 + draw / 100) for draw in range(3) for rows in (25, 50, 87))
    between = Interval(gain, gain - 0.02, gain + 0.02, 0.8)
    forecast = Doubling(Interval(0.7, 0.66, 0.74, 0.8), between, odds, {"flat": 1.0})
    return LearningCurve("nearest", 100, 60, points, 0.03, forecast)


def test_the_sentence_says_that_more_of_the_same_is_unlikely_to_help_only_when_so() -> None:
    assert growth(made_up(gain=0.001, odds=0.08)).startswith("More of the same is unlikely to help nearest: from 100 to 200 ")
    hopeful = growth(made_up(gain=0.05, odds=0.8))
    assert hopeful.startswith("Twice the training rows (from 100 to 200) would change the score of nearest by 5 points")
    assert "the odds of 3 points or more are 80%" in hopeful


def test_the_chart_names_the_forecast_in_words_and_escapes_the_rung() -> None:
    curve = made_up(gain=0.05, odds=0.8)
    svg = growth_chart(curve, width=490, number=0)
    assert "At 200 rows: 70" in svg
    assert svg.count("<circle") == len(curve.points) + 1
    assert mean_scores(list(curve.points))[0] == pytest.approx((25, 0.535))


def test_a_record_without_curves_is_still_read() -> None:
    assert made_up_climb().curves == ()
