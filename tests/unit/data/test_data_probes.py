"""The built-in retention probes are sound, and a user's own are read beside them or named where they are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from small_tasks import write_task
from stepladder.data.probes import load_probes, read_probes
from stepladder.domain.errors import DataError
from stepladder.domain.probes import Checks, ChoiceProbe
from stepladder.domain.task import Task


def task_with(folder: Path, lines: list[str] | None = None) -> Task:
    write_task(folder, 12, use="" if lines is None else 'probes = "mine.jsonl"')
    if lines is not None:
        (folder / "mine.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Task.load(folder)


def test_the_built_in_set_is_small_and_complete(tmp_path: Path) -> None:
    probes = load_probes(task_with(tmp_path))
    assert (len(probes.instructions), len(probes.choices), len(probes.texts), len(probes.welcome)) == (30, 40, 20, 10)
    assert len(probes.replay) >= 60
    assert len(set(probes.prompts)) == len(probes.prompts)
    assert all(len(text.split()) >= 15 for text in probes.texts)
    right = [probe.options.index(probe.answer) for probe in probes.choices]
    assert all(right.count(place) == 10 for place in range(4))  # no place is worth guessing


def test_no_prompt_that_is_replayed_is_measured(tmp_path: Path) -> None:
    probes = load_probes(task_with(tmp_path))
    measured = {text.casefold() for text in (*probes.prompts, *(probe.question for probe in probes.choices))}
    assert not measured & {text.casefold() for text in probes.replay}


def test_own_probes_are_asked_beside_the_built_in_ones(tmp_path: Path) -> None:
    own = [
        {"prompt": "Say ahoy.", "checks": {"contains": ["ahoy"]}},
        {"question": "What is our product called?", "options": ["Pellwren", "Other"], "answer": "Pellwren"},
        {"text": "A paragraph of our own that is long enough to be measured."},
        {"welcome": "How do I return a teapot?"},
        {"replay": "Tell me about teapots."},
    ]
    probes = load_probes(task_with(tmp_path, [json.dumps(line) for line in own]))
    assert probes.instructions[-1].prompt == "Say ahoy."
    assert probes.choices[-1].answer == "Pellwren"
    assert probes.texts[-1].startswith("A paragraph of our own")
    assert (probes.welcome[-1], probes.replay[-1]) == ("How do I return a teapot?", "Tell me about teapots.")
    assert len(probes.texts) == 21


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"propmt": "hello"}', "no retention probe"),
        ('{"prompt": "hello", "checks": {}}', "at least one check"),
        ('{"prompt": "hello", "checks": {"most_wrods": 3}}', "checks.most_wrods"),
        ('{"prompt": "hello", "checks": {"matches": "("}}', "not a regular expression"),
        ('{"question": "a?", "options": ["x", "y"], "answer": "z"}', "must be one of"),
        ('{"question": "a?", "options": ["x", "x"], "answer": "x"}', "must differ"),
        ('{"text": "short"}', "text"),
        ("[1]", "not an object"),
    ],
)
def test_a_broken_probe_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    good = '{"welcome": "How are you?"}'
    with pytest.raises(DataError, match=said) as found:
        load_probes(task_with(tmp_path, [good, line]))
    assert found.value.line == 2
    assert found.value.path.name == "mine.jsonl"


def test_a_file_of_probes_that_is_missing_is_named(tmp_path: Path) -> None:
    task = task_with(tmp_path, [])
    (tmp_path / "mine.jsonl").unlink()
    with pytest.raises(DataError, match=r"mine\.jsonl"):
        load_probes(task)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=5, unique=True), st.data())
def test_any_choice_that_is_written_is_read_back(options: list[str], data: st.DataObject) -> None:
    probe = ChoiceProbe(question="?", options=tuple(options), answer=data.draw(st.sampled_from(options)))
    assert ChoiceProbe.model_validate_json(probe.model_dump_json()) == probe


def test_every_check_is_used_by_some_built_in_probe_or_tested_by_name(tmp_path: Path) -> None:
    used = {key for probe in load_probes(task_with(tmp_path)).instructions for key in probe.checks.model_fields_set}
    assert used == set(Checks.model_fields)


def test_a_file_without_probes_holds_none(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("\n\n", encoding="utf-8")
    assert read_probes(tmp_path / "none.jsonl") == []
