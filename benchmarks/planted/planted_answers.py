"""Faults in the answers: empty, cut, repeated, echoed, in another form than the rest, against `[output]`, or wrong."""

from __future__ import annotations

import json
import re
from random import Random
from typing import Any

from planted_copy import Copy, Kind, Plant, Row, Spot, in_answer, in_json, in_prompt, rewriting
from planted_texts import EVERY, PROSE

SPANS = ("handbook", "disfluent-qa")
LABELS = ("repairs", "clinc150")
OPEN_LABELS = ("repairs-open", "clinc150")  # no [output] names the labels
SCHEMA = ("tickets", "snips")
OPEN_JSON = ("tickets-open", "snips-open")
DATED = ("tickets-dated", "snips-dated")
PLACEHOLDERS = ("N/A", "n/a", "null", "TODO", "None", "-", "?", "NaN", "tbd", "...")
NEW_FACTS = (
    "Please ask for Dr Halvorsen.",
    "Your reference is QX-48213.",
    "That was on 17 February 1987.",
    "It costs £8,341 in all.",
    "The office is at 93 Vintry Lane.",
    "Call extension 7719.",
    "Ms Oyelaran will see to it.",
    "It is 6,204 km away.",
)


# Nothing there, or not all of it ---------------------------------------------------------------------------------------


def blank(text: str, chance: Random) -> str:
    return chance.choice(("", " ", "\n", "—", "..."))


def placeholder(text: str, chance: Random) -> str:
    return chance.choice(PLACEHOLDERS)


def cut(text: str, chance: Random) -> str | None:
    """The text up to somewhere in its second half, inside a sentence."""
    at = chance.randrange(len(text) // 2, len(text) - 4)
    left = text[:at].rstrip()
    return None if left[-1] in '.!?)"' or text[at:].strip(" .") == "" else left


def cut_json(text: str, chance: Random) -> str:
    return text[: chance.randrange(len(text) // 3, len(text) - 1)]


def repeated(text: str, chance: Random) -> str:
    sentences = re.split(r"(?<=[.!?]) ", text)
    word = chance.choice([word for word in text.split(" ") if len(word) > 2])
    return chance.choice(
        (text + f" {sentences[-1]}" * 4, text + f" {word}" * 12, f"{text} " + " ".join(text.split(" ")[-3:] * 6))
    )


def echoed(row: Row, chance: Random) -> Row:
    return {**row, "completion": chance.choice((row["prompt"], f"{row['prompt']} {row['completion']}"))}


def told(row: Row, chance: Random) -> Row:
    announced = chance.choice(("Label: {}", "Answer: {}", "Category: {}", "Expected output: {}", "Target: {}"))
    return {**row, "prompt": f"{row['prompt']}\n{announced.format(row['completion'])}"}


def told_whole(row: Row, chance: Random) -> Row:
    return {**row, "prompt": f"{row['prompt']}\n\n{row['completion']}"}


def lengthened(part: str) -> Plant:
    """A text as long as forty others: rows run together."""

    def plant(copy: Copy, chance: Random) -> Spot:
        file, index, row = copy.draw(chance)
        return copy.put(file, index, {**row, part: " ".join(chance.sample(copy.texts(file, part), 40))})

    return plant


def shortened(text: str, chance: Random) -> str:
    return chance.choice(("Yes.", "OK.", "See us.", "Fine.", "Done."))


# Another form than the rest ---------------------------------------------------------------------------------------------


def chatty(text: str, chance: Random) -> str:
    forms = (
        "As an AI language model, I cannot be sure. {}",
        "Sure, here is the answer:\n{}",
        "{} I hope this helps!",
        "```\n{}\n```",
        "<think>The user wants this put simply.</think>{}",
        "Answer: {}",
        "Certainly! Here's a rewritten version: {}",
        "{} Let me know if you need anything else!",
        "I'm sorry, but as an AI I can't help with that.",
    )
    return chance.choice(forms).format(text)


def shouted(text: str, chance: Random) -> str:
    return text.upper()


def uncapitalised(text: str, chance: Random) -> str | None:
    return text[0].lower() + text[1:] if text[0].isupper() else None


def lacking_key(value: dict[str, Any], chance: Random) -> dict[str, Any]:
    value.pop(chance.choice(list(value)))
    return value


def further_key(value: dict[str, Any], chance: Random) -> dict[str, Any]:
    return {**value, chance.choice(("note", "confidence", "explanation", "Category")): chance.choice(("sure", 0.93, True))}


def renamed_key(value: dict[str, Any], chance: Random) -> dict[str, Any]:
    name = chance.choice(list(value))
    other = chance.choice((name.upper(), name.title(), f"{name}s", f"{name}_"))
    return {other if key == name else key: own for key, own in value.items()}


def other_type(value: dict[str, Any], chance: Random) -> dict[str, Any]:
    """A boolean, a text or an object in another type."""
    name = chance.choice(list(value))
    own = value[name]
    words: dict[str, tuple[Any, ...]] = {
        "bool": ("true" if own else "false", "yes" if own else "no"),
        "NoneType": ("null", "none"),
        "str": ([own], {"value": own}, 7),
        "dict": (json.dumps(own), [own]),
    }
    return {**value, name: chance.choice(words[type(own).__name__])}


def unlisted(value: dict[str, Any], chance: Random) -> dict[str, Any]:
    """A value the schema does not list: misspelt, or in other letter case."""
    name = "category" if "category" in value else "intent"
    return {**value, name: misspelt(value[name], chance)}


def misspelt(label: str, chance: Random) -> str:
    at = chance.randrange(1, len(label) - 1)
    return chance.choice(
        (label[:at] + label[at + 1 :], label[:at] + label[at] + label[at:], label.upper(), f"{label}s", f"{label}.")
    )


def respelt(label: str, chance: Random) -> str:
    """The same label in another spelling."""
    return chance.choice(
        (label.upper(), label.title(), label.replace("_", "-").capitalize(), label.replace("_", " ").title(), f"{label}s")
    )


def respelt_value(value: dict[str, Any], chance: Random) -> dict[str, Any]:
    name = "category" if "category" in value else "intent"
    return {**value, name: respelt(value[name], chance)}


def wordy(text: str, chance: Random) -> str:
    return chance.choice(("The answer is {}", "{} because the message says so", "I think it is {}")).format(text)


def prose_answer(text: str, chance: Random) -> str:
    return chance.choice(
        ("The customer wants to know about the parcel.", "I would file this under the usual heading.", f"Here: {text}")
    )


def other_date(value: dict[str, Any], chance: Random) -> dict[str, Any]:
    year, month, day = value["received"].split("-")
    forms = (
        f"{day}/{month}/{year}",
        f"{day}.{month}.{year}",
        f"{int(day)} March {year}",
        f"March {int(day)}, {year}",
        f"{month}/{day}/{year}",
    )
    return {**value, "received": chance.choice(forms)}


def new_fact(text: str, chance: Random) -> str:
    return f"{text} {chance.choice(NEW_FACTS)}"


def new_number(row: Row, chance: Random) -> Row | None:
    """A number of the answer, changed to one that the input does not hold."""
    numbers = [match for match in re.finditer(r"\d{2,}", row["completion"]) if match[0] in row["prompt"]]
    if not numbers:
        return None
    number = chance.choice(numbers)
    other = str(int(number[0]) + chance.randrange(3, 60))
    if other in row["prompt"]:
        return None
    return {**row, "completion": row["completion"][: number.start()] + other + row["completion"][number.end() :]}


def made_up_span(text: str, chance: Random) -> str:
    return chance.choice(("Oddvar Brekkestad", "£873.20", "the Quillfeather Arms", "ZK-77120", "19 October 1973", "4,417 metres"))


def wrong_label(copy: Copy, chance: Random) -> Spot:
    file, index, row = copy.draw(chance)
    texts = copy.texts(file, "completion")
    labels = sorted({text for text in texts if texts.count(text) > 2} - {row["completion"]})
    return copy.put(file, index, {**row, "completion": chance.choice(labels)})


def _kind(name: str, codes: str, plant: Plant, sets: tuple[str, ...], *, exact: bool = True, hard: str = "") -> Kind:
    return Kind(name, frozenset(codes.split()), plant, sets, exact, hard=hard)


KINDS = (
    _kind("empty answer", "empty", in_answer(blank), EVERY),
    _kind("empty input", "empty", in_prompt(blank), EVERY),
    _kind("placeholder for an answer", "empty off-output", in_answer(placeholder), EVERY),
    _kind("answer cut inside a sentence", "cut-answer", in_answer(cut), PROSE, exact=False),
    _kind("JSON answer cut", "off-output format-json cut-answer", in_answer(cut_json), (*SCHEMA, *OPEN_JSON)),
    _kind("repetition", "repetition", in_answer(repeated), PROSE),
    _kind("answer repeats its input", "echo", rewriting(echoed), (*SPANS, *PROSE)),
    _kind("input announces its answer", "answer-in-input", rewriting(told), (*LABELS, *SCHEMA, "handbook")),
    _kind("input holds its whole answer", "answer-in-input", rewriting(told_whole), PROSE),
    _kind("answer as long as forty", "length too-long", lengthened("completion"), (*SPANS, *PROSE)),
    _kind("input as long as forty", "length too-long", lengthened("prompt"), EVERY),
    _kind("answer of a word", "length", in_answer(shortened), PROSE, exact=False),
    _kind("leftover of a chat model", "leftover", in_answer(chatty), (*SPANS, *PROSE)),
    _kind("answer in capital letters", "format-case", in_answer(shouted), PROSE),
    _kind("answer begun with a small letter", "format-case", in_answer(uncapitalised), PROSE),
    _kind("missing key, schema", "off-output", in_json(lacking_key), ("tickets",)),
    _kind("unknown key, schema", "off-output", in_json(further_key), SCHEMA),
    _kind("wrong type, schema", "off-output", in_json(other_type), SCHEMA),
    _kind("value that is not listed, schema", "off-output", in_json(unlisted), SCHEMA),
    _kind("words for JSON, schema", "off-output", in_answer(prose_answer), SCHEMA),
    _kind("missing key, no schema", "format-keys", in_json(lacking_key), OPEN_JSON),
    _kind("unknown key, no schema", "format-keys", in_json(further_key), OPEN_JSON),
    _kind("renamed key, no schema", "format-keys", in_json(renamed_key), OPEN_JSON),
    _kind("wrong type, no schema", "format-types", in_json(other_type), OPEN_JSON),
    _kind("words for JSON, no schema", "format-json", in_answer(prose_answer), OPEN_JSON),
    _kind("label in another spelling, JSON", "label-spelling", in_json(respelt_value), OPEN_JSON),
    _kind("misspelt label", "off-output", in_answer(misspelt), ("repairs",)),
    _kind("words around a label", "off-output", in_answer(wordy), ("repairs",)),
    _kind("label in another spelling, no list", "label-spelling", in_answer(respelt), OPEN_LABELS),
    _kind("date in another form", "format-values", in_json(other_date), DATED),
    _kind("answer with a fact of its own", "missing-information", in_answer(new_fact), PROSE, exact=False),
    _kind("number changed in the answer", "missing-information", rewriting(new_number), PROSE, exact=False),
    _kind("answer that no document holds", "missing-information", in_answer(made_up_span), SPANS, exact=False),
    _kind("wrong label", "label-doubt", wrong_label, LABELS, exact=False),
)
