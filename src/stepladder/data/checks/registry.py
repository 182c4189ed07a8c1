"""Every check, and the one way to run them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from stepladder.data.checks import (
    broken_row,
    contradiction,
    control_token,
    coverage,
    cut_answer,
    dialogue_marks,
    duplicate,
    echo,
    empty_row,
    format_json,
    format_spelling,
    format_values,
    invisible,
    label_balance,
    label_doubt,
    language,
    leak_documents,
    leak_prompt,
    leak_split,
    leftover,
    length,
    loss_outlier,
    markup,
    missing_information,
    mojibake,
    near_duplicate,
    numbering,
    off_output,
    personal_data,
    refusal_balance,
    repetition,
    secret,
    template,
    too_few,
    turns,
    whitespace,
)
from stepladder.data.checks.context import CheckContext
from stepladder.data.checks.contradiction import LabelCeiling, label_ceiling
from stepladder.data.checks.finding import Check, Finding, NotRun, Severity

CHECKS: tuple[Check, ...] = (
    broken_row.CHECK,
    empty_row.CHECK,
    off_output.CHECK,
    too_few.CHECK,
    leak_split.CHECK,
    leak_prompt.CHECK,
    leak_documents.CHECK,
    duplicate.CHECK,
    near_duplicate.CHECK,
    contradiction.CHECK,
    missing_information.CHECK,
    missing_information.UNKNOWN,
    loss_outlier.CHECK,
    label_balance.CHECK,
    label_doubt.CHECK,
    refusal_balance.CHECK,
    coverage.CHECK,
    format_json.SYNTAX,
    format_json.KEYS,
    format_json.TYPES,
    format_spelling.SPELLING,
    format_spelling.CASE,
    format_values.CHECK,
    cut_answer.CHECK,
    length.CHECK,
    repetition.CHECK,
    echo.ECHO,
    echo.GIVEN_AWAY,
    mojibake.CHECK,
    invisible.CHECK,
    markup.CHECK,
    leftover.CHECK,
    dialogue_marks.CHECK,
    numbering.CHECK,
    whitespace.CHECK,
    whitespace.SEPARATOR,
    language.CHECK,
    personal_data.CHECK,
    secret.CHECK,
    control_token.CHECK,
    turns.TURNS,
    turns.NOTHING_LEARNED,
    turns.SYSTEM,
    template.RENDERING,
    template.STOPS,
    template.LEARNED,
    template.TOO_LONG,
)

NEEDS = {
    "embedder": "the embedder",
    "lacking": "the search for facts",
    "unknown": "the model (`--with-model`)",
    "likeness": "the model's log-probabilities (`--with-model`)",
    "losses": "the model's log-probabilities (`--with-model`)",
    "template": "the model's tokenizer and chat template (`stepladder models pull`)",
    "lengths": "the model's tokenizer (`stepladder models pull`)",
}
"""What to say about a part of the context that is missing."""

_ORDER = {Severity.BLOCK: 0, Severity.WARN: 1, Severity.NOTE: 2}
_WEIGHT = {Severity.BLOCK: 10.0, Severity.WARN: 3.0, Severity.NOTE: 1.0}
MEASURES = 1.5  # a wrong test row spoils the ruler for every rung, a wrong training row only one


@dataclass(frozen=True, slots=True)
class RowToRepair:
    """A row that findings speak against; the heavier, the more is won by repairing it."""

    file: str
    line: int
    id: str
    codes: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class CheckReport:
    """What the checks found, gravest first, and which of them could not look, or `in_part` only."""

    rows: int
    findings: tuple[Finding, ...]
    not_run: tuple[NotRun, ...]
    in_part: tuple[NotRun, ...]
    ceiling: LabelCeiling
    repair_first: tuple[RowToRepair, ...]

    def blocking(self, accept: Sequence[str] = ()) -> tuple[Finding, ...]:
        """Findings that stop a climb, but for codes the user has accepted."""
        return tuple(one for one in self.findings if one.severity is Severity.BLOCK and one.code not in accept)


def run_checks(context: CheckContext, checks: Sequence[Check] = CHECKS) -> CheckReport:
    """Run every check whose needs are met; the others are named in `not_run`."""
    findings: list[Finding] = []
    not_run: list[NotRun] = []
    in_part: list[NotRun] = []
    for check in checks:
        lacking = _lacking(context, check.needs)
        if lacking:
            not_run.append(NotRun(check.code, f"needs {lacking[0]}"))
            continue
        findings += check.find(context)
        in_part += [NotRun(check.code, f"would see more with {part}") for part in _lacking(context, check.sharper_with)[:1]]
    findings.sort(key=lambda one: _ORDER[one.severity])  # stable: checks stay in order within a severity
    ranked = _rank(context, findings)
    return CheckReport(len(context.rows), tuple(findings), tuple(not_run), tuple(in_part), label_ceiling(context), ranked)


def _lacking(context: CheckContext, parts: Sequence[str]) -> list[str]:
    """What to say about those of `parts` that the context does not have."""
    return [NEEDS[part] for part in parts if getattr(context, part) is None]


def _rank(context: CheckContext, findings: Sequence[Finding]) -> tuple[RowToRepair, ...]:
    """Rows by the weight of what speaks against them; test rows first among equals."""
    codes: dict[tuple[str, int, str], dict[str, float]] = defaultdict(dict)
    for one in findings:
        for mark in one.rows:
            known = codes[mark.file, mark.line, mark.id]
            known[one.code] = max(known.get(one.code, 0.0), _WEIGHT[one.severity])
    tested = {row.id for row in context.rows if context.part_of.get(row.id) == "test"}
    ranked = [
        RowToRepair(file, line, id, tuple(found), sum(found.values()) * (MEASURES if id in tested else 1.0))
        for (file, line, id), found in codes.items()
    ]
    ranked = [row for row in ranked if row.weight > MEASURES * _WEIGHT[Severity.NOTE]]  # a note alone asks for no repair
    return tuple(sorted(ranked, key=lambda row: (-row.weight, row.file, row.line)))
