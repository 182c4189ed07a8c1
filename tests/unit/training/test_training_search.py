"""The search for a learning rate: three short runs, the best by held-out loss, and nothing searched twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import ModelIdentity, SilentProgress
from stepladder.domain.task import LoraSettings
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.finetune import Base
from stepladder.training.loop import Diverged
from stepladder.training.presets import search_epochs
from stepladder.training.search import choose_rate, tune_searching

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
