"""Too few rows to learn or to know anything."""

from __future__ import annotations

from stepladder.data.checks.context import CheckContext
from stepladder.data.checks.finding import Check, Finding, Severity
from stepladder.data.split import FEWEST_CROSS, FEWEST_ROWS


def find(context: CheckContext) -> list[Finding]:
    different = len(set(context.clusters.values()))
    if context.split_problem or different < FEWEST_ROWS:
        evidence = (
            f"{len(context.rows)} rows hold {different} different inputs; {FEWEST_ROWS} are the least. {context.split_problem}"
        )
        return [Finding("too-few-rows", Severity.BLOCK, (), evidence.strip(), "Write more examples: 50 good ones are a start.")]
    if different < FEWEST_CROSS:
        evidence = f"{different} different inputs: prompts can be compared, but nothing is tuned below {FEWEST_CROSS}."
        return [Finding("too-few-rows", Severity.NOTE, (), evidence, "50 to 100 good examples are a start.")]
    return []


CHECK = Check(
    "too-few-rows", "Fewer than ten different inputs (nothing can be measured), or fewer than 50 (nothing is tuned).", find
)
