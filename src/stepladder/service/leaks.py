"""Test rows that something in the task gives away: its own prompts, its documents, or near-duplicates among the learned rows.

A document that answers a question is what retrieval is for. One that holds the question itself, word for word, beside the
expected answer, tests nothing but copying.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stepladder.data.normalise import own_texts, plain_form
from stepladder.domain.messages import Chunk, Example
from stepladder.domain.task import Task
from stepladder.service.task_data import TaskData
from stepladder.service.worlds import World
from stepladder.techniques.forms import own_forms, reference_text

FEWEST_WORDS = 6
"""A shorter input may stand in a text by chance ("where is my parcel")."""
NEARBY_WORDS = 60
"""How far from the question the expected answer counts as standing beside it."""
ACCEPTED = "leak-documents"
"""The code of the data check by which a task may accept documents that hold questions and answers: users may ask just these."""
NAMED = 5  # rows that a line names; the rest is counted


def find_leaks(data: TaskData, worlds: Sequence[World]) -> tuple[str, ...]:
    """What gives test rows away, a line for each text at fault, with what to do; empty when nothing does.

    Documents are left to `find_accepted` where `[data] accept` names their check.

    Args:
        worlds: All of the climb; one that stands here several times is looked at once.
    """
    rows = _test_rows(worlds)
    questions = _questions(data.examples, rows)
    holding = () if _is_accepted(data.task) else _in_documents(data, rows, questions)
    return (
        *_in_prompts(data.task, rows, questions),
        *(f"{said}. Take them out there, or the rows out of the data." for said in holding),
        *_in_learned_rows(data.clusters, _different(worlds)),
    )


def find_accepted(data: TaskData, worlds: Sequence[World]) -> tuple[str, ...]:
    """What documents give away and the user has accepted, without a full stop."""
    rows = _test_rows(worlds)
    return tuple(_in_documents(data, rows, _questions(data.examples, rows))) if _is_accepted(data.task) else ()


def _is_accepted(task: Task) -> bool:
    return ACCEPTED in task.settings.data.accept


def _different(worlds: Sequence[World]) -> list[World]:
    return list({world.fold: world for world in worlds}.values())


def _test_rows(worlds: Sequence[World]) -> list[Example]:
    return list({row.id: row for world in _different(worlds) for row in world.test.for_leak_check()}.values())


def _questions(examples: Sequence[Example], rows: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """Plain forms of every test row's input that are long enough to be known again: the whole, and what is its own."""
    whole = {example.id: example.input.text for example in examples}
    own = dict(zip(whole, own_texts(list(whole.values())), strict=True))
    forms = {row.id: dict.fromkeys((plain_form(whole[row.id]), own[row.id])) for row in rows}
    return {name: tuple(text for text in texts if len(text.split()) >= FEWEST_WORDS) for name, texts in forms.items()}


def _in_prompts(task: Task, rows: Sequence[Example], questions: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    prompts = {f"your prompt {form.own.file}": form.own.text for form in own_forms(task) if form.own is not None}
    for name, text in {"the instruction": task.settings.instruction, **prompts}.items():
        plain = plain_form(text)
        found = [row.id for row in rows if any(_stands(question, plain) for question in questions[row.id])]
        if found:
            yield f"{name} holds the input of {_named(found)} word for word. Take it out there, or the rows out of the data."


def _in_documents(data: TaskData, rows: Sequence[Example], questions: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Documents are looked at whole, since a passage may end between a question and its answer."""
    for document, text in _whole_documents(data.chunks).items():
        found = [row.id for row in rows if _holds_both(text, questions[row.id], plain_form(reference_text(data.task, row)))]
        if found:
            yield f"the document {document} holds the input and the answer of {_named(found)} word for word"


def _whole_documents(chunks: Sequence[Chunk]) -> dict[str, str]:
    """Plain form of each document, put together from its passages, which may overlap."""
    texts: dict[str, str] = {}
    ends: dict[str, int] = {}
    for chunk in sorted(chunks, key=lambda chunk: (chunk.document, chunk.start)):
        end = ends.get(chunk.document, chunk.start)
        between = "\n" if chunk.start > end else ""
        texts[chunk.document] = texts.get(chunk.document, "") + between + chunk.text[max(0, end - chunk.start) :]
        ends[chunk.document] = max(end, chunk.end)
    return {document: plain_form(text) for document, text in texts.items()}


def _holds_both(text: str, questions: Sequence[str], answer: str) -> bool:
    """Whether the answer stands near any place of the question: a page may list its questions before it answers them."""
    beside = (side for question in questions for at in _places(question, text) for side in _beside(text, at, len(question)))
    return bool(answer) and any(_stands(answer, side) for side in beside)


def _beside(text: str, at: int, length: int) -> tuple[str, str]:
    before = text[:at].rsplit(maxsplit=NEARBY_WORDS)[-NEARBY_WORDS:]
    after = text[at + length :].split(maxsplit=NEARBY_WORDS)[:NEARBY_WORDS]
    return " ".join(before), " ".join(after)


def _places(words: str, text: str) -> Iterator[int]:
    """Everywhere that `words` stand in `text` as whole words."""
    wanted, padded = f" {words} ", f" {text} "
    at = padded.find(wanted)
    while at >= 0:
        yield at
        at = padded.find(wanted, at + 1)


def _stands(words: str, text: str) -> bool:
    return f" {words} " in f" {text} "


def _in_learned_rows(clusters: Mapping[str, int], worlds: Sequence[World]) -> Iterator[str]:
    """A last look at what the split promises: no cluster both learns or chooses and confirms."""
    for world in worlds:
        learned = {clusters[row.id] for row in (*world.train, *world.validation, *world.tune_rows, *world.held_out)}
        found = [name for name in world.test.ids if clusters[name] in learned]
        if found:
            yield f"{_named(found)}: near-duplicates of rows that learn or choose. Take them out of the data."


def _named(found: Sequence[str]) -> str:
    listed = ", ".join(found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"test {'row' if len(found) == 1 else 'rows'} {listed}{more}"
