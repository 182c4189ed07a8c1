"""The rows as the model's own template and tokenizer write them."""

from __future__ import annotations

from statistics import median

from stepladder.data.checks.context import CheckContext, RowTokens, finding, quote
from stepladder.data.checks.finding import Check, Finding, Severity
from stepladder.data.checks.rows import CheckedRow

SHORT_OF_CONTEXT = 0.9


def find_rendering(context: CheckContext) -> list[Finding]:
    marks = []
    for row, tokens in _rendered(context):
        if tokens.problem:
            marks.append(row.mark(tokens.problem))
        elif tokens.lost:
            marks.append(row.mark(f"{quote(tokens.lost[0])} does not arrive in the prompt"))
    return finding(
        "template",
        Severity.BLOCK,
        marks,
        "{rows} cannot be written by the model's chat template as they stand: something is refused, dropped or doubled.",
        "Correct the turns, or choose a model whose template takes them.",
    )


def find_stops(context: CheckContext) -> list[Finding]:
    marks = []
    for row, tokens in _rendered(context):
        if not tokens.problem and tokens.stops_learned != tokens.learned_turns:
            marks.append(row.mark(f"{tokens.stops_learned} end-of-turn tokens are learned in {tokens.learned_turns} turns"))
    return finding(
        "stop-token",
        Severity.BLOCK,
        marks,
        "{rows} do not learn to stop exactly once a turn.",
        "Use a model whose template ends assistant turns with a token it stops at; take written-out end tokens out of "
        "the answers.",
    )


def find_learned(context: CheckContext) -> list[Finding]:
    shares = [tokens.learned_tokens / tokens.tokens for _, tokens in _rendered(context) if tokens.tokens]
    if not shares:
        return []
    evidence = (
        f"Training learns {min(shares):.0%} of a row's tokens at the least and {median(shares):.0%} in the median: the answers."
    )
    if min(shares) == 0:
        rows = [
            row.mark("no token is learned") for row, tokens in _rendered(context) if tokens.tokens and not tokens.learned_tokens
        ]
        return finding("learned-share", Severity.BLOCK, rows, "{rows} have nothing to learn.", "Give an assistant turn weight 1.")
    return [Finding("learned-share", Severity.NOTE, (), evidence, "Nothing needs to be done.")]


def find_too_long(context: CheckContext) -> list[Finding]:
    assert context.lengths is not None
    limit = context.lengths.context_tokens
    if not limit:
        return []
    marks = [
        row.mark(f"{total:,} tokens")
        for row in context.rows
        if (total := sum(context.lengths.tokens.get(row.id, (0, 0)))) > limit
    ]
    tight = [
        row.mark(f"{total:,} tokens")
        for row in context.rows
        if SHORT_OF_CONTEXT * limit < (total := sum(context.lengths.tokens.get(row.id, (0, 0)))) <= limit
    ]
    return [
        *finding(
            "too-long",
            Severity.BLOCK,
            marks,
            f"{{rows}} need more than the {limit:,} tokens that the model's context holds, prompt and answer together.",
            "Shorten them, or choose a model with a larger context. Nothing is cut silently.",
        ),
        *finding(
            "too-long",
            Severity.NOTE,
            tight,
            f"{{rows}} nearly fill the context of {limit:,} tokens: there is no room for demonstrations or passages.",
            "Choose a model with a larger context if few-shot or retrieval shall have a chance.",
        ),
    ]


def _rendered(context: CheckContext) -> list[tuple[CheckedRow, RowTokens]]:
    assert context.template is not None
    return [(row, context.template.rows[row.id]) for row in context.rows if row.id in context.template.rows]


RENDERING = Check(
    "template",
    "Rows the base model's chat template refuses (order of roles, tools it drops), texts of a row that do not arrive "
    "in the prompt, and "
    "a doubled first token.",
    find_rendering,
    needs=("template",),
)
STOPS = Check(
    "stop-token",
    "Rows in which the learned tokens do not hold exactly one end-of-turn token a learned turn.",
    find_stops,
    needs=("template",),
)
LEARNED = Check(
    "learned-share",
    "The share of a row's tokens that training learns: least and median; none is a fault.",
    find_learned,
    needs=("template",),
)
TOO_LONG = Check(
    "too-long",
    "Rows whose prompt and answer need more tokens than the base model's context holds, counted with its own template.",
    find_too_long,
    needs=("lengths",),
)
