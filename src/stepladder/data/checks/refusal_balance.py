"""Refusals: how many there are, and whether train and test agree on it."""

from __future__ import annotations

import re
from math import sqrt

from stepladder.data.checks.answers import parse_answer
from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Severity
from stepladder.data.checks.rows import CheckedRow

MANY = 0.5
DIFFERENCE = 0.15
SURPRISE = 3.3  # standard errors; one in a thousand by chance
LONGEST_WORDS = 40
_REFUSAL = re.compile(
    r"\b(?:i(?: am|['’]m)? ?(?:sorry|afraid|unable)|i (?:cannot|can['’]t|can not|won['’]t|am not able)|(?:cannot"
    r"|can['’]t|unable to) (?:help|assist|answer|"
    r"provide|comply|determine|tell|say)|not (?:able|allowed|permitted) to|i do(?: not|n['’]t) know"
    r"|don['’]t have (?:that |enough )?information|"
    r"no (?:answer|information)(?: (?:found|available|given))?|not (?:in|found in|mentioned in|stated in|covered (?:by"
    r"|in)|available)|"
    r"(?:does|do) not (?:say|mention|contain)|(?:unknown|unanswerable|refused?|not answerable|no idea))\b",
    re.IGNORECASE,
)


def find(context: CheckContext) -> list[Finding]:
    if context.task.settings.output.labels or context.task.output_schema is not None:
        return []  # a closed answer that refuses is a label, and counted as one
    refusing = {row.id for row in context.rows if refuses(row)}
    share = len(refusing) / len(context.rows) if context.rows else 0.0
    findings = []
    if share > MANY and len(refusing) >= 10:
        findings += finding(
            "refusal-balance",
            Severity.WARN,
            (row.mark("refuses") for row in context.rows if row.id in refusing),
            f"{share:.0%} of the answers refuse ({{rows}}): a model would learn that refusing is nearly always right.",
            "Keep the share of refusals that is met in use.",
        )
    return findings + _moved(context, refusing)


def _moved(context: CheckContext, refusing: set[str]) -> list[Finding]:
    parts = {part: [row for row in context.rows if row.kind == part] for part in ("train", "test")}
    if not context.given or min(map(len, parts.values())) < 20:
        return []
    shares = {part: sum(row.id in refusing for row in rows) / len(rows) for part, rows in parts.items()}
    pooled = len(refusing) / len(context.rows)
    error = sqrt(pooled * (1 - pooled) * sum(1 / len(rows) for rows in parts.values()))
    difference = abs(shares["train"] - shares["test"])
    if difference < DIFFERENCE or difference < SURPRISE * error:
        return []
    more = max(shares, key=lambda part: shares[part])
    return finding(
        "refusal-balance",
        Severity.WARN,
        (row.mark("refuses") for row in parts[more] if row.id in refusing),
        f"{shares['train']:.0%} of the training answers refuse, and {shares['test']:.0%} of the test answers.",
        "Keep one share of refusals in both files: that of the use.",
    )


def refuses(row: CheckedRow) -> bool:
    """Whether an answer is a refusal or says that it does not know; long answers that also say such a thing are not."""
    text = row.reference
    return parse_answer(text) is None and len(text.split()) <= LONGEST_WORDS and bool(_REFUSAL.search(text[:160]))


CHECK = Check(
    "refusal-balance",
    "More than half of the answers refuse or say they do not know, or the share of such answers differs between "
    "training and test file.",
    find,
)
