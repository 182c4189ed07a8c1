"""A fine-tune as a whole: the folder it leaves, what it says on its way, and where it stops."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from stepladder.domain.errors import ModelError
from stepladder.domain.protocols import Tuned
from stepladder.domain.task import LoraSettings
from stepladder.files import hash_file
from stepladder.models.prefix.forward import row_nll
from stepladder.models.prefix.rows import EncodedRow
from stepladder.training.binding import row_hashes
from stepladder.training.finetune import Base
from tiny_training import IDENTITY, QUICK, KilledError, Watcher, build_base
from tiny_training import tune as tune_tiny

BuildRows = Callable[..., list[EncodedRow]]


@pytest.fixture
def base() -> Base:
    return build_base()


@pytest.fixture
def rows(build_rows: BuildRows) -> list[EncodedRow]:
    return build_rows(10)


@pytest.fixture
def held_out(build_rows: BuildRows) -> list[EncodedRow]:
    return build_rows(5, seed=9, name="unseen")


def tune(base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], folder: Path, **changes: Any) -> Tuned:
    return tune_tiny(base, folder, rows=rows, held_out=held_out, **changes)


def test_the_kept_step_is_what_lies_in_the_folder(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    tuned = tune(base, rows, held_out, tmp_path / "adapter")
    assert tuned.folder == tmp_path / "adapter"
    assert tuned.adapter_sha256 == hash_file(tuned.folder / "adapter_model.safetensors")
    assert (tuned.steps, len(tuned.history)) == (12, 12)
    assert tuned.tokens == 4 * sum(map(len, rows))
    assert not (tmp_path / "adapter.checkpoints").exists()
    kept = next(point for point in tuned.history if point.step == tuned.best_step)
    assert kept.held_out_nll == pytest.approx(fmean(tuned.held_out_nll))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_plain_peft_loads_the_folder_and_gives_the_reported_loss(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], build_llama: Callable[..., Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    tuned = tune(base, rows, held_out, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(build_llama(), str(tuned.folder)).eval().get_base_model()
    assert row_nll(loaded, held_out, share=False, tokens_per_pass=500) == pytest.approx(tuned.held_out_nll, rel=1e-4)
    untuned = row_nll(build_llama(), held_out, share=False, tokens_per_pass=500)
    assert fmean(tuned.held_out_nll) < fmean(untuned)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_scaling_and_chosen_layers_are_recorded_and_followed_by_plain_peft(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], build_llama: Callable[..., Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    wanted = QUICK.model_copy(update={"rank_stabilised": True, "target_modules": ("q_proj", "up_proj")})
    tuned = tune(base, rows, held_out, tmp_path / "adapter", wanted=wanted)
    side = json.loads((tuned.folder / "stepladder.json").read_text(encoding="utf-8"))
    assert side["pins"]["settings"]["rank_stabilised"] is True
    assert side["pins"]["settings"]["target_modules"] == ["q_proj", "up_proj"]
    assert "16, rank-stabilised, on q_proj, up_proj" in (tuned.folder / "README.md").read_text(encoding="utf-8")
    loaded = PeftModel.from_pretrained(build_llama(), str(tuned.folder)).eval().get_base_model()
    assert row_nll(loaded, held_out, share=False, tokens_per_pass=500) == pytest.approx(tuned.held_out_nll, rel=1e-4)
    watcher = Watcher()
    again = tune(base, rows, held_out, tmp_path / "adapter", wanted=wanted, progress=watcher)
    assert (again.adapter_sha256, watcher.advanced) == (tuned.adapter_sha256, 0)


def test_prompts_may_count_a_little_while_held_out_answers_still_stop_it(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], build_llama: Callable[..., Any], tmp_path: Path
) -> None:
    wanted = QUICK.model_copy(update={"prompt_loss_weight": 0.25, "epochs": 1, "batch_size": 10})
    watcher = Watcher()
    tuned = tune(base, rows, held_out, tmp_path / "adapter", wanted=wanted, progress=watcher)
    total, weights = 0.0, 0.0  # the loss of the first step, by the stock model alone
    for row in rows:
        logits = build_llama()(input_ids=torch.tensor([row.token_ids])).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(row.token_ids[1:]), reduction="none").tolist()
        counted = [weight or 0.25 for weight in row.weights[1:]]
        total += sum(weight * nats for weight, nats in zip(counted, nll, strict=True))
        weights += sum(counted)
    assert tuned.history[0].loss == pytest.approx(total / weights, rel=1e-5)
    assert any("What is asked counts 0.25." in note for note in watcher.notes)
    assert "and on prompts with weight 0.25" in (tuned.folder / "README.md").read_text(encoding="utf-8")
    example = next(note for note in watcher.notes if note.startswith("Training row 1"))
    assert example.partition("\n")[2].index("⟦") > 0  # the prompt is still shown as what is asked


def test_an_answer_that_is_excluded_makes_another_training(rows: list[EncodedRow]) -> None:
    before, first = row_hashes(rows), rows[0]
    place = next(place for place in range(1, len(first)) if not first.weights[place])
    after = row_hashes([replace(first, excluded=(place,)), *rows[1:]])
    assert [name for name in before if after[name] != before[name]] == [first.id]


def test_another_smoothing_is_another_training_and_is_recorded(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    plain = tune(base, rows, held_out, tmp_path / "adapter")
    wanted = QUICK.model_copy(update={"label_smoothing": 0.2})
    smoothed = tune(base, rows, held_out, tmp_path / "smoothed", wanted=wanted)
    assert smoothed.adapter_sha256 != plain.adapter_sha256
    assert smoothed.history[0].loss != plain.history[0].loss
    assert "labels smoothed by 0.2" in (smoothed.folder / "README.md").read_text(encoding="utf-8")


def test_the_base_answers_bit_for_bit_as_before(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    tokens = torch.tensor([[3, 4, 5]])
    before = base.model(input_ids=tokens).logits
    tune(base, rows, held_out, tmp_path / "adapter")
    assert torch.equal(base.model(input_ids=tokens).logits, before)
    with pytest.raises(KilledError):
        tune(base, rows, held_out, tmp_path / "other", progress=Watcher(kill_at=5))
    assert torch.equal(base.model(input_ids=tokens).logits, before)


def test_a_training_killed_at_random_moments_ends_with_the_same_bits(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    whole = tune(base, rows, held_out, tmp_path / "whole")
    draw = random.Random(1)
    for trial in range(4):
        folder, resumed = tmp_path / f"killed-{trial}", []
        for kill_at in sorted(draw.sample(range(2, 13), 2)):
            watcher = Watcher(kill_at=kill_at)
            with pytest.raises(KilledError):
                tune(base, rows, held_out, folder, progress=watcher)
            resumed.append(watcher)
        watcher = Watcher()
        tuned = tune(base, rows, held_out, folder, progress=watcher)
        assert tuned.adapter_sha256 == whole.adapter_sha256
        assert tuned.history == whole.history
        assert (tuned.held_out_nll, tuned.best_step, tuned.tokens) == (whole.held_out_nll, whole.best_step, whole.tokens)


def test_a_continued_training_repeats_only_the_steps_behind_its_checkpoint(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        tune(base, rows, held_out, tmp_path / "a", progress=Watcher(kill_at=8))
    watcher = Watcher()
    tune(base, rows, held_out, tmp_path / "a", progress=watcher)
    assert "Continuing the training behind step 6." in watcher.notes
    assert len(watcher.details) == 1 + 12 - 6
    assert watcher.advanced == watcher.total == 12


def test_a_finished_adapter_is_returned_and_not_trained_again(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    first, watcher = tune(base, rows, held_out, tmp_path / "a"), Watcher()
    assert tune(base, rows, held_out, tmp_path / "a", progress=watcher) == first
    assert (watcher.notes, watcher.total) == ([], None)


def test_damaged_weights_are_trained_again(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    first = tune(base, rows, held_out, tmp_path / "a")
    weights = first.folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    watcher = Watcher()
    assert tune(base, rows, held_out, tmp_path / "a", progress=watcher).adapter_sha256 == first.adapter_sha256
    assert "The adapter at a is trained again: its weights are damaged." in watcher.notes


def test_without_held_out_rows_the_last_step_is_kept(base: Base, rows: list[EncodedRow], tmp_path: Path) -> None:
    tuned = tune(base, rows, [], tmp_path / "a")
    assert (tuned.held_out_nll, tuned.best_step, tuned.steps) == ((), 12, 12)
    with pytest.raises(KilledError):
        tune(base, rows, [], tmp_path / "b", progress=Watcher(kill_at=10))
    assert tune(base, rows, [], tmp_path / "b").adapter_sha256 == tuned.adapter_sha256


def answered(rows: list[EncodedRow], token: int) -> list[EncodedRow]:
    """The prompts of `rows`, all with one answer: easy to learn, and wrong wherever the answer is another."""
    prompts = [row.token_ids[: row.labelled[0]] for row in rows]
    return [
        EncodedRow(row.id, (*prompt, token, 2), (0.0,) * len(prompt) + (1.0, 1.0))
        for row, prompt in zip(rows, prompts, strict=True)
    ]


def test_training_stops_when_the_held_out_loss_no_longer_falls(base: Base, rows: list[EncodedRow], tmp_path: Path) -> None:
    wanted = LoraSettings(rank=8, learning_rate=1e-2, epochs=40, batch_size=5)
    watcher = Watcher()
    tuned = tune(base, answered(rows, 7), answered(rows, 50), tmp_path / "a", wanted=wanted, progress=watcher)
    assert tuned.steps < 80
    assert tuned.best_step < tuned.steps
    assert any(note.startswith(f"Stopped at step {tuned.steps}: ") for note in watcher.notes)


def test_a_held_out_loss_above_the_start_is_said_aloud(base: Base, rows: list[EncodedRow], tmp_path: Path) -> None:
    watcher = Watcher()
    wanted = LoraSettings(rank=8, learning_rate=2e-2, epochs=1, batch_size=1)
    tune(base, answered(rows, 7), answered(rows, 50), tmp_path / "a", wanted=wanted, progress=watcher)
    assert any("ended above the loss before training" in note for note in watcher.notes)


def test_what_is_learned_is_shown_before_the_first_step(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    watcher = Watcher(kill_at=1)
    with pytest.raises(KilledError):
        tune(base, rows, held_out, tmp_path / "a", progress=watcher)
    assert "LoRA of rank 2 on 10 rows: at most 4 epochs of 3 steps, learning rate 0.005." in watcher.notes[0]
    assert "All rows begin with the same 9 tokens." in watcher.notes[0]
    examples = [note for note in watcher.notes if note.startswith("Training row")]
    assert len(examples) == 3
    assert all(note.endswith(" 2⟧") for note in examples)


def test_where_memory_is_short_layers_are_computed_twice_with_a_word_and_the_adapter_is_the_same(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy = tune(base, rows, held_out, tmp_path / "a", progress=(first := Watcher()))
    monkeypatch.setattr("stepladder.training.finetune.memory_total_bytes", lambda device: 1)
    short = tune(base, rows, held_out, tmp_path / "b", progress=(second := Watcher()))
    assert short.adapter_sha256 == roomy.adapter_sha256
    assert "What is beyond 0 tokens at once is computed twice, layer by layer, for want of memory." in second.notes
    assert not any("computed twice" in note for note in first.notes)


def test_each_step_says_its_loss_and_the_time_left(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    watcher = Watcher()
    tuned = tune(base, rows, held_out, tmp_path / "a", progress=watcher)
    assert watcher.details[0] == f"loss {tuned.history[0].loss:.3f}, at most {watcher.details[0].split('most ')[1]}"
    assert watcher.details[-1].endswith("at most 0 s left")


def test_the_side_file_pins_base_data_settings_and_versions(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "chat_template.jinja").write_text("hello")
    tuned = tune(replace(base, tokenizer_folder=tmp_path / "model"), rows, held_out, tmp_path / "a")
    side = json.loads((tuned.folder / "stepladder.json").read_text())
    assert (side["pins"]["base_sha256"], side["pins"]["template_sha256"]) == (IDENTITY.base_sha256, IDENTITY.template_sha256)
    assert (side["pins"]["settings"]["rank"], side["adapter_sha256"]) == (2, tuned.adapter_sha256)
    assert {"python", "torch", "transformers", "peft", "stepladder"} <= side["versions"].keys()
    assert {part: list(known) for part, known in side["rows"].items()} == {
        "training": [row.id for row in rows],
        "held-out": [row.id for row in held_out],
    }
    assert side["checks"]["reload_difference"] <= side["checks"]["reload_tolerance"] < side["checks"]["change"]
    assert side["checks"]["stopping"].keys() == {"part", "rows", "share", "probability", "untuned_share"}
    assert (tuned.folder / "chat_template.jinja").read_text() == "hello"
    card = (tuned.folder / "README.md").read_text()
    assert IDENTITY.base_sha256 in card
    assert "PeftModel.from_pretrained" in card


def test_rows_that_cannot_be_learned_from_are_refused_before_anything_is_written(
    base: Base, rows: list[EncodedRow], held_out: list[EncodedRow], tmp_path: Path
) -> None:
    long = EncodedRow("long", (*range(3, 53), *range(3, 53), 2), (0.0,) * 100 + (1.0,))
    with pytest.raises(ModelError, match="held-out row long has 101 tokens, more than 96"):
        tune(base, rows, [*held_out, long], tmp_path / "a")
    with pytest.raises(ModelError, match="no rows to train on"):
        tune(base, [], held_out, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
