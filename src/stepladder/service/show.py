"""A climb in a terminal, in a pipe and in a notebook: the ladder first, the verdict below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.text import Text

from stepladder.domain.climb import ClimbRecord, RungResult, RungStatus
from stepladder.domain.review import Review
from stepladder.domain.verdict import Outcome, Verdict
from stepladder.service.figures import (
    NOTHING,
    cost_text,
    counted,
    interval_text,
    number_text,
    one_line,
    probability_text,
    replay_line,
    seconds_text,
    setting_text,
    tokens_text,
)
from stepladder.service.findings import changed_lines, mistake_lines, slice_lines
from stepladder.service.retention_text import retention_lines

__all__ = ["Rungs", "cost_text", "fixed_line", "html_fragment", "interval_text", "ladder_lines", "ladder_rows", "ladder_table"]

WIDTH = 100
OUTCOMES = {
    Outcome.SUFFICIENT: "sufficient",
    Outcome.NOT_REACHED: "target not reached",
    Outcome.UNDECIDED: "undecided",
    Outcome.INVALID: "invalid",
}
COLOURS = {Outcome.SUFFICIENT: "green", Outcome.NOT_REACHED: "red", Outcome.UNDECIDED: "yellow", Outcome.INVALID: "red"}


@dataclass(frozen=True, slots=True)
class LadderRow:
    """One rung as it is shown everywhere. `absent` says why there are no scores; empty for a rung that ran."""

    name: str
    chosen: bool
    absent: str
    validation: str
    test: str
    cost: str
    tokens: str
    latency: str
    spent: str


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    below: str
    field: str
    right: bool = True


_COLUMNS = (
    _Column("rung", "", "name", right=False),
    _Column("validation", "chooses", "validation"),
    _Column("test", "confirms", "test"),
    _Column("per 1,000", "calls", "cost"),
    _Column("latency", "p50 / p95", "latency"),
    _Column("time", "spent", "spent"),
)


def ladder_rows(record: ClimbRecord) -> tuple[LadderRow, ...]:
    """Every rung in ladder order. The model is named beside the rung when the ladder holds more than one."""
    several = len({rung.model for rung in record.rungs if rung.model}) > 1
    return tuple(_ladder_row(rung, record.verdict, several) for rung in record.rungs)


def _ladder_row(rung: RungResult, verdict: Verdict, several: bool) -> LadderRow:
    name = f"{rung.name} ({rung.model})" if several and rung.model and rung.model not in rung.name else rung.name
    measured = rung.status is RungStatus.RAN
    return LadderRow(
        name=one_line(name) or NOTHING,
        chosen=verdict.rung is not None and rung.name == verdict.rung,
        absent="" if measured else absent_text(rung),
        validation=interval_text(rung.validation),
        test=interval_text(rung.test),
        cost=cost_text(rung.cost) if measured else NOTHING,
        tokens=tokens_text(rung.cost) if measured else NOTHING,
        latency=latency_text(rung),
        spent=seconds_text(rung.seconds) if measured else NOTHING,
    )


def absent_text(rung: RungResult) -> str:
    """Why a rung has no scores: its status and the reason, on one line."""
    return f"{rung.status.value}: {one_line(rung.reason)}" if rung.reason.strip() else rung.status.value


def latency_text(rung: RungResult) -> str:
    """Latency per answer, median and 95th percentile; one figure when both read the same."""
    middle, slow = seconds_text(rung.latency_p50_seconds), seconds_text(rung.latency_p95_seconds)
    return middle if slow in (middle, NOTHING) else f"{middle} / {slow}"


def badge(verdict: Verdict) -> str:
    """What the verdict's rung is called: recommended only when it suffices."""
    return "recommended" if verdict.outcome is Outcome.SUFFICIENT else "best bet so far"


def verdict_title(verdict: Verdict) -> str:
    """Outcome, confidence and probability on one line."""
    parts = [OUTCOMES[verdict.outcome], one_line(verdict.confidence)]
    if verdict.probability is not None:
        parts.append(f"probability {probability_text(verdict.probability)}")
    return " · ".join(part for part in parts if part)


def fixed_line(record: ClimbRecord) -> str:
    """How many test rows the step up fixed and broke, and between which rungs where that is known."""
    fixed = f"{counted(record.fixed, 'test row')} fixed, {record.broken:,} broken"
    pair = _compared(record)
    return f"{fixed} ({one_line(pair[1])} against {one_line(pair[0])})." if pair else f"{fixed}."


def _compared(record: ClimbRecord) -> tuple[str, str] | None:
    if record.regressions:
        return record.regressions[0].baseline, record.regressions[0].candidate
    for gain in record.verdict.gains:
        if gain.candidate == record.verdict.rung and (gain.wins, gain.losses) == (record.fixed, record.broken):
            return gain.baseline, gain.candidate
    return None


def remarks(record: ClimbRecord) -> list[str]:
    """What has to be said about judges, rungs that ran ("Ran in 4 of 5 folds."), how answers came, and what tuning forgot or
    batching moved.
    """
    ran = [rung for rung in record.rungs if rung.status is RungStatus.RAN and rung.reason.strip()]
    noise = replay_line(record.noise)
    remarks = [*map(one_line, record.judges), *(f"{one_line(rung.name)}: {one_line(rung.reason)}" for rung in ran)]
    return [*remarks, *map(one_line, record.answering), *retention_lines(record.retention), *([noise] if noise else [])]


def review_line(review: Review) -> str:
    """What a person preferred, on one line."""
    rows, equal = review.preferred.items, review.ties + review.identical
    halves = f", {counted(equal, 'tie')} as halves" if equal else ""
    better = probability_text(review.probability_better)
    return (
        f"Judged blind by a person: {one_line(review.rung)} preferred to {one_line(review.against)} in"
        f" {interval_text(review.preferred)} of {counted(rows, 'test row')}{halves}; probability that it is better: {better}."
    )


def needed_line(verdict: Verdict) -> str:
    """How many test rows would decide; empty when that is not the question."""
    rows = verdict.needed_test_rows
    return "" if rows is None else f"About {number_text(rows)} test rows would decide this."


# Terminal -------------------------------------------------------------------------------------------------------------


def ladder_table(record: ClimbRecord) -> RenderableType:
    """The ladder and, below it, the verdict, for `Console.print`; at most 100 columns, less where there are fewer."""
    return Group(_Ladder(record), Text(), _VerdictPanel(record))


def ladder_lines(record: ClimbRecord) -> list[str]:
    """The same as plain lines for a pipe: one line a rung, never broken, no colour, no frame."""
    lines = [_caption(record), "", *rung_lines(record)]
    lines += [f"  {remark}" for remark in remarks(record)]
    lines += ["", f"Verdict: {verdict_title(record.verdict)}", one_line(record.verdict.sentence)]
    lines += [f"  {one_line(fact)}" for fact in record.verdict.facts]
    lines += [f"- {one_line(reason)}" for reason in record.verdict.reasons]
    if record.verdict.would_change:
        lines += ["What would change it:", *(f"- {one_line(change)}" for change in record.verdict.would_change)]
    lines += [line for line in (needed_line(record.verdict), fixed_line(record), *changed_lines(record)) if line]
    head, *kinds = mistake_lines(record) or [""]
    return lines + ([head, *(f"- {line}" for line in kinds)] if head else []) + slice_lines(record)


def rung_lines(record: ClimbRecord) -> list[str]:
    """The table alone, a line a rung below the heads of the columns."""
    rows = ladder_rows(record)
    widths = _widths(rows, _COLUMNS)
    lines = [f"{_name_cell(row, widths[0])}  {row.absent or _cells(row, widths, _COLUMNS)}".rstrip() for row in rows]
    return [_header(widths, _COLUMNS, "head").rstrip(), *lines]


@dataclass(frozen=True, slots=True)
class _Ladder:
    """The table itself. Narrow terminals lose columns from the right, then the ends of long names."""

    record: ClimbRecord

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = min(WIDTH, options.max_width)
        rows = ladder_rows(self.record)
        columns, widths = _fit(rows, room)
        yield from Text(_caption(self.record), style="bold").wrap(console, room)
        yield Text()
        yield _line(_header(widths, columns, "head"), "bold")
        yield _line(_header(widths, columns, "below"), "dim")
        for row in rows:
            yield from self._row(console, row, columns, widths, room)
        for remark in remarks(self.record):
            yield from Text(f"  {remark}", style="dim").wrap(console, room)
        if any(row.chosen for row in rows):
            yield _line(f"★ {badge(self.record.verdict)}", COLOURS[self.record.verdict.outcome])

    def _row(
        self, console: Console, row: LadderRow, columns: Sequence[_Column], widths: Sequence[int], room: int
    ) -> RenderResult:
        name = _name_cell(row, widths[0])
        if not row.absent:
            style = f"bold {COLOURS[self.record.verdict.outcome]}" if row.chosen else ""
            yield _line(f"{name}  {_cells(row, widths, columns)}", style)
            return
        indent = cell_len(name) + 2
        reasons = Text(row.absent).wrap(console, max(8, room - indent))
        for number, reason in enumerate(reasons):
            yield _line((f"{name}  " if number == 0 else " " * indent) + reason.plain.rstrip(), "dim")


@dataclass(frozen=True, slots=True)
class _VerdictPanel:
    """The verdict's sentence, its price and latency, why, what would change it, and the rows fixed and broken."""

    record: ClimbRecord

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        verdict = self.record.verdict
        body: list[Text] = [Text(one_line(verdict.sentence), style="bold")]
        body += [Text(one_line(fact), style="dim") for fact in verdict.facts]
        if verdict.reasons:
            body += [Text(), *(_bullet(reason) for reason in verdict.reasons)]
        if verdict.would_change:
            body += [Text(), Text("What would change it", style="dim"), *(_bullet(change) for change in verdict.would_change)]
        counts = (needed_line(verdict), fixed_line(self.record), *changed_lines(self.record))
        body += [Text(), *(Text(line) for line in counts if line)]
        head, *kinds = mistake_lines(self.record) or [""]
        if head:
            body += [Text(), Text(head, style="dim"), *(_bullet(line) for line in kinds)]
        body += [Text(line) for line in slice_lines(self.record)]
        title = Text(f"Verdict: {verdict_title(verdict)}", style="bold", overflow="ellipsis", no_wrap=True)
        width = min(WIDTH, options.max_width)
        yield Panel(Group(*body), title=title, title_align="left", border_style=COLOURS[verdict.outcome], width=width)


def _caption(record: ClimbRecord) -> str:
    ran = sum(rung.status is RungStatus.RAN for rung in record.rungs)
    sizes = ", ".join(f"{number_text(size)} {one_line(split)}" for split, size in record.split_sizes.items())
    aim = "" if record.target is None else f"target {setting_text(record.target)}"
    parts = (one_line(record.task), aim, f"{ran} of {counted(len(record.rungs), 'rung')} ran", sizes, one_line(record.grader))
    return " · ".join(part for part in parts if part)


def _bullet(text: str) -> Text:
    return Text(f"• {one_line(text)}")


def _line(text: str, style: str) -> Text:
    return Text(text.rstrip(), style=style, no_wrap=True, overflow="ellipsis")


def _name_cell(row: LadderRow, width: int) -> str:
    name = row.name if cell_len(row.name) <= width else set_cell_size(row.name, width - 1) + "…"
    return ("★ " if row.chosen else "  ") + set_cell_size(name, width)


def _cells(row: LadderRow, widths: Sequence[int], columns: Sequence[_Column]) -> str:
    return "  ".join(f"{getattr(row, column.field):>{width}}" for column, width in zip(columns[1:], widths[1:], strict=True))


def _header(widths: Sequence[int], columns: Sequence[_Column], part: str) -> str:
    first, *rest = (getattr(column, part) for column in columns)
    cells = [f"{text:>{width}}" for text, width in zip(rest, widths[1:], strict=True)]
    return "  ".join([f"  {first:<{widths[0]}}", *cells])


def _widths(rows: Sequence[LadderRow], columns: Sequence[_Column]) -> list[int]:
    """Width of each column in cells. Rungs that did not run count only for the name."""
    widths = []
    for column in columns:
        shown = [row for row in rows if column.field == "name" or not row.absent]
        texts = [column.head, column.below, *(getattr(row, column.field) for row in shown)]
        widths.append(max(cell_len(text) for text in texts))
    return widths


def _fit(rows: Sequence[LadderRow], room: int) -> tuple[Sequence[_Column], list[int]]:
    """The columns that find room, with their widths: names give way down to 16 cells, then columns go from the right."""
    columns: Sequence[_Column] = _COLUMNS
    while True:
        widths = _widths(rows, columns)
        over = 2 + sum(widths) + 2 * (len(widths) - 1) - room
        widths[0] = max(min(widths[0], 16), widths[0] - max(0, over))
        if 2 + sum(widths) + 2 * (len(widths) - 1) <= room or len(columns) == 2:
            return columns, widths
        columns = columns[:-1]


# Notebook -------------------------------------------------------------------------------------------------------------

_CELL = "padding:.3em .8em;text-align:right;border-bottom:1px solid rgba(128,128,128,.3);white-space:nowrap"
_LEFT = "padding:.3em .8em .3em 0;text-align:left;border-bottom:1px solid rgba(128,128,128,.3)"


def html_fragment(record: ClimbRecord) -> str:
    """Table and verdict for a notebook: everything escaped, inline styles only, the page's own colours."""
    return _fragment(f"{_fragment_table(record)}{_fragment_list(remarks(record))}{_fragment_verdict(record)}")


class Rungs(tuple[RungResult, ...]):
    """The rungs of a climb, which print as the table of the ladder."""

    _record: ClimbRecord

    def __new__(cls, record: ClimbRecord) -> Rungs:
        rungs = super().__new__(cls, record.rungs)
        rungs._record = record
        return rungs

    def __getnewargs__(self) -> tuple[ClimbRecord]:  # for copy and pickle
        return (self._record,)

    def __repr__(self) -> str:
        return "\n".join(rung_lines(self._record))

    def _repr_html_(self) -> str:
        return _fragment(_fragment_table(self._record))


def _fragment(inner: str) -> str:
    # the classes keep a notebook's MathJax from reading "$" in a cost as a formula
    style = "overflow-x:auto;font-variant-numeric:tabular-nums"
    return f'<div class="tex2jax_ignore mathjax_ignore" style="{style}">{inner}</div>'


def _fragment_table(record: ClimbRecord) -> str:
    rows = ladder_rows(record)
    head = "".join(
        f'<th scope="col" style="{_CELL if column.right else _LEFT}">{column.head} {column.below}</th>' for column in _COLUMNS
    )
    body = "".join(_fragment_row(row, record.verdict) for row in rows)
    caption = f'<caption style="text-align:left;padding:.3em 0">{_safe(_caption(record))}</caption>'
    return f'<table style="border-collapse:collapse">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _fragment_findings(record: ClimbRecord) -> str:
    head, *kinds = mistake_lines(record) or [""]
    said = f'<p style="margin:.4em 0 0">{_safe(head)}</p>{_fragment_list(kinds)}' if head else ""
    return said + _fragment_list(slice_lines(record))


def _fragment_row(row: LadderRow, verdict: Verdict) -> str:
    name = f"<bdi>{_safe(row.name)}</bdi>"
    if row.chosen:
        name = f"★ <strong>{name}</strong> ({badge(verdict)})"
    first = f'<th scope="row" style="{_LEFT};font-weight:normal">{name}</th>'
    if row.absent:
        return f'<tr style="opacity:.75">{first}<td colspan="{len(_COLUMNS) - 1}" style="{_LEFT}">{_safe(row.absent)}</td></tr>'
    cells = "".join(f'<td style="{_CELL}">{_safe(getattr(row, column.field))}</td>' for column in _COLUMNS[1:])
    return f"<tr>{first}{cells}</tr>"


def _fragment_verdict(record: ClimbRecord) -> str:
    verdict = record.verdict
    parts = [
        f'<p style="margin:.8em 0 .2em">Verdict: {_safe(verdict_title(verdict))}</p>',
        f'<p style="margin:0 0 .4em;font-size:1.1em"><strong>{_safe(verdict.sentence)}</strong></p>',
        *(f'<p style="margin:0 0 .1em">{_safe(fact)}</p>' for fact in verdict.facts),
        _fragment_list(verdict.reasons),
    ]
    if verdict.would_change:
        parts += ['<p style="margin:.4em 0 0">What would change it:</p>', _fragment_list(verdict.would_change)]
    parts += [f'<p style="margin:.4em 0">{_safe(line)}</p>' for line in (needed_line(verdict), fixed_line(record)) if line]
    return "".join([*parts, _fragment_findings(record)])


def _fragment_list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_safe(item)}</li>' for item in items)}</ul>" if items else ""


def _safe(text: str) -> str:
    return escape(one_line(text))
