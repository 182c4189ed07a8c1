"""Disfluent questions over encyclopedia paragraphs as a task folder with documents: question → shortest answer, or `unknown`.

The paragraphs are published with a blank around every punctuation mark. `tidy` takes the blanks out and changes nothing else,
so the answer to a question is found again letter by letter, and the reference is the very span of the document. Questions that
the publication has broken (spreadsheet errors, stray backslashes, no question mark) are left out, and so are answers that are
no whole words of their document. A question marked `unknown` has no gold document.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from task_folder import data_file, json_lines, read_json_lines, run_builder, write_task_folder

from stepladder.domain.errors import DataError

NAME = "disfluent-qa"
SOURCE = (
    "the Python package bigbench 1.0.0 (disfl_qa; Disfl-QA CC BY 4.0, SQuAD CC BY-SA 4.0), cut into documents.jsonl and qa.jsonl"
)
DOCUMENTS = 65
QUESTIONS_EACH = 4  # 260 rows: 40 % of them, 104, are the test split
UNKNOWN = "unknown"
SEED = 7

TASK_TOML = """name = "disfluent-qa"
instruction = \"\"\"Answer the question from the documents. The speaker corrects themselves: answer what they mean in the end. Give the shortest answer, in the documents' own words. If the documents do not say, answer: unknown\"\"\"

[data]
examples = "examples.jsonl"
documents = "documents"

[[graders]]
type = "token_f1"

[[graders]]
type = "normalised_match"

[use]
calls_per_month = 2_000
facts_change = "yearly"
"""  # noqa: E501 - one paragraph, as the model reads it

# Each pattern matches blanks beside a mark; only the blanks go. Order matters: numbers before general punctuation.
_MARKS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\. \.) (?=\.)|(?<=\.) (?=\. \.)", ""),  # . . .  → ...
        (r"(?<![\d.,])(\d{1,3}(?: , \d{3})+)(?!\d)", "COMMAS"),  # 32 , 463 → 32,463; a list of years stays a list
        (r"(?<!\d)(\d{1,3}) \. (?=\d)", r"\1."),  # 8 . 7 → 8.7, but not "in 1962 . 14 leaders"
        (r"\b([A-Za-z]) \. (?=[A-Za-z] \.)", r"\1."),  # U . S . → U.S .
        (r" (?=[,.;:?!%)\]])", ""),
        (r"(?<=[(\[$£€]) ", ""),
        (r"(?<=°) (?=[CF]\b)", ""),
        (r"(?<=\w) - (?=\w)", "-"),
        (r"(?<=\d) – (?=\d)", "–"),
        (r"(?<=\w) / (?=\w)", "/"),
        (r"(?<=\w) (['’]) (?=(?:s|t|re|ve|ll|d|m)\b)", r"\1"),  # Victoria ' s → Victoria's
        (r"(?<=s) (['’])(?= )", r"\1"),  # farmers ' own → farmers' own
    )
)
_QUOTED = re.compile(r'" ?([^"]*?) ?"')


def tidy(text: str) -> str:
    """`text` without the blanks that surround its punctuation; every other character stays, in order."""
    text = " ".join(text.split())
    for pattern, replacement in _MARKS:
        if replacement == "COMMAS":
            text = pattern.sub(lambda match: match[0].replace(" , ", ","), text)
        else:
            text = pattern.sub(replacement, text)
    return _QUOTED.sub(r'"\1"', text) if text.count('"') % 2 == 0 else text


def locate(answer: str, document: str) -> str | None:
    """The first span of `document` that reads as `answer`, white space aside, and begins and ends with whole words; else None."""
    places = [index for index, character in enumerate(document) if not character.isspace()]
    flat = "".join(document[index] for index in places)
    wanted = "".join(answer.split())
    found = flat.find(wanted) if wanted else -1
    while found >= 0:
        start, end = places[found], places[found + len(wanted) - 1] + 1
        if not _inside_word(document, start) and not _inside_word(document, end):
            return document[start:end]
        found = flat.find(wanted, found + 1)
    return None


def trim(answer: str) -> str:
    """The answer without the mark that ended its sentence; the full stop of an initial ("U.S.") stays."""
    answer = answer.strip().rstrip(",;: ")
    return answer if re.search(r"\b[A-Za-z]\.$", answer) else answer.rstrip(". ")


def is_sound(question: str) -> bool:
    """Whether the publication left the question whole."""
    return question.rstrip().endswith("?") and "\\" not in question and len(question.split()) >= 4


def build(datasets: Path, folder: Path, *, documents: int = DOCUMENTS, questions_each: int = QUESTIONS_EACH) -> Path:
    """Write the task folder.

    Raises:
        DataError: A file is missing or not in the expected form, or too few documents have enough sound questions.
    """
    source = data_file(datasets, "rag_disflqa", source=SOURCE)
    try:
        texts = {row["doc_id"]: tidy(row["text"].replace("\ufeff", "")) for row in read_json_lines(source / "documents.jsonl")}
        rows = rows_by_document(texts, read_json_lines(source / "qa.jsonl"))
    except (OSError, KeyError, AttributeError) as error:
        raise DataError(source, None, f"not in the expected form ({error!r}).", f"Source: {SOURCE}.") from error
    chance = random.Random(SEED)
    fitting = sorted(name for name, found in rows.items() if len(found) >= questions_each)
    if len(fitting) < documents:
        raise DataError(source, None, f"only {len(fitting)} of {documents} documents have {questions_each} questions.")
    chosen = sorted(chance.sample(fitting, documents))
    examples = [row for name in chosen for row in chance.sample(rows[name], questions_each)]
    files = {f"documents/{name}.md": texts[name] + "\n" for name in chosen}
    return write_task_folder(folder, TASK_TOML, {**files, "examples.jsonl": json_lines(examples)})


def rows_by_document(texts: Mapping[str, str], questions: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of the examples file for every sound question, by the document it was asked about."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for question in questions:
        name, answer = question["doc_id"], trim(question["answer"].replace("\ufeff", ""))
        reference = UNKNOWN if answer == UNKNOWN else locate(answer, texts[name])
        if reference is None or not is_sound(question["question"]):
            continue
        sources = [] if reference == UNKNOWN else [f"documents/{name}.md"]
        row = {"id": question["id"], "prompt": tidy(question["question"]), "completion": reference, "sources": sources}
        rows[name].append(row)
    return rows


def _inside_word(text: str, index: int) -> bool:
    """Whether a cut before `text[index]` would part a word or number."""
    return 0 < index < len(text) and text[index - 1].isalnum() and text[index].isalnum()


if __name__ == "__main__":
    run_builder(build, NAME, __doc__)
