"""SNIPS custom intents as a task folder: a request to a voice assistant → its intent and slots as JSON.

100 training rows come from the `train_*.json` files and 105 test rows from the `validate_*.json` files, spread evenly over the
intents. A row whose sentence names one slot twice is left out (the answer is an object with one text a slot), and so is one
that nearly repeats a sentence already drawn, on either side of the split.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task_folder import data_file, is_near_duplicate, json_lines, run_builder, shingles, write_task_folder

from stepladder.domain.errors import DataError
from stepladder.domain.output import dump_json

NAME = "snips"
SOURCE = "github.com/sonos/nlu-benchmark (2017-06-custom-intent-engines, CC0)"
TRAIN_ROWS = 100
TEST_ROWS = 105
SEED = 7

TASK_TOML = """name = "snips"
instruction = \"\"\"Read the request to a voice assistant and answer with one JSON object.
intent: one of {intents}.
slots: an object with every detail the request gives; the key names its kind, the value repeats the request's words.\"\"\"

[data]
train = "train.jsonl"
test = "test.jsonl"

[output]
schema = "intent.schema.json"

[[graders]]
type = "json_fields"

[use]
calls_per_month = 10_000
"""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One request. `slots` in the order of the sentence."""

    id: str
    text: str
    intent: str
    slots: Mapping[str, str]


def build(datasets: Path, folder: Path, *, train_rows: int = TRAIN_ROWS, test_rows: int = TEST_ROWS) -> Path:
    """Write the task folder.

    Raises:
        DataError: A file is missing or not in SNIPS' form, or holds too few different sentences.
    """
    source = data_file(datasets, "snips_slots", source=SOURCE)
    train_pool, test_pool = read_pool(source, "train"), read_pool(source, "validate")
    if not train_pool or train_pool.keys() != test_pool.keys():
        raise DataError(source, None, "train_*.json and validate_*.json must name the same intents.", f"Source: {SOURCE}.")
    seen: list[frozenset[str]] = []
    train = draw(train_pool, train_rows, seen, random.Random(SEED), source)
    test = draw(test_pool, test_rows, seen, random.Random(SEED + 1), source)
    everything = [utterance for pool in (train_pool, test_pool) for rows in pool.values() for utterance in rows]
    schema = build_schema(everything)
    files = {
        "intent.schema.json": json.dumps(schema, indent=2) + "\n",
        "train.jsonl": json_lines(as_row(utterance, schema) for utterance in train),
        "test.jsonl": json_lines(as_row(utterance, schema) for utterance in test),
    }
    return write_task_folder(folder, TASK_TOML.format(intents=", ".join(train_pool)), files)


def read_pool(folder: Path, part: str) -> dict[str, list[Utterance]]:
    """Usable utterances of the files `PART_*.json` by intent, intents in alphabetical order."""
    pool: dict[str, list[Utterance]] = {}
    for path in sorted(folder.glob(f"{part}_*.json")):
        try:
            content = json.loads(_decode(path.read_bytes()))
            for intent, rows in content.items():
                found = (read_utterance(f"{part}-{intent}-{index:03d}", intent, row) for index, row in enumerate(rows))
                pool[intent] = [utterance for utterance in found if utterance is not None]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(path, None, f"not in SNIPS' form ({error!r}).", f"Source: {SOURCE}.") from error
    return pool


def read_utterance(id: str, intent: str, row: Mapping[str, Any]) -> Utterance | None:
    """An utterance from its labelled pieces; None when it is empty or names a slot twice."""
    text = " ".join("".join(piece["text"] for piece in row["data"]).split())
    pairs = [(str(piece["entity"]), " ".join(piece["text"].split())) for piece in row["data"] if "entity" in piece]
    pairs = [(name, words) for name, words in pairs if words]
    if not text or len({name for name, _ in pairs}) < len(pairs):
        return None
    return Utterance(id=id, text=text, intent=intent, slots=dict(pairs))


def draw(
    pool: Mapping[str, Sequence[Utterance]], rows: int, seen: list[frozenset[str]], chance: random.Random, source: Path
) -> list[Utterance]:
    """`rows` utterances in mixed order, intent by intent in turn; none nearly repeats one in `seen`, which grows with them."""
    waiting = {intent: chance.sample(list(utterances), len(utterances)) for intent, utterances in pool.items()}
    drawn: list[Utterance] = []
    while len(drawn) < rows:
        if not any(waiting.values()):
            raise DataError(source, None, f"only {len(drawn)} of {rows} rows differ enough.", f"Source: {SOURCE}.")
        for queue in waiting.values():
            utterance = _next_new(queue, seen)
            if utterance is not None and len(drawn) < rows:
                drawn.append(utterance)
                seen.append(shingles(utterance.text))
    chance.shuffle(drawn)
    return drawn


def build_schema(utterances: Iterable[Utterance]) -> dict[str, Any]:
    """JSON Schema of an answer: the intent, and any of the slots that occur with any intent."""
    utterances = list(utterances)
    slots = sorted({name for utterance in utterances for name in utterance.slots})
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["intent", "slots"],
        "properties": {
            "intent": {"type": "string", "enum": sorted({utterance.intent for utterance in utterances})},
            "slots": {
                "type": "object",
                "additionalProperties": False,
                "properties": {name: {"type": "string"} for name in slots},
            },
        },
    }


def as_row(utterance: Utterance, schema: Mapping[str, Any]) -> dict[str, str]:
    answer = dump_json({"intent": utterance.intent, "slots": dict(utterance.slots)}, schema)
    return {"id": utterance.id, "prompt": utterance.text, "completion": answer}


def _next_new(queue: list[Utterance], seen: Sequence[frozenset[str]]) -> Utterance | None:
    """Take utterances from the queue until one is new; None when there is none left."""
    while queue:
        utterance = queue.pop()
        if not is_near_duplicate(shingles(utterance.text), seen):
            return utterance
    return None


def _decode(data: bytes) -> str:
    """UTF-8, else latin-1: the published files hold both."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


if __name__ == "__main__":
    run_builder(build, NAME, __doc__)
