"""Words of the assistant that wrote the rows, and gaps of a template nobody filled in."""

from __future__ import annotations

import re

from stepladder.data.checks.answers import parse_answer
from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Repair, Severity
from stepladder.data.checks.rows import CheckedRow, TextField

HABIT = 0.25  # what more answers than this say is how they are meant
_FENCED = re.compile(r"^\s*```[\w+-]*[ \t]*\n(?P<inside>.*?)\n?[ \t]*```\s*$", re.DOTALL)
_OPENING = re.compile(
    r"^\s*(?:(?:sure(?: thing)?|certainly|of course|absolutely|great question|happy to help|no problem|okay|ok)\b[!,.]?\s*)?"
    r"(?:here(?:['’]s| is| are)|below (?:is|are)) (?:the|your|a|an|my|some)\b[^\n:]{0,80}:\s*"
    r"|^\s*(?:sure(?: thing)?|certainly|of course|absolutely|great question|okay|ok)(?:!|[,.] (?=here['’]?s? "
    r"|i['’]d be happy|let me |i can ))\s*"
    r"|^\s*(?:the )?(?:final )?(?:answer|output|response|result|completion|label)\s*(?:is)?\s*:\s*",
    re.IGNORECASE,
)
_ASSISTANT = re.compile(
    r"\bas (?:an?|your) (?:ai|artificial intelligence|(?:large )?language model|virtual assistant|chatbot)\b"
    r"|\bi(?:['’]m| am) (?:just |only |merely )?an? (?:ai|artificial intelligence|(?:large )?language model|chatbot)\b"
    r"|\b(?:my|as of my) (?:last )?(?:knowledge cut-?off|training data|last (?:knowledge )?update)\b"
    r"|\bi (?:do not|don['’]t) have (?:personal (?:opinions|experiences|feelings)|access to real-time|feelings)\b"
    r"|\bi(?: am|['’]m) (?:sorry|afraid),? but (?:as an|i (?:cannot|can['’]t) (?:assist|help|provide|fulfil))"
    r"|\bi (?:cannot|can['’]t|am (?:not able|unable) to) (?:assist|help|answer|comply|fulfil+|provide)"
    r"(?: you)?(?: with)? (?:that|this)\b"
    r"|\b(?:chatgpt|openai['’]s|gpt-?[345])\b",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:i hope (?:this|that) helps|let me know if (?:you|there)|feel free to (?:ask|reach)|is there anything else i can|"
    r"if you have any (?:other|more|further) questions|would you like me to)[^\n]{0,120}$",
    re.IGNORECASE,
)
_THINKING = re.compile(r"</?(?:think|thinking|thought|reasoning|scratchpad)>", re.IGNORECASE)
_GAP = re.compile(
    r"\blorem ipsum\b|(?i:\[(?:insert|your|todo|tbd|name|placeholder|company|date|customer|product)\b[^\]\n]{0,40}\])"
    r"|\{\{[^{}\n]{1,40}\}\}"
    r"|(?<![\"\w{])\{[a-z_]{2,30}\}|<(?:your|insert|name|placeholder|todo|answer|input|output|question"
    r"|text)[\w ]{0,30}>|\bTODO\b|\bFIXME\b|\bTBD\b|\bXXX+\b|%\([a-z_]+\)s|\$\{[a-zA-Z_]+\}",
)

ANSWERS = (
    ("speaks as an assistant", _ASSISTANT),
    ("opens as a chat answer", _OPENING),
    ("closes as a chat answer", _CLOSING),
    ("a code fence", re.compile(r"```")),
    ("Markdown", re.compile(r"\*\*[^*\n]{1,80}\*\*|^#{1,6} \S", re.MULTILINE)),
    ("a thinking tag", _THINKING),
)


def find(context: CheckContext) -> list[Finding]:
    marks: list[Mark] = []
    repairs: list[Repair] = []
    for name, pattern in ANSWERS:
        hits = [(row, match) for row in context.rows if (match := pattern.search(row.reference_field.text))]
        if len(hits) > HABIT * len(context.rows):
            continue
        for row, match in hits:
            marks.append(row.mark(f"{name}: {quote(match.group())}"))
            repairs += _repair(row)
    gaps = [(row, field, match) for row in context.rows for field in row.fields if (match := _gap(field))]
    if len({row.id for row, _, _ in gaps}) <= HABIT * len(context.rows):
        marks += [row.mark(f"a gap nobody filled: {quote(match.group())}") for row, _, match in gaps]
    return finding(
        "leftover",
        Severity.WARN,
        marks,
        "{rows} hold leftovers of how they were made, which a model would learn to write.",
        "Keep only what the answer should be.",
        repairs,
    )


def _gap(field: TextField) -> re.Match[str] | None:
    return None if parse_answer(field.text.strip()) is not None and "{{" not in field.text else _GAP.search(field.text)


def _repair(row: CheckedRow) -> list[Repair]:
    field = row.reference_field
    if field.place is None or without_wrapping(field.text) == field.text:
        return []
    return [Repair(row.file, row.line, "words around the answer removed", field.place, without_wrapping)]


def without_wrapping(text: str) -> str:
    """The answer without its opening words and its fence; the text itself where nothing would be left."""
    inner = _OPENING.sub("", text, count=1)
    fenced = _FENCED.match(inner)
    inner = (fenced["inside"] if fenced else inner).strip()
    return inner if inner and inner != text.strip() else text


CHECK = Check(
    "leftover",
    'Answers with leftovers of a chat model or a template in a few rows: "As an AI", "Sure, here is", "I hope this '
    'helps", code '
    'fences, thinking tags, "Answer:"; and in any text gaps such as {name}, [insert …], TODO or lorem ipsum.',
    find,
)
