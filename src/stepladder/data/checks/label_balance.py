"""Labels with hardly a row, with nearly all rows, or with other shares in test than in train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.stats import chi2_contingency

from stepladder.data.checks.answer_fields import WHOLE, Field, answer_fields
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Severity

FEWEST = 5  # rows to learn a label from
MOST_LABELS = 200
DOMINATES = 0.9
SHARE_MOVES = 0.2  # total variation distance between the parts
SURPRISE = 0.001


def find(context: CheckContext) -> list[Finding]:
    findings: list[Finding] = []
    for field, allowed in _closed_fields(context):
        decides = field.path == WHOLE
        counts = Counter(text.strip() for _, text in field.texts)
        learn = Counter(text.strip() for place, text in field.texts if context.part_of.get(context.rows[place].id) == "train")
        learn = learn or counts
        rare = {label for label in counts if learn[label] < FEWEST}
        findings += _rare(context, field, rare, learn, Severity.WARN if decides else Severity.NOTE)
        findings += _absent(field, [label for label in allowed if label not in counts], decides)
        findings += _dominant(field, counts)
        findings += _moved(context, field)
    return findings


def _closed_fields(context: CheckContext) -> Iterator[tuple[Field, Sequence[str]]]:
    """Fields that choose among labels, with the labels `[output]` allows."""
    labels = context.task.settings.output.labels
    enums = _enums(context.task.output_schema or {})
    for field in answer_fields(context):
        if field.path == WHOLE and (labels or (field.is_label and len({text for _, text in field.texts}) <= MOST_LABELS)):
            yield field, labels
        elif field.path in enums:
            yield field, [label for label in enums[field.path] if isinstance(label, str)]


def _enums(schema: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Fields at the top of a schema that allow a few values."""
    properties = schema.get("properties", {})
    return {
        name: rule["enum"] for name, rule in properties.items() if isinstance(rule, dict) and isinstance(rule.get("enum"), list)
    }


def _rare(context: CheckContext, field: Field, rare: set[str], learn: Counter[str], severity: Severity) -> list[Finding]:
    marks = [
        context.rows[place].mark(f"{field.name()} is {quote(text)}: {learn[text.strip()]} training rows")
        for place, text in field.texts
        if text.strip() in rare
    ]
    return finding(
        "label-balance",
        severity,
        marks,
        f"{len(rare)} values of {field.name()} have fewer than {FEWEST} training rows ({{rows}}): nobody can learn, or "
        f"measure, them.",
        f"Add rows of: {', '.join(sorted(rare)[:12])}.",
    )


def _absent(field: Field, absent: list[str], decides: bool) -> list[Finding]:
    if not absent:
        return []
    named = ", ".join(map(quote, absent[:8])) + (" …" if len(absent) > 8 else "")
    evidence = f"No row has {field.name()} = {named}, which `[output]` allows."
    severity = Severity.WARN if decides else Severity.NOTE
    return [Finding("label-balance", severity, (), evidence, "Add rows with it, or take it out.")]


def _dominant(field: Field, counts: Counter[str]) -> list[Finding]:
    label, count = counts.most_common(1)[0]
    if count < DOMINATES * counts.total() or counts.total() < 20:
        return []
    share = f"{count / counts.total():.0%}"
    evidence = f"{field.name()} is {quote(label)} in {share} of the rows: always saying so scores as much."
    severity = Severity.WARN if field.path == WHOLE else Severity.NOTE
    return [Finding("label-balance", severity, (), evidence[0].upper() + evidence[1:], "Add rows of the other labels.")]


def _moved(context: CheckContext, field: Field) -> list[Finding]:
    """Other shares in the test file than in the training file, by more than chance."""
    if not context.given:
        return []
    parts = {
        part: Counter(text.strip() for place, text in field.texts if context.rows[place].kind == part)
        for part in ("train", "test")
    }
    train, test = parts["train"], parts["test"]
    labels = sorted(train.keys() | test.keys())
    findings = []
    unseen = [
        context.rows[place].mark(f"{field.name()} is {quote(text)}, which no training row has")
        for place, text in field.texts
        if context.rows[place].kind != "train" and text.strip() not in train
    ]
    findings += finding(
        "label-balance",
        Severity.WARN,
        unseen,
        "{rows} outside the training file have a label that no training row has.",
        "Add training rows with it.",
    )
    if min(train.total(), test.total()) >= 20 and len(labels) > 1:
        distance = 0.5 * sum(abs(train[label] / train.total() - test[label] / test.total()) for label in labels)
        surprise = chi2_contingency([[part[label] for label in labels] for part in (train, test)]).pvalue
        if distance > SHARE_MOVES and surprise < SURPRISE:
            most = max(labels, key=lambda label: abs(train[label] / train.total() - test[label] / test.total()))
            evidence = (
                f"Labels have other shares in train than in test, most of all {quote(most)}: "
                f"{train[most] / train.total():.0%} and {test[most] / test.total():.0%}."
            )
            findings.append(Finding("label-balance", Severity.WARN, (), evidence, "Draw both files from the same source."))
    return findings


CHECK = Check(
    "label-balance",
    "Labels with fewer than five training rows, labels no row has, labels only the test file has, one label in nine of "
    "ten rows, and "
    "shares that differ between the training and the test file.",
    find,
)
