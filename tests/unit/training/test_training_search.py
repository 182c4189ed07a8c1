"""The search for a learning rate: three short runs, the best by held-out loss, and nothing searched twice."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stepladder.domain.errors import DiskError, ModelError
from stepladder.domain.protocols import ModelIdentity, SilentProgress, Tuned, Unwatched
from stepladder.domain.task import LoraSettings
from stepladder.files import FailingDisk, writing_to
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.finetune import Base
from stepladder.training.loop import Diverged
from stepladder.training.presets import search_epochs
from stepladder.training.search import choose_rate, tune_searching
from tiny_training import Watcher, build_base, tune
from tiny_training import build_rows as rows_of

IDENTITY = ModelIdentity("tiny", "transformers", "aa" * 32, "bb" * 32, "cc" * 32, context_tokens=96, dtype="float32")
LOW = LoraSettings(rank=2, learning_rate=1e-4, epochs=4, batch_size=4, search_learning_rate=True)


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.advanced = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, count: int = 1, detail: str = "") -> None:
        self.advanced += count


@pytest.fixture
def base(build_llama: Callable[..., Any]) -> Base:
    return Base(build_llama(), IDENTITY, decode=lambda ids: " ".join(map(str, ids)), stop_ids={2})


def test_a_rate_that_is_too_low_is_tripled_aloud_and_trained_with(
    base: Base, build_rows: Callable[..., list[EncodedRow]], tmp_path: Path
) -> None:
    rows, held_out, notes = build_rows(10), build_rows(6, seed=9, name="unseen"), Notes()
    tuned = tune_searching(base, rows, held_out, LOW, folder=tmp_path / "a", seed=0, progress=notes)
    said = next(note for note in notes.notes if note.startswith("Learning-rate search"))
    assert "after 12 steps at 3.3e-05: " in said
    assert said.endswith("Chosen: 0.0003.")
    settings = json.loads((tuned.folder / "stepladder.json").read_text(encoding="utf-8"))["pins"]["settings"]
    assert settings["learning_rate"] == pytest.approx(3e-4)
    assert settings["epochs"] == 4
    assert not (tmp_path / "a.search").exists()
    again = Notes()
    assert tune_searching(base, rows, held_out, LOW, folder=tmp_path / "a", seed=0, progress=again) == tuned
    assert again.advanced == 3  # the three rates from the record; not a step was run


def test_the_preset_stands_unless_another_is_clearly_better() -> None:
    preset, noisy = (1.0, 2.0, 3.0), (0.2, 2.1, 3.3)
    assert choose_rate({1.0: preset, 3.0: noisy, 0.33: (1.5, 2.5, 3.5)}, 1.0) == 1.0
    assert choose_rate({1.0: preset, 3.0: (0.9, 1.8, 2.9), 0.33: (1.5, 2.5, 3.5)}, 1.0) == 3.0


def test_a_rate_that_diverges_has_lost() -> None:
    inf = float("inf")
    assert choose_rate({1.0: (1.0, 2.0), 3.0: (inf, inf), 0.33: (1.1, 2.2)}, 1.0) == 1.0
    assert choose_rate({1.0: (inf, inf), 3.0: (inf, inf), 0.33: (1.1, 2.2)}, 1.0) == 0.33


def test_a_held_out_row_without_a_loss_is_named_by_the_search_too(
    base: Base, build_rows: Callable[..., list[EncodedRow]], tmp_path: Path
) -> None:
    poison = next(token for token in range(3, 61) if not any(token in row.token_ids for row in build_rows(10)))
    base.model.get_input_embeddings().register_forward_hook(
        lambda module, given, embedded: torch.where((given[0] == poison)[..., None], torch.inf, embedded)
    )
    held_out = [*build_rows(3), EncodedRow("planted", (20, poison, 7, 2), (0.0, 0.0, 1.0, 1.0))]
    notes = Notes()
    with pytest.raises(Diverged, match="the loss of held-out row planted is not a number"):
        tune_searching(base, build_rows(10), held_out, LOW, folder=tmp_path / "a", seed=0, progress=notes)
    assert any(note.startswith("Learning-rate search") and "0.0003: inf" in note for note in notes.notes)


def test_a_short_run_is_about_twenty_steps_of_whole_epochs() -> None:
    assert search_epochs(40, epochs=10, batch_size=4) == 2
    assert search_epochs(1000, epochs=4, batch_size=16) == 1
    assert search_epochs(8, epochs=3, batch_size=4) == 3


def test_a_search_without_held_out_rows_is_refused(
    base: Base, build_rows: Callable[..., list[EncodedRow]], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="rows held out to choose by"):
        tune_searching(base, build_rows(8), [], LOW, folder=tmp_path / "a", seed=0, progress=SilentProgress())


# What happens in between

FEW = LoraSettings(rank=2, learning_rate=5e-3, epochs=1, batch_size=4, search_learning_rate=True)


def search(folder: Path, **options: Any) -> tuple[Tuned, list[str]]:
    """A search over two steps a rate, and the training after it."""
    watcher = Watcher()
    given = {"folder": folder, "seed": 0, "progress": watcher, **options}
    return tune_searching(build_base(), rows_of(6), rows_of(3, seed=9, name="unseen"), FEW, **given), watcher.notes


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return search(tmp_path_factory.mktemp("searched") / "a")[0]


def fails_and_goes_on(folder: Path, at: int, searched: Tuned) -> None:
    with writing_to(FailingDisk(at, errno.ENOSPC)), pytest.raises(DiskError, match="cannot be written below .*: No space left"):
        search(folder)
    tuned, notes = search(folder)
    assert not any("cannot be" in note for note in notes)
    assert (tuned.adapter_sha256, tuned.history) == (searched.adapter_sha256, searched.history)
    assert not list(folder.parent.glob(".*.tmp"))
    shutil.rmtree(folder.parent)


def touches(folder: Path) -> int:
    with writing_to(FailingDisk()) as counting:
        search(folder)
    return counting.operations


def test_a_full_disk_ends_a_search_with_what_to_do_and_it_goes_on_when_there_is_room(tmp_path: Path, searched: Tuned) -> None:
    operations = touches(tmp_path / "counted")
    for at in range(1, operations, 17):
        fails_and_goes_on(tmp_path / str(at) / "a", at, searched)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_full_disk_at_every_single_touch_of_a_search_loses_nothing(tmp_path: Path, searched: Tuned) -> None:
    for at in range(1, touches(tmp_path / "counted") + 1):
        fails_and_goes_on(tmp_path / str(at) / "a", at, searched)


class Asked(Unwatched):
    """Leaves in order when it is asked for the `leave_at`th time whether the training may go on."""

    def __init__(self, leave_at: int = 0) -> None:
        self.leave_at, self.asked, self.steps = leave_at, 0, 0

    def stepped(self, point: Any) -> None:
        self.steps += 1

    def may_go_on(self) -> None:
        self.asked += 1
        if self.asked == self.leave_at:
            raise KeyboardInterrupt


def test_a_search_may_be_paused_between_any_two_steps_and_goes_on(tmp_path: Path, searched: Tuned) -> None:
    search(tmp_path / "whole", watch=(whole := Asked()))
    assert whole.steps == 3  # of the training itself: two steps, and the evaluation; the search's own are not told
    for at in range(1, whole.asked + 1):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / str(at), watch=Asked(at))
        tuned, notes = search(tmp_path / str(at))
        assert any(note.startswith("Continuing the training behind step") for note in notes)
        assert (tuned.adapter_sha256, tuned.history) == (searched.adapter_sha256, searched.history)


def test_a_search_is_saved_as_often_as_it_is_told(tmp_path: Path, searched: Tuned) -> None:
    watcher = Watcher(2, ZeroDivisionError)  # stands for a kill
    with pytest.raises(ZeroDivisionError):
        search(tmp_path / "a", progress=watcher, save_every_seconds=0.0)
    tuned, notes = search(tmp_path / "a")
    assert "Continuing the training behind step 1." in notes
    assert tuned.adapter_sha256 == searched.adapter_sha256


def test_a_search_goes_on_from_the_adapter_it_is_given(tmp_path: Path, searched: Tuned) -> None:
    with pytest.raises(ModelError, match="there is no adapter to go on from"):
        search(tmp_path / "a", start=tmp_path / "nowhere")
    start = tune(build_base(), tmp_path / "start", wanted=FEW.model_copy(update={"rank": 3}))
    tuned, _ = search(tmp_path / "a", start=start.folder)
    pinned = json.loads((tuned.folder / "stepladder.json").read_text(encoding="utf-8"))["pins"]
    assert (pinned["start_sha256"], pinned["settings"]["rank"]) == (start.adapter_sha256, 3)
    assert tuned.history[0].loss < searched.history[0].loss


@pytest.mark.parametrize("content", ['{"a', "[]", "\xff", "{}"])
def test_a_record_of_a_search_that_cannot_be_read_counts_as_none(tmp_path: Path, searched: Tuned, content: str) -> None:
    (tmp_path / "a.search.json").write_text(content, encoding="latin-1")
    tuned, notes = search(tmp_path / "a")
    assert ("a.search.json cannot be read: the learning rates are tried again." in notes) == (content != "{}")
    assert tuned.adapter_sha256 == searched.adapter_sha256
    record = json.loads((tmp_path / "a.search.json").read_text())
    (tmp_path / "a.search.json").write_text(json.dumps(dict.fromkeys(record, "torn")))
    assert search(tmp_path / "a")[0] == tuned
    assert json.loads((tmp_path / "a.search.json").read_text()) == record
