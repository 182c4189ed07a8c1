"""Only the fine-tune: from a task folder to an adapter folder with measured numbers, without a test row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import stepladder
from small_tasks import write_task
from stepladder.domain.errors import DataError, ModelError, RunError, UsageError
from stepladder.domain.prediction import Generation
from stepladder.files import lock
from stepladder.service.setup import ClimbOptions, Tools, Watcher, make_base
from stepladder.service.task_data import load_task_data
from stepladder.service.tune import fine_tune
from stepladder.techniques.fake import FakeTuner


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_CACHE", str(tmp_path / "cache"))


def fake_tuner(tools: Tools) -> FakeTuner:
    assert isinstance(tools.tuner, FakeTuner)
    return tools.tuner


def test_it_learns_train_rows_stops_by_others_and_never_asks_about_a_test_row(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 320).tools
    done = stepladder.tune(tmp_path / "things", tools=tools)
    splits = load_task_data(stepladder.Task.load(tmp_path / "things"), tools.embedder, write=False).splits
    split_of = splits.split_of
    (training,) = fake_tuner(tools).trainings
    assert {split_of[row.id] for row in training.rows} == {"train"}
    assert {split_of[row.id] for row in training.held_out} == {"validation"}
    asked = {call.prompt.id for call in tools.engine.calls}  # type: ignore[attr-defined]
    assert asked == {row.id for row in training.held_out}
    assert (done.rows, done.held_out_rows) == (len(training.rows), len(training.held_out))
    assert done.folder == tmp_path / "things" / "tuned" / "sft"
    assert done.score.value > done.untuned_score.value
    assert not (tmp_path / "things" / "runs").exists()


def test_a_small_data_set_is_learned_whole_but_for_the_rows_that_stop_it(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 60).tools
    done = stepladder.tune(tmp_path / "things", tools=tools)
    (training,) = fake_tuner(tools).trainings
    assert done.rows + done.held_out_rows == 60
    assert not {row.id for row in training.rows} & {row.id for row in training.held_out}


def test_the_card_says_what_was_measured_and_how_to_ask(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 130).tools
    for _ in range(2):  # a second call writes the section anew, not once more
        done = stepladder.tune(tmp_path / "things", output=tmp_path / "mine", tools=tools)
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert card.count("## Measured on the task") == 1
    assert f"| tuned | {100 * done.score.value:.0f} %" in card
    assert f"labels, {done.held_out_rows} held-out rows" in card
    assert "[system]\nSay what kind of thing it is.\n[user]\n{input}" in card


@pytest.mark.parametrize(("untuned", "tuned", "alarmed"), [(0, 1, True), (0, 0, False), (1, 1, False), (1, 0, False)])
def test_a_tuned_model_that_runs_on_is_named(tmp_path: Path, untuned: int, tuned: int, alarmed: bool) -> None:
    """Whether all answers of the base, and all of the tuned model, reach the token limit."""
    tools = write_task(tmp_path / "things", 130).tools
    engine, answer = tools.engine, tools.engine.generate  # type: ignore[union-attr]

    def run_on(prompts: Any, decoding: Any, *, adapter: Path | None = None, **options: Any) -> list[Generation]:
        cut = bool(untuned if adapter is None else tuned)
        found = answer(prompts, decoding, adapter=adapter, **options)
        return [replace(one, cut=cut) for one in found]

    engine.generate = run_on  # type: ignore[method-assign, union-attr, assignment]
    done = stepladder.tune(tmp_path / "things", tools=tools)
    assert (done.untuned_cut_share, done.cut_share, done.runs_on) == (untuned, tuned, alarmed)
    assert ("It does not end its turn: 100% of its answers reach the token limit, untuned 0%." in str(done)) == alarmed
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert f"| tuned | {100 * done.score.value:.0f} %" in card
    assert f"| {tuned:.0%} |\n" in card


def test_an_own_prompt_is_what_is_trained(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 130, top='[[prompts]]\nfile = "ours.txt"\n').tools
    (tmp_path / "things" / "ours.txt").write_text("Which of the four is it? {input}", encoding="utf-8")
    assert stepladder.tune(tmp_path / "things", tools=tools).form == "own:ours.txt"
    (training,) = fake_tuner(tools).trainings
    assert all(row.messages[0].content.startswith("Which of the four is it? A ") for row in training.rows)


def test_a_folder_of_the_users_own_is_never_replaced(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 130).tools
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match="precious holds something else"):
        stepladder.tune(tmp_path / "things", output=tmp_path / "precious", tools=tools)
    assert fake_tuner(tools).trainings == []
    assert (tmp_path / "precious" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_two_trainings_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 130).tools
    with lock(tmp_path / ".mine.lock"), pytest.raises(RunError, match="Another process is training into"):
        stepladder.tune(tmp_path / "things", output=tmp_path / "mine", tools=tools)


def test_a_model_that_lies_elsewhere_cannot_be_tuned(tmp_path: Path) -> None:
    tools = replace(write_task(tmp_path / "things", 130).tools, tuner=None)
    with pytest.raises(ModelError, match="The weights of 'fake' are not on this machine"):
        stepladder.tune(tmp_path / "things", tools=tools)


def test_data_that_cannot_be_read_is_named_before_anything_is_written(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 130).tools
    (tmp_path / "things" / "examples.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"examples.jsonl:1"):
        stepladder.tune(tmp_path / "things", tools=tools)
    assert not (tmp_path / "things" / "tuned").exists()


def test_preference_tuning_goes_on_from_the_fine_tune_that_it_trains_first(tmp_path: Path) -> None:
    things = tmp_path / "things"
    tools = write_task(things, 130).tools
    base = make_base(stepladder.Task.load(things), ClimbOptions(), Watcher(), tools=tools)
    rows = [replace(row, rejected=replace(row.reference, content="none of these")) for row in base.data.examples]
    base = replace(base, data=replace(base.data, examples=tuple(rows)))
    done = fine_tune(base, things / "tuned" / "dpo", method="dpo", start=things / "tuned" / "sft")
    sft, dpo = fake_tuner(tools).trainings
    assert (sft.folder, dpo.folder) == (things / "tuned" / "sft", things / "tuned" / "dpo")
    assert (done.method, done.folder, done.rows) == ("dpo", dpo.folder, len(dpo.rows))
    again = fine_tune(base, tmp_path / "other", method="dpo", start=sft.folder, trained=True)
    assert again.adapter_sha256 == done.adapter_sha256
    assert len(fake_tuner(tools).trainings) == 3


def test_preference_tuning_without_preference_rows_is_refused(tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 130).tools
    with pytest.raises(DataError, match="needs rows with a non-preferred answer, to learn and to stop by; there are 0 and 0"):
        stepladder.tune(tmp_path / "things", method="dpo", tools=tools)
    assert fake_tuner(tools).trainings == []


@pytest.mark.parametrize(
    ("options", "says"), [({"method": "ppo"}, "'ppo' is no way to tune"), ({"start": "x"}, "only preference tuning goes on")]
)
def test_what_does_not_make_sense_is_refused_before_anything_is_read(options: dict[str, str], says: str, tmp_path: Path) -> None:
    tools = write_task(tmp_path / "things", 130).tools
    with pytest.raises(UsageError, match=says):
        stepladder.tune(tmp_path / "things", tools=tools, **options)  # type: ignore[arg-type]
