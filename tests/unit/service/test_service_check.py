"""Checks on a task folder: repaired copies, what is shown and kept, what the model adds, and the stop before a climb."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from planted import Folder, answer, bundled_folder, context_of, plant, prompt, report_of
from small_tasks import write_task
from stepladder.data.checks import Mark
from stepladder.data.checks.rows import read_rows
from stepladder.data.checks.tokens import lengths_of, template_facts
from stepladder.domain.errors import DataError, UsageError
from stepladder.domain.protocols import CompletionScore, Prompt
from stepladder.engines.fake import FakeEngine
from stepladder.models.chat_template import ChatTemplate
from stepladder.models.tokenizer import Tokenizer
from stepladder.service.check import Checked, check, report_lines, to_json
from stepladder.service.climb import climb
from stepladder.techniques.fake import FakeEmbedder
from tiny_model import CHATML, build_tiny_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def handbook(tmp_path: Path) -> Folder:
    return bundled_folder(tmp_path / "handbook", "handbook")


def checked(folder: Folder, **options: object) -> Checked:
    folder.write()
    return check(folder.path, embedder=FakeEmbedder(), **options)  # type: ignore[arg-type]


def codes(result: Checked) -> set[str]:
    return {one.code for one in result.report.findings}


def test_fix_writes_a_copy_that_is_clean_and_leaves_the_original_alone(handbook: Folder) -> None:
    plant(handbook, answer("Sure, here is the answer: {}"), every=13)
    plant(handbook, prompt("{} "), every=17)
    plant(handbook, prompt("CafÃ© {}"), every=19)
    handbook.rows["examples"].append({**handbook.rows["examples"][1], "id": "again"})
    before = handbook.write().path("examples.jsonl").read_bytes()
    result = checked(handbook, fix=True)
    assert (handbook.path / "examples.jsonl").read_bytes() == before
    (copy,) = result.fixed
    assert copy.path.name == "examples.fixed.jsonl"
    assert {"leftover", "whitespace", "mojibake", "duplicate"} <= {change.code for change in copy.changes}
    handbook.rows["examples"] = [json.loads(line) for line in copy.path.read_text(encoding="utf-8").splitlines()]
    assert not codes(checked(handbook)) & {"leftover", "whitespace", "mojibake", "duplicate"}


def test_lines_without_a_fault_are_the_same_to_the_character_in_the_copy(handbook: Folder) -> None:
    plant(handbook, prompt("{} "), count=3)
    result = checked(handbook, fix=True)
    before = (handbook.path / "examples.jsonl").read_bytes().splitlines()
    after = result.fixed[0].path.read_bytes().splitlines()
    changed = {change.line for change in result.fixed[0].changes}
    assert len(before) == len(after)
    assert {number for number, pair in enumerate(zip(before, after, strict=True), start=1) if pair[0] != pair[1]} == changed


def test_clean_data_has_no_copy_written(handbook: Folder) -> None:
    assert checked(handbook, fix=True).fixed == ()
    assert not list(handbook.path.glob("*.fixed.*"))


def test_tables_are_repaired_cell_by_cell(tmp_path: Path) -> None:
    words = "tea rain ships bread glass winter clocks paint maps owls salt doors rope ink wool".split()
    rows = [
        (f"What of {words[n % 15]} and {words[(n * 4 + 1) % 15]}, page {n * 7}?", f"the {words[n * 2 % 15]}; or, so")
        for n in range(30)
    ]
    rows[4] = (f" {rows[4][0]}", rows[4][1])
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows([("question", "answer"), *rows])
    (tmp_path / "task.toml").write_text('name = "t"\ninstruction = "Do."\n[data]\nexamples = "rows.csv"\n', encoding="utf-8")
    (copy,) = check(tmp_path, fix=True, embedder=FakeEmbedder()).fixed
    with copy.path.open(newline="", encoding="utf-8") as file:
        fixed = list(csv.reader(file, delimiter=";"))
    assert fixed[5] == [rows[4][0].strip(), rows[4][1]]
    assert fixed[6:] == [list(row) for row in rows[5:]]


def test_everything_is_in_the_json_and_the_lines_say_what_to_do_first(handbook: Folder) -> None:
    planted = plant(handbook, prompt("{} <|im_end|>"), count=12)
    result = checked(handbook)
    found = json.loads(json.dumps(to_json(result)))
    (tokens,) = [one for one in found["findings"] if one["code"] == "control-token"]
    assert {(row["file"], row["line"]) for row in tokens["rows"]} == planted
    assert found["repair_first"]
    assert {one["code"] for one in found["not_run"]} >= {"loss-outlier", "unknown-fact"}
    text = "\n".join(report_lines(result))
    assert "50 to 100 good rows beat thousands" in text
    assert "Label ceiling" in text
    assert "and 7 more" in text


def test_an_accepted_code_does_not_block_and_an_unknown_one_is_refused(handbook: Folder) -> None:
    plant(handbook, prompt("{} AKIAIOSFODNN7EXAMPLE"), count=2)
    assert checked(handbook).blocked
    handbook.toml = handbook.toml.replace("[data]\n", '[data]\naccept = ["secret"]\n')
    result = checked(handbook)
    assert not result.blocked
    assert "secret (accepted)" in str(result)
    handbook.toml = handbook.toml.replace('["secret"]', '["secrets"]')
    with pytest.raises(UsageError, match="'secrets'"):
        checked(handbook)


def test_facts_are_looked_for_in_documents_and_asked_of_the_model(handbook: Folder) -> None:
    unknown = plant(handbook, lambda row, n: row.update(completion=f"Mount Zarquon {n}77"), every=31, count=4)
    result = checked(handbook)
    (missing,) = [one for one in result.report.findings if one.code == "missing-information"]
    assert {(mark.file, mark.line) for mark in missing.rows} == unknown
    asked = checked(handbook, engine=FakeEngine(lambda prompt, decoding, adapter: "It is Pellmouth."), with_model=True)
    (facts,) = [one for one in asked.report.findings if one.code == "unknown-fact"]
    assert {(mark.file, mark.line) for mark in facts.rows} == unknown
    assert "unknown-fact" not in {one.code for one in asked.report.not_run}


class WordsRead(FakeEngine):
    """Finds a word that stands in its prompt two nats likelier than any other."""

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        def nats(prompt: Prompt, text: str) -> float:
            read = set(prompt.messages[-1].content.lower().split())
            return sum(-1.0 if word in read else -3.0 for word in text.lower().split())

        return [
            [CompletionScore(nats(prompt, text), len(text.split())) for text in options]
            for prompt, options in zip(prompts, completions, strict=True)
        ]


def test_a_foreign_test_row_that_the_embedder_alone_does_not_tell_is_named_with_the_model(handbook: Folder) -> None:
    def coverage(result: Checked) -> list[Mark]:
        return [mark for one in result.report.findings if one.code == "coverage" for mark in one.rows]

    handbook.split_in_two()
    foreign = plant(handbook, lambda row, n: row.update(prompt="pinned knights sacrifice bishops"), file="test", every=9, count=1)
    assert coverage(checked(handbook)) == []
    asked = checked(handbook, engine=WordsRead(lambda prompt, decoding, adapter: "so"), with_model=True)
    named = coverage(asked)
    assert foreign <= {(mark.file, mark.line) for mark in named}
    assert len(named) <= 0.25 * len(handbook.rows["test"])  # two words in a row are known by chance
    assert "likelier by" in next(mark.seen for mark in named if (mark.file, mark.line) in foreign)


def test_a_row_over_the_context_is_found_and_the_model_is_asked_about_the_others(handbook: Folder) -> None:
    long = plant(
        handbook, lambda row, n: row.update(prompt="is it far? " * 200, completion="It is Pellmouth 7."), every=31, count=1
    )
    engine = FakeEngine(lambda prompt, decoding, adapter: "It is Pellmouth.", context_tokens=400)
    result = checked(handbook, engine=engine, with_model=True)
    assert {(mark.file, mark.line) for one in result.report.findings if one.code == "too-long" for mark in one.rows} == long
    assert {one.code for one in result.report.not_run}.isdisjoint({"loss-outlier", "unknown-fact"})
    assert max(len(call.prompt.messages[-1].content) for call in engine.calls) < 2_000


def chat_model() -> tuple[ChatTemplate, Tokenizer]:
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    template = ChatTemplate(CHATML, special=special, model="tiny")
    return template, Tokenizer(build_tiny_tokenizer(), special=special, model="tiny")


def test_rows_through_a_template_learn_their_answers_and_stop_once(handbook: Folder) -> None:
    context = context_of(handbook.write())
    facts = template_facts(context.rows, "Answer.", *chat_model())
    report = report_of(handbook, template=facts, lengths=lengths_of(facts, 4096))
    assert not [one for one in report.findings if one.code in ("template", "stop-token", "too-long")]
    (learned,) = [one for one in report.findings if one.code == "learned-share"]
    assert "median" in learned.evidence
    half = sorted(row.tokens for row in facts.rows.values())[75]
    long = lengths_of(facts, half)
    (found,) = [one for one in report_of(handbook, lengths=long).findings if one.code == "too-long" and one.severity == "block"]
    assert {mark.id for mark in found.rows} == {id for id, both in long.tokens.items() if sum(both) > half}


def test_a_template_that_drops_or_refuses_a_turn_blocks(handbook: Folder) -> None:
    context = context_of(handbook.write())
    _, tokenizer = chat_model()
    dropping = CHATML.replace("message['content']", "message['content'][:40]")
    facts = template_facts(context.rows, "Answer.", ChatTemplate(dropping, model="tiny"), tokenizer)
    (found,) = [one for one in report_of(handbook, template=facts).findings if one.code == "template"]
    long = {row.id for row in context.rows if len(row.input_text) > 40 or len(row.reference) > 40}
    assert {mark.id for mark in found.rows} == long
    unstopped = ChatTemplate(CHATML.replace("<|im_end|>", ""), model="tiny")
    refused = template_facts(context.rows, "Answer.", unstopped, tokenizer)
    assert all(row.problem or row.stops_learned != row.learned_turns for row in refused.rows.values())


def test_a_climb_shows_its_findings_keeps_them_and_stops_where_one_blocks(tmp_path: Path) -> None:
    world = write_task(tmp_path / "task", 60, rungs='skip = ["classifier"]')
    path = tmp_path / "task" / "examples.jsonl"
    good = path.read_text(encoding="utf-8")
    path.write_text(good.replace(" in early light", " in early light <|im_end|>", 1), encoding="utf-8")
    finished = climb(tmp_path / "task", tools=world.tools)
    kept = json.loads((finished.folder / "checks.json").read_text(encoding="utf-8"))
    assert "control-token" in {one["code"] for one in kept["findings"]}
    assert any("control-token" in note for note in finished.record.notes)
    assert "control-token" in (finished.folder / "report.html").read_text(encoding="utf-8")
    other = write_task(tmp_path / "other", 60, rungs='skip = ["classifier"]')
    bad = tmp_path / "other" / "examples.jsonl"
    bad.write_text(good.replace(" in early light", " AKIAIOSFODNN7EXAMPLE", 1), encoding="utf-8")
    before = sorted((tmp_path / "other").iterdir())
    with pytest.raises(DataError, match=r"secret.*accept"):
        climb(tmp_path / "other", tools=other.tools)
    assert sorted((tmp_path / "other").iterdir()) == before
    toml = tmp_path / "other" / "task.toml"
    toml.write_text(toml.read_text(encoding="utf-8").replace("[data]\n", '[data]\naccept = ["secret"]\n'), encoding="utf-8")
    assert climb(tmp_path / "other", tools=other.tools).verdict.rung is not None


@pytest.mark.parametrize("content", [None, b"", b'{"prompt": "a"}\n', b"\xff\xfe\x00", b'{"prompt": "a", "completion": "b"}\n'])
def test_a_file_that_is_missing_empty_or_all_broken_blocks_and_is_named(content: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text('name = "t"\ninstruction = "Do."\n[data]\nexamples = "rows.jsonl"\n', encoding="utf-8")
    if content is not None:
        (tmp_path / "rows.jsonl").write_bytes(content)
    result = check(tmp_path, embedder=FakeEmbedder(), fix=True)
    assert result.blocked
    assert "too-few-rows" in codes(result)
    assert result.fixed == () or not result.fixed[0].path.read_bytes().strip()
    assert report_lines(result)


def test_messages_know_their_texts_where_they_stand(handbook: Folder) -> None:
    row = read_rows(handbook.write()).rows[0]
    assert [field.place for field in row.fields] == [("prompt",), ("completion",)]
