"""Test rows inside the instruction or the user's own prompts."""

from __future__ import annotations

from stepladder.data.checks.context import CheckContext, finding
from stepladder.data.checks.finding import Check, Finding, Mark, Severity
from stepladder.data.normalise import plain_form

FEWEST_WORDS = 4
FEWEST_CHARACTERS = 18  # a shorter input may stand in a prompt by chance


def find(context: CheckContext) -> list[Finding]:
    prompts = {name: f" {plain_form(text)} " for name, text in context.prompts.items()}
    measured: list[Mark] = []
    shown: list[Mark] = []
    for row, text in zip(context.rows, context.plain_inputs, strict=True):
        if len(text) < FEWEST_CHARACTERS or len(text.split()) < FEWEST_WORDS:
            continue
        names = [name for name, prompt in prompts.items() if f" {text} " in prompt]
        if names:
            chosen = measured if context.is_tested(row) or not context.part_of else shown
            chosen.append(row.mark(f"its input stands in {names[0]}"))
    return [
        *finding(
            "leak-prompt",
            Severity.BLOCK,
            measured,
            "{rows} that measure stand in a prompt, so that their answers are shown to the model.",
            "Use training rows as demonstrations, or take these rows out of the data.",
        ),
        *finding(
            "leak-prompt",
            Severity.NOTE,
            shown,
            "{rows} that do not test stand in a prompt as demonstrations.",
            "Nothing needs to be done; their validation scores flatter that prompt.",
        ),
    ]


CHECK = Check(
    "leak-prompt",
    "Inputs of rows that stand in the instruction or in one of your own prompts, as a demonstration. A test row there blocks.",
    find,
)
