"""Conversations whose turns do not follow each other as they should."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from stepladder.data.checks.context import CheckContext, finding, quote
from stepladder.data.checks.finding import Check, Finding, Mark, Severity
from stepladder.data.checks.rows import CheckedRow


def find_turns(context: CheckContext) -> list[Finding]:
    marks = [row.mark(said) for row in context.rows if (said := "; ".join(dict.fromkeys(_faults(row))))]
    return finding(
        "turns",
        Severity.WARN,
        marks,
        "{rows} have turns out of order; most chat templates refuse them or render something else than was meant.",
        "Write system, then user and assistant in turn, and a tool's answer after the call it answers.",
    )


def _faults(row: CheckedRow) -> Iterator[str]:
    messages = [*row.draft.messages, *([row.draft.reference] if row.draft.reference else [])]
    roles = [message.role for message in messages]
    if "system" in roles[1:]:
        yield "a system turn stands inside the conversation"
    talk = [role for role in roles if role != "system"]
    if talk and talk[0] == "assistant":
        yield "the assistant speaks first"
    if "user" not in roles:
        yield "nobody asks"
    for before, after in pairwise(roles):
        if before == after and before in ("user", "assistant", "system"):
            yield f"two {before} turns in a row"
    if any(not message.content.strip() and not message.tool_calls for message in messages):
        yield "an empty turn"
    yield from _tool_faults(row)


def _tool_faults(row: CheckedRow) -> Iterator[str]:
    messages = [*row.draft.messages, *([row.draft.reference] if row.draft.reference else [])]
    offered = {str(tool.get("function", {}).get("name")) for tool in row.draft.tools}
    called: set[str] = set()
    for message in messages:
        for call in message.tool_calls:
            called.add(call.id)
            if offered and call.name not in offered:
                yield f"the tool {call.name!r} is called and not on offer"
            try:
                json.loads(call.arguments)
            except ValueError:
                yield f"arguments of {call.name!r} are not JSON"
        if message.role == "tool" and message.tool_call_id not in called:
            yield "a tool answers a call that was not made"


def find_nothing_learned(context: CheckContext) -> list[Finding]:
    marks = []
    for row in context.rows:
        turns = [*row.draft.messages, *([row.draft.reference] if row.draft.reference else [])]
        if all(turn.weight == 0 for turn in turns if turn.role == "assistant"):
            marks.append(row.mark("every assistant turn has weight 0"))
    return finding(
        "nothing-to-learn",
        Severity.BLOCK,
        marks,
        "{rows} have no turn that training would learn.",
        "Give the answer weight 1, or drop the row.",
    )


def find_system(context: CheckContext) -> list[Finding]:
    """One system message in most rows and another, or none, in a few: then it is no instruction any more but input."""
    systems = [next((field.text.strip() for field in row.fields if field.part == "system"), "") for row in context.rows]
    if not systems:
        return []
    common, count = Counter(systems).most_common(1)[0]
    if count == len(systems) or count < 0.8 * len(systems):
        return []
    marks: list[Mark] = []
    for row, said in zip(context.rows, systems, strict=True):
        if said != common:
            marks.append(row.mark(f"the system message is {quote(said)}" if said else "has no system message"))
    return finding(
        "system-drift",
        Severity.WARN,
        marks,
        "{rows} have another system message than the rest, so it cannot be taken as the instruction and counts as input.",
        "Use one system message everywhere, or move what differs into the user's turn.",
    )


TURNS = Check(
    "turns",
    "Turns out of order: two of one role in a row, an assistant first, a system turn inside, empty turns, tool answers "
    "without their "
    "call, calls of tools that are not on offer or whose arguments are not JSON.",
    find_turns,
)
NOTHING_LEARNED = Check(
    "nothing-to-learn",
    "Rows whose assistant turns all have weight 0, so that training learns nothing of them.",
    find_nothing_learned,
)
SYSTEM = Check(
    "system-drift",
    "A system message that differs in a few rows, or is missing there, and is the same in four of five.",
    find_system,
)
