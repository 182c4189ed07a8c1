"""The report of a climb: one HTML file that needs nothing else, runs no script, and can be mailed, printed and archived."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from stepladder.domain.climb import ChangedRow, ClimbRecord, RungResult, RungStatus
from stepladder.domain.learning_curve import LearningCurve
from stepladder.domain.protocols import ModelIdentity
from stepladder.domain.review import Review
from stepladder.domain.verdict import Outcome, Route
from stepladder.evaluation.wording import growth
from stepladder.files import write_text
from stepladder.service import charts, findings, show
from stepladder.service.figures import (
    cost_text,
    gain_text,
    interval_text,
    number_text,
    points_text,
    probability_text,
    rate_text,
    seconds_text,
    setting_text,
    visible,
)
from stepladder.service.growth_chart import growth_chart
from stepladder.service.retention_text import measure_rows, retention_line, tried_line

WIDE, HALF, NARROW = 1020, 490, 340  # widths of drawings, in the pixels they get on a desk, beside another, on a phone
SHORT_TEXT = 420  # characters; a longer text is folded behind its beginning
SHORT_LINES = 8
FOLD = 170
LONG_LIST = 12
REGRESSIONS = 25  # the worst; the rest is in rows.jsonl

ROUTES = {
    Route.TARGET: "the first rung that reaches the target",
    Route.GAIN: "proved better than the cheaper rungs, by enough",
    Route.CHEAPEST: "nothing dearer proved better",
    Route.CHEAPER_TO_RUN: "tuned, not worse, and cheaper over the horizon",
}


@dataclass(frozen=True, slots=True)
class Passage:
    """A text as shown: whole, or `head` with the whole text folded behind it."""

    text: str
    head: str  # empty = short enough to stand as it is
    characters: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The learning chart of one tuned rung."""

    name: str
    drawings: list[tuple[str, Markup]]  # style class and SVG


def write_report(record: ClimbRecord, path: Path, reviews: Sequence[Review] = ()) -> None:
    """Write the report to `path`, whole or not at all."""
    write_text(path, render_report(record, reviews))


def render_report(record: ClimbRecord, reviews: Sequence[Review] = ()) -> str:
    """The report as HTML text. Whatever the record's texts hold arrives as text, control characters as their pictures."""
    verdict = record.verdict
    marks: charts.Marks = {"chosen": verdict.rung, "target": record.target}
    return _template().render(
        record=record,
        verdict=verdict,
        outcome=show.OUTCOMES[verdict.outcome],
        badge=show.badge(verdict),
        title=show.verdict_title(verdict),
        route=ROUTES[verdict.route] if verdict.route and verdict.outcome is Outcome.SUFFICIENT else "",
        needed=show.needed_line(verdict),
        fixed=show.fixed_line(record),
        reviews=reviews,
        retentions=[(one, retention_line(one), tried_line(one), measure_rows(one)) for one in record.retention],
        winner=next((rung for rung in record.rungs if rung.name == verdict.rung), None),
        rungs=list(zip(record.rungs, show.ladder_rows(record), strict=True)),
        models=sorted({rung.model for rung in record.rungs if rung.model}),
        forest=_both_widths(lambda width: charts.forest(record.rungs, width=width, **marks)),
        against_cost=_both_widths(lambda width: charts.score_against_cost(record.rungs, width=width, **marks)),
        curves=_curves(record.rungs),
        growth=_growth(record),
        mistakes=findings.mistake_lines(record),
        slices=record.slices,
        worse=findings.slice_lines(record),
        changed=[part for part in (("Fixed", record.fixed_rows), ("Broken", record.broken_rows)) if part[1]],
        changes=[*_shown_changes(record)],
        recipes=[(rung.name, _passage(recipe_text(rung.recipe))) for rung in record.rungs if rung.recipe],
        identities=[_model_facts(model) for model in (record.model, *record.compared)],
        run=_run_facts(record),
    )


def _shown_changes(record: ClimbRecord) -> Iterator[tuple[str, str, str, Sequence[ChangedRow], int]]:
    """Anchor, title, lead, the rows shown, and how many are not, of the rows that became worse and better."""
    seeds = any(name.startswith("seed_disagreement") for name in record.noise)
    mean = " Scores are means over the trainings; the answer is that of the training that changed most." if seeds else ""
    worse = f"Test rows that became worse, worst first. Read them before you switch.{mean}"
    better = f"Test rows that became better, the largest step first.{mean}"
    for anchor, title, lead, rows in (
        ("regressions", "Worst regressions", worse, record.regressions),
        ("improvements", "Largest improvements", better, record.improvements),
    ):
        if rows:
            yield anchor, title, lead, rows[:REGRESSIONS], max(0, len(rows) - REGRESSIONS)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("stepladder.service", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "bound": bound_text,
        "cost": cost_text,
        "gain": gain_text,
        "interval": interval_text,
        "number": number_text,
        "points": points_text,
        "probability": probability_text,
        "rate": rate_text,
        "setting": setting_text,
        "passage": _passage,
        "metrics": metric_texts,
        "moment": moment_text,
        "noise": noise_text,
        "pair": pair_text,
    }
    environment.tests |= {"ran": lambda rung: rung.status is RungStatus.RAN}
    return environment.get_template("report.html.jinja")


def _shown(value: Any) -> Any:
    """What every `{{ }}` of the template passes through before it is escaped."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def metric_texts(rung: RungResult) -> tuple[str, list[tuple[str, str]]]:
    """Which split, and its further metrics by name: the test split where it was answered, else validation."""
    split = "test" if any(key.startswith("test/") for key in rung.metrics) else "validation"
    shown = []
    for key, value in rung.metrics.items():
        of, _, name = key.partition("/")
        if of in ("test", "validation") and name:
            if of != split:
                continue
            key = name
        shown.append((key.replace("_", " "), rate_text(value) if 0 <= value <= 1 else number_text(value)))
    return split, shown


def noise_text(name: str, value: float) -> str:
    """A noise figure: a rate as percentage, unless its name says that it counts something."""
    counts = any(word in name for word in ("rows", "seeds", "count", "items"))
    return number_text(value) if counts or not 0 <= value <= 1 else rate_text(value)


def pair_text(changed: ChangedRow) -> str:
    """How a row's score moved: "100 % → 0 %"."""
    return f"{rate_text(changed.baseline_score)} → {rate_text(changed.candidate_score)}"


def bound_text(text: str) -> str:
    """`text` with its per cent signs bound to their numbers, so that no line ends between them."""
    return re.sub(r"(?<=\d) %", "\u00a0%", text)


def moment_text(created: str) -> str:
    """An ISO 8601 moment to the minute; any other text as it is."""
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """A rung's recipe as indented JSON; anything JSON does not know by its text, long runs of numbers by their length."""
    return json.dumps(_brief(recipe), ensure_ascii=False, indent=2, default=str)


def _brief(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _brief(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        if len(value) > LONG_LIST and all(_is_numeric(part) for part in value):
            return f"({len(value):,} entries, whole in verdict.json)"
        return [_brief(part) for part in value]
    return value


def _is_numeric(value: Any) -> bool:
    """A number, or a record of nothing else, such as a point of the training history."""
    if isinstance(value, Mapping):
        return all(part is None or isinstance(part, (int, float)) for part in value.values())
    return isinstance(value, (int, float))


def _passage(text: str) -> Passage:
    text = visible(text)
    short = len(text) <= SHORT_TEXT and text.count("\n") < SHORT_LINES
    head = "" if short else " ".join(text[: FOLD * 2].split())[:FOLD] + " …"
    return Passage(text, head, f"{len(text):,}")


def _both_widths(draw: Callable[[int], str], wide: int = WIDE) -> list[tuple[str, Markup]]:
    """A chart in the wide and the narrow drawing, by style class; nothing when there is nothing to draw."""
    drawn = [("wide", draw(wide)), ("narrow", draw(NARROW))]
    return [(kind, Markup(svg)) for kind, svg in drawn if svg]  # charts.py has escaped every text in it


def _curves(rungs: Sequence[RungResult]) -> list[Curve]:
    curves = [
        Curve(rung.name, _both_widths(partial(_learning, rung, number), HALF))
        for number, rung in enumerate(rungs)
        if rung.history
    ]
    return [curve for curve in curves if curve.drawings]


def _growth(record: ClimbRecord) -> list[tuple[str, str, list[tuple[str, Markup]]]]:
    """Name, forecast and drawings of every learning curve over training rows."""
    return [
        (curve.rung, growth(curve), _both_widths(partial(_grown, curve, number), HALF))
        for number, curve in enumerate(record.curves)
        if curve.points
    ]


def _grown(curve: LearningCurve, number: int, width: int) -> str:
    return growth_chart(curve, width=width, number=number)


def _learning(rung: RungResult, number: int, width: int) -> str:
    return charts.learning(rung, width=width, number=number)


def _model_facts(model: ModelIdentity) -> list[tuple[str, str, bool]]:
    """Name, value, and whether the value is a hash or another code; unknown ones are left out."""
    facts = [
        ("Model", model.name, False),
        ("Engine", f"{model.engine} (hosted)" if model.hosted else model.engine, False),
        ("Parameters", "" if model.parameters is None else number_text(model.parameters), False),
        ("Context", f"{number_text(model.context_tokens)} tokens" if model.context_tokens else "", False),
        ("Number format", model.dtype, False),
        ("Revision", model.revision, True),
        ("Weights, sha256", model.base_sha256, True),
        ("Tokenizer, sha256", model.tokenizer_sha256, True),
        ("Chat template, sha256", model.template_sha256, True),
    ]
    return [fact for fact in facts if fact[1]]


def _run_facts(record: ClimbRecord) -> list[tuple[str, str, bool]]:
    sizes = ", ".join(f"{split} {number_text(size)}" for split, size in record.split_sizes.items())
    facts = [
        ("Run", record.run, True),
        ("Created", record.created, False),
        ("Took", seconds_text(record.seconds), False),
        ("Grader", record.grader, False),
        ("Rows", sizes, False),
        ("Measured as", record.regime, False),
        ("Target", "none: the best value is asked for" if record.target is None else setting_text(record.target), False),
        ("Smallest gain worth paying for", f"{record.minimum_gain * 100:.6g} points", False),
        ("Machine", record.machine, False),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record.versions.items()), False),
    ]
    return [fact for fact in facts if fact[1]]
