"""CLINC150 as a task folder: a question to an assistant → one of twenty intents.

The first two intents of each of the ten domains. A row that nearly repeats one already drawn, on either side of the split, is
left out, and so is a test row that means nearly what a training row means, as Stepladder measures it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from task_folder import data_file, is_near_duplicate, json_lines, run_builder, shingles, write_task_folder

from stepladder.data.duplicates import find_near
from stepladder.domain.errors import DataError
from stepladder.domain.messages import Example, Input, Message
from stepladder.models.embedder import load_embedder

NAME = "clinc150"
SOURCE = "github.com/clinc/oos-eval (data_small.json and domains.json, CC BY 3.0)"
INTENTS_EACH = 2
TRAIN_ROWS = 400
TEST_ROWS = 200
SEED = 7
ANSWER = Message("assistant", "none")  # near-duplicates are found by their inputs

TASK_TOML = """name = "clinc150"
instruction = "Read the question to the assistant and answer with its intent: {intents}."

[data]
train = "train.jsonl"
test = "test.jsonl"

[output]
labels = {labels}

[use]
calls_per_month = 10_000
"""


def build(datasets: Path, folder: Path, *, train_rows: int = TRAIN_ROWS, test_rows: int = TEST_ROWS) -> Path:
    """Write the task folder.

    Raises:
        DataError: A file is missing or not in CLINC150's form, or holds too few different questions.
    """
    source = data_file(datasets, "clinc150", source=SOURCE)
    try:
        domains = json.loads((source / "domains.json").read_text(encoding="utf-8"))
        data = json.loads((source / "data_small.json").read_text(encoding="utf-8"))
        intents = sorted(name for names in domains.values() for name in names[:INTENTS_EACH])
        seen: list[frozenset[str]] = []
        train = draw(data["train"], intents, train_rows, seen, source, seed=SEED)
        test = apart(train, draw(data["val"] + data["test"], intents, test_rows, seen, source, seed=SEED + 1))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(source, None, f"not in the expected form ({error!r}).", f"Source: {SOURCE}.") from error
    settings = TASK_TOML.format(intents=", ".join(intents), labels=json.dumps(intents))
    files = {"train.jsonl": as_rows("train", train), "test.jsonl": as_rows("test", test)}
    return write_task_folder(folder, settings, files)


def draw(
    pool: list[list[str]], intents: list[str], rows: int, seen: list[frozenset[str]], source: Path, *, seed: int
) -> list[tuple[str, str]]:
    """`rows` questions with their intents, as many of each, in mixed order; none nearly repeats one in `seen`, which grows."""
    chance = random.Random(seed)
    drawn: list[tuple[str, str]] = []
    left = {intent: [text for text, label in pool if label == intent] for intent in intents}
    for intent, texts in left.items():
        wanted = rows // len(intents)
        for text in chance.sample(texts, len(texts)):
            grams = shingles(text)
            if wanted and not is_near_duplicate(grams, seen):
                drawn.append((" ".join(text.split()), intent))
                seen.append(grams)
                wanted -= 1
        if wanted:
            raise DataError(source, None, f"too few different questions of '{intent}'.", f"Source: {SOURCE}.")
    chance.shuffle(drawn)
    return drawn


def apart(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The test rows that are no near-duplicates, in words or meaning, of a training row."""
    texts = [text for text, _ in (*train, *test)]
    near = find_near([Example(Input.of(text, id=str(place)), ANSWER) for place, text in enumerate(texts)], load_embedder())
    learned = set(near.text_of[: len(train)])
    leaking = learned | {one for pair in near.pairs for one in pair if not learned.isdisjoint(pair)}
    return [row for row, text in zip(test, near.text_of[len(train) :], strict=True) if text not in leaking]


def as_rows(part: str, drawn: list[tuple[str, str]]) -> str:
    rows = ({"id": f"{part}-{number}", "prompt": text, "completion": intent} for number, (text, intent) in enumerate(drawn, 1))
    return json_lines(rows)


if __name__ == "__main__":
    run_builder(build, NAME, __doc__)
