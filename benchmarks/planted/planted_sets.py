"""Faults between rows and of whole files: copies, contradictions, leaks, broken lines, balance, turns, what the model reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from planted_answers import LABELS, SPANS
from planted_copy import Copy, Kind, Plant, Row, Spot
from planted_texts import EVERY, PROSE

FILLERS = ("please", "hi there,", "hello,", "thanks", "thank you", "um,")
TURNED = ("tickets", "handbook", "clinic", "voice", "repairs", "disfluent-qa")
TOOL = {
    "type": "function",
    "function": {"name": "find_order", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}},
}
REFUSALS = (
    "I'm sorry, I can't help with that.",
    "I do not know.",
    "Sorry, I cannot answer this question.",
    "I am unable to answer that.",
)


# The same question again ------------------------------------------------------------------------------------------------


def same(text: str, chance: Random) -> str:
    return text


def recased(text: str, chance: Random) -> str:
    """Other letter case, white space and final punctuation."""
    return chance.choice((text.upper(), text.lower() + " ", text.title(), text.rstrip(".?!") + "!!", text.replace(" ", "  ")))


def retyped(text: str, chance: Random) -> str:
    """A filler more, or two neighbouring letters of a long word swapped."""
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if word.isalpha() and word.islower() and len(word) > 5]
    if long and chance.random() < 0.5:
        index = chance.choice(long)
        word = words[index]
        at = next((at for at in range(2, len(word) - 2) if word[at] != word[at + 1]), 2)
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        return " ".join(words)
    filler = chance.choice(FILLERS)
    return f"{filler} {text}" if chance.random() < 0.5 else f"{text} {filler.rstrip(',')}"


def _long(row: Row) -> bool:
    return len(row["prompt"].split()) >= 7


def _fresh(row: Row, chance: Random) -> Row:
    return {**row, "id": f"planted-{chance.randrange(10**9)}"}


def repeated_row(change: Callable[[str, Random], str]) -> Plant:
    def plant(copy: Copy, chance: Random) -> Spot:
        file, index, row = copy.draw(chance, _long)
        return copy.add(file, {**_fresh(row, chance), "prompt": change(row["prompt"], chance)}, beside=index)

    return plant


def contradicted(change: Callable[[str, Random], str]) -> Plant:
    def plant(copy: Copy, chance: Random) -> Spot:
        file, index, row = copy.draw(chance, _long)
        answers = sorted({*copy.texts(file, "completion")} - {row["completion"]})
        other = {**_fresh(row, chance), "prompt": change(row["prompt"], chance), "completion": chance.choice(answers)}
        return copy.add(file, other, beside=index)

    return plant


def leaked(change: Callable[[str, Random], str]) -> Plant:
    """A test row that stands in the training file too."""

    def plant(copy: Copy, chance: Random) -> Spot:
        _, index, row = copy.draw(chance, _long, file="test.jsonl")
        spot = copy.add("train.jsonl", {**_fresh(row, chance), "prompt": change(row["prompt"], chance)})
        return spot | {("test.jsonl", index + 1)}

    return plant


def surrounded(text: str, chance: Random) -> str:
    return f"A message came in this morning and nobody has looked at it. It says: {text} What should be done next about this?"


def in_instruction(copy: Copy, chance: Random) -> Spot:
    file, index, row = copy.draw(chance, _long)
    shown = f"{row['prompt']}\n{row['completion']}"
    head, quote, tail = copy.toml.partition('instruction = """')
    body, end, rest = tail.partition('"""')
    copy.toml = head + quote + body + "\n\nExample:\n" + shown.replace("\\", "\\\\") + end + rest
    return frozenset({(file, index + 1)})


def in_own_prompt(copy: Copy, chance: Random) -> Spot:
    file, index, row = copy.draw(chance, _long)
    if "ours.txt" not in copy.others:
        copy.toml = copy.toml.replace("\n[data]", '\n[[prompts]]\nfile = "ours.txt"\n\n[data]', 1)
    before = copy.others.get("ours.txt", b"Answer as shown.\n")
    copy.others["ours.txt"] = before + f"\nQ: {row['prompt']}\nA: {row['completion']}\n".encode()
    return frozenset({(file, index + 1)})


def in_document(change: Callable[[str, Random], str]) -> Plant:
    """A page that answers the question; half of them list it first, far above."""

    def plant(copy: Copy, chance: Random) -> Spot:
        file, index, row = copy.draw(chance, lambda row: _long(row) and row["completion"] != "unknown")
        question = change(row["prompt"], chance)
        number = chance.randrange(10**9)
        listed = f"- {question}\n\n{' '.join(STRANGE)}\n\n" if number % 2 else ""
        page = f"# Frequent questions\n\n{listed}{question}\n\n{row['completion']}\n"
        copy.others[f"documents/faq-{number}.md"] = page.encode()
        return frozenset({(file, index + 1)})

    return plant


# Lines that cannot be read ----------------------------------------------------------------------------------------------


def broken_line(copy: Copy, chance: Random) -> Spot:
    file, index, row = copy.draw(chance)
    line = json.dumps(row, ensure_ascii=False).encode()
    half = line[: len(line) // 2]
    forms = (
        half,
        line[:-1],
        line.replace(b'"', b"'"),
        line + b",",
        b"[" + line + b"]",
        b'"text"',
        half + b"\xff\xfe" + line[len(half) :],
    )
    return copy.put(file, index, chance.choice(forms))


def lost_part(copy: Copy, chance: Random) -> Spot:
    """No answer, an input that is no text, another shape than the other rows."""
    file, index, row = copy.draw(chance)
    without = {key: value for key, value in row.items() if key != "completion"}
    forms: tuple[Row, ...] = (
        without,
        {**without, "answer": row["completion"]},
        {
            "id": row["id"],
            "messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}],
        },
        {"id": row["id"], "instruction": row["prompt"], "output": row["completion"]},
        {**row, "prompt": 7},
        {**row, "completion": None},
    )
    return copy.put(file, index, chance.choice(forms))


def same_id(copy: Copy, chance: Random) -> Spot:
    file, index, row = copy.draw(chance)
    _, other, twin = copy.draw(chance, file=file)
    copy.put(file, index, {**row, "id": twin["id"]})
    return frozenset({(file, index + 1), (file, other + 1)})


# Whole sets -------------------------------------------------------------------------------------------------------------


def refusing(copy: Copy, chance: Random) -> Spot:
    for rows in copy.files.values():
        for index in chance.sample(range(len(rows)), len(rows) * 3 // 5):
            row = rows[index]
            if isinstance(row, dict):
                rows[index] = {**row, "completion": chance.choice(REFUSALS)}
    return frozenset()


def one_label(copy: Copy, chance: Random) -> Spot:
    """One label in more than nine of ten rows."""
    for name, rows in copy.files.items():
        kept = chance.choice(sorted({row["completion"] for row in rows if isinstance(row, dict)}))
        others = [row for row in rows if isinstance(row, dict) and row["completion"] != kept]
        spared = {row["id"] for row in chance.sample(others, max(2, len(rows) // 25))}
        mine = [row for row in rows if isinstance(row, dict) and (row["completion"] == kept or row["id"] in spared)]
        copy.files[name] = [*mine] if len(mine) >= 10 else rows
        wrong = [row for row in rows if isinstance(row, dict) and row["id"] not in {own["id"] for own in mine}]
        copy.files[name] += [{**row, "completion": kept} for row in wrong]
    return frozenset()


def rare_label(copy: Copy, chance: Random) -> Spot:
    """Two rows are left of a label."""
    for name, rows in copy.files.items():
        label = chance.choice(sorted({row["completion"] for row in rows if isinstance(row, dict)}))
        mine = [row for row in rows if isinstance(row, dict) and row["completion"] == label]
        dropped = {row["id"] for row in mine[2:]}
        copy.files[name] = [row for row in rows if isinstance(row, dict) and row["id"] not in dropped]
    return frozenset()


def only_tested(copy: Copy, chance: Random) -> Spot:
    """A label that only the test file has."""
    label = chance.choice(sorted({row["completion"] for row in copy.files["test.jsonl"] if isinstance(row, dict)}))
    copy.files["train.jsonl"] = [row for row in copy.files["train.jsonl"] if isinstance(row, dict) and row["completion"] != label]
    return frozenset()


def too_few(copy: Copy, chance: Random) -> Spot:
    left = chance.randrange(3, 45)
    for name, rows in copy.files.items():
        copy.files[name] = chance.sample(rows, left // len(copy.files))
    return frozenset()


STRANGE = (
    "The knight on f3 is pinned to the queen, so the bishop takes on e5 for nothing.",
    "Fold the egg whites into the batter in three lots, then bake at once.",
    "Plate tectonics explains why the mid-ocean ridge spreads by two centimetres a year.",
    "Tune the third string down a semitone and let the open fifth ring.",
    "The defendant's appeal was dismissed with costs by the upper tribunal.",
    "Integrate by parts twice and the cosine comes back with its sign turned.",
    "The goalkeeper tipped the free kick over the bar in the ninetieth minute.",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen.",
    "Compile with link-time optimisation and strip the debugging symbols.",
    "The sonnet turns in its ninth line, from the rose to the worm.",
)


def uncovered(copy: Copy, chance: Random) -> Spot:
    """A test row about something that no training row is about."""
    _, index, row = copy.draw(chance, file="test.jsonl")
    left = [text for text in STRANGE if text not in copy.texts("test.jsonl", "prompt")]
    if not left:
        raise LookupError("every strange text is used")
    return copy.put("test.jsonl", index, {**row, "prompt": chance.choice(left)})


# Conversations ----------------------------------------------------------------------------------------------------------

Turns = list[dict[str, Any]]


def turned(change: Callable[[Turns, Random], Turns]) -> Plant:
    """A fault in a row of messages: system, user, assistant."""

    def plant(copy: Copy, chance: Random) -> Spot:
        file, index, row = copy.draw(chance)
        return copy.put(file, index, {**row, "messages": change([dict(turn) for turn in row["messages"]], chance)})

    return plant


def disordered(turns: Turns, chance: Random) -> Turns:
    system, user, answer = turns
    call = {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"id": "4"'}}
    orders = (
        [system, user, {"role": "user", "content": "Are you there?"}, answer],
        [system, {"role": "assistant", "content": "Good morning."}, user, answer],
        [user, system, answer],
        [system, user, {"role": "tool", "tool_call_id": "call_9", "content": "nothing found"}, answer],
        [
            system,
            user,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "-"},
            answer,
        ],
        [system, user, {"role": "assistant", "content": ""}, {"role": "user", "content": "And?"}, answer],
    )
    return list(chance.choice(orders))


def unknown_role(turns: Turns, chance: Random) -> Turns:
    system, user, answer = turns
    return chance.choice(
        (
            [system, {**user, "role": chance.choice(("customer", "User", "usr"))}, answer],
            [system, user, {**answer, "role": "bot"}],
        )
    )


def unanswered(turns: Turns, chance: Random) -> Turns:
    return turns[:-1]


def unweighted(turns: Turns, chance: Random) -> Turns:
    return [*turns[:-1], {**turns[-1], "weight": 0}]


def other_system(turns: Turns, chance: Random) -> Turns:
    other = chance.choice(("You are a helpful assistant.", "Answer in rhymes.", turns[0]["content"] + " Be brief."))
    return chance.choice(([{"role": "system", "content": other}, *turns[1:]], turns[1:]))


def with_tools(copy: Copy, chance: Random) -> Spot:
    file, index, row = copy.draw(chance)
    return copy.put(file, index, {**row, "tools": [TOOL]})


def over_context(copy: Copy, chance: Random) -> Spot:
    """An input of more words than the model's context holds tokens."""
    file, index, row = copy.draw(chance)
    words = " ".join(chance.sample(copy.texts(file, "prompt"), 40)).split(" ")
    return copy.put(file, index, {**row, "prompt": " ".join((words * 40)[:9000])})


def _kind(
    name: str,
    codes: str,
    plant: Plant,
    sets: tuple[str, ...] = EVERY,
    *,
    exact: bool = True,
    shape: str = "plain",
    hard: str = "",
    ask: tuple[str, ...] = (),
) -> Kind:
    return Kind(name, frozenset(codes.split()), plant, sets, exact, shape, hard, ask)


KINDS = (
    _kind("copied row", "duplicate", repeated_row(same)),
    _kind("copied row in other letter case", "duplicate", repeated_row(recased)),
    _kind("copied row with a filler or a slip", "duplicate near-duplicate", repeated_row(retyped), exact=False),
    _kind("contradiction", "contradiction", contradicted(same)),
    _kind("contradiction with a filler or a slip", "contradiction", contradicted(retyped), exact=False),
    _kind("test row in training", "leak-split", leaked(same), shape="split"),
    _kind("test row in training, other letter case", "leak-split", leaked(recased), shape="split"),
    _kind("test row in training, filler or slip", "leak-split", leaked(retyped), shape="split", exact=False),
    _kind("test row inside a training row", "leak-split", leaked(surrounded), shape="split", exact=False),
    _kind("row in the instruction", "leak-prompt", in_instruction, ("tickets", "handbook", "clinic", "voice", "repairs")),
    _kind("row in a prompt of one's own", "leak-prompt", in_own_prompt),
    _kind("question and answer in a document", "leak-documents", in_document(same), SPANS),
    _kind("question and answer in a document, slip", "leak-documents", in_document(retyped), SPANS, exact=False),
    _kind("line that is no object", "broken-row", broken_line),
    _kind("answer missing, or another shape", "broken-row empty", lost_part),
    _kind("id that stands twice", "broken-row", same_id),
    _kind("three of five answers refuse", "refusal-balance", refusing, (*SPANS, *PROSE), shape="whole"),
    _kind("one label almost everywhere", "label-balance", one_label, ("repairs",), shape="whole"),
    _kind("label of two rows", "label-balance", rare_label, LABELS, shape="whole"),
    _kind("label only the test file has", "label-balance", only_tested, LABELS, shape="whole split"),
    _kind("fewer than fifty rows", "too-few-rows", too_few, shape="whole"),
    _kind("test row unlike any training row", "coverage", uncovered, shape="split", exact=False, ask=("likeness",)),
    _kind("turns out of order", "turns", turned(disordered), TURNED, shape="chat"),
    _kind("unknown role", "broken-row", turned(unknown_role), TURNED, shape="chat"),
    _kind("conversation without an answer", "broken-row", turned(unanswered), TURNED, shape="chat"),
    _kind("nothing to learn", "nothing-to-learn", turned(unweighted), TURNED, shape="chat"),
    _kind("system message that differs", "system-drift", turned(other_system), TURNED, shape="chat"),
    _kind("tools that the template drops", "template", with_tools, TURNED, shape="chat"),
    _kind("input over the context", "too-long", over_context),
)
