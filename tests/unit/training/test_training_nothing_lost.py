"""Broken files, full disks, moved folders and changed data: what a training keeps, and what it says."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stepladder.domain.errors import RunError
from stepladder.domain.protocols import Tuned
from stepladder.files import FailingDisk, hash_file, writing_to
from stepladder.training import finetune
from stepladder.training.adapters import WEIGHTS, adapted, adapter_tensors
from stepladder.training.binding import versions
from stepladder.training.checkpoint import (
    MANIFEST,
    OPTIMIZER,
    Progressed,
    newest_checkpoint,
    prune,
    restore_optimizer,
    save_checkpoint,
)
from stepladder.training.loop import build_optimizer
from stepladder.training.presets import TrainSettings
from stepladder.training.proof import TOLERANCE, TOLERANCE_ELSE
from tiny_training import IDENTITY, QUICK, KilledError, Watcher, broken_off, build_base, build_llama, build_rows, continued, tune

# Broken files


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    if how == "delete":
        path.unlink()
    else:
        path.write_bytes({"truncate": content[:-10], "flip": flipped, "empty": b"", "zero": bytes(len(content))}[how])


@pytest.fixture(scope="module")
def at_step_eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training broken off behind step 8: checkpoints of steps 3 and 6, evaluated, and 7."""
    folder = tmp_path_factory.mktemp("eight")
    broken_off(folder / "a", 8, save_every_seconds=0.0)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tune(build_base(), tmp_path_factory.mktemp("finished") / "a").folder.parent


@pytest.mark.parametrize("file", ["adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["truncate", "flip", "delete", "empty", "zero"])
def test_a_broken_newest_checkpoint_is_passed_over_with_a_word(
    at_step_eight: Path, tmp_path: Path, whole: Tuned, file: str, how: str
) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    damage(next((tmp_path / "a.checkpoints").glob("*/step-000007")) / file, how)
    tuned, notes = continued(tmp_path / "a")
    assert any(note.startswith("Checkpoint step-000007 cannot be used (") for note in notes)
    assert "Continuing the training behind step 6." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256


def test_a_checkpoint_that_a_later_one_needs_may_break_too(at_step_eight: Path, tmp_path: Path, whole: Tuned) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    damage(next((tmp_path / "a.checkpoints").glob("*/step-000006")) / "adapter.safetensors", "flip")
    tuned, notes = continued(tmp_path / "a", save_every_seconds=0.0)
    assert "Checkpoint step-000007 cannot be used (it needs step-000006: adapter.safetensors is damaged); " in " ".join(notes)
    assert "Continuing the training behind step 3." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256


def test_when_every_checkpoint_is_broken_the_training_starts_over_and_says_so(
    at_step_eight: Path, tmp_path: Path, whole: Tuned
) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "a.checkpoints").glob("*/step-*/state.json"):
        damage(path, "truncate")
    tuned, notes = continued(tmp_path / "a")
    assert "No checkpoint can be used: the training starts from the beginning." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256


def test_a_renamed_checkpoint_does_not_pass_for_another(at_step_eight: Path, tmp_path: Path) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    newest = next((tmp_path / "a.checkpoints").glob("*/step-000007"))
    newest.rename(newest.with_name("step-000009"))
    _, notes = continued(tmp_path / "a")
    assert any("step-000009 cannot be used (its manifest is another checkpoint's)" in note for note in notes)


def test_broken_checkpoints_are_not_deleted_and_crowd_out_no_whole_ones(
    at_step_eight: Path, tmp_path: Path, quick_settings: TrainSettings
) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    folder = next((tmp_path / "a.checkpoints").iterdir())
    for step in (6, 7):
        damage(folder / f"step-{step:06d}" / "manifest.json", "truncate")
    prune(folder, 3)
    prune(folder, 7)
    assert {path.name for path in folder.glob("step-*")} == {"step-000003", "step-000006", "step-000007"}


@pytest.mark.parametrize("name", ["step-000006 (copy)", "step-000007.bak", "step-", "step-7", "step-0000006", "step-٠٠٠٠٠٧"])
def test_what_has_no_checkpoints_name_is_passed_over_with_a_word_and_stays(
    at_step_eight: Path, tmp_path: Path, whole: Tuned, name: str
) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    folder = next((tmp_path / "a.checkpoints").iterdir())
    shutil.copytree(folder / "step-000006", folder / name)
    watcher = Watcher(9)  # a checkpoint is saved before, and older ones are deleted
    with pytest.raises(KilledError):
        tune(build_base(), tmp_path / "a", progress=watcher, save_every_seconds=0.0)
    assert f"{name} in {folder.name} has no checkpoint's name; it is passed over." in watcher.notes
    assert "Continuing the training behind step 7." in watcher.notes
    assert (folder / name / "adapter.safetensors").is_file()
    assert continued(tmp_path / "a")[0].adapter_sha256 == whole.adapter_sha256


@pytest.mark.parametrize("needs", [["6x"], [[3]], "36", 3, None, [True]], ids=json.dumps)
def test_a_manifest_whose_needs_are_no_steps_is_passed_over_with_a_word(
    at_step_eight: Path, tmp_path: Path, whole: Tuned, needs: Any
) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "a.checkpoints").glob("*/step-000007")) / MANIFEST
    manifest = {**json.loads(path.read_text()), "needs": needs}
    del manifest["sha256"]  # as in one of an older version
    path.write_text(json.dumps(manifest))
    prune(path.parent.parent, 8)
    tuned, notes = continued(tmp_path / "a")
    assert any(
        note.startswith("Checkpoint step-000007 cannot be used (its manifest.json is missing or damaged)") for note in notes
    )
    assert "Continuing the training behind step 6." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256


@pytest.mark.parametrize("how", ["truncate", "flip", "delete"])
@pytest.mark.parametrize(("file", "what"), [("adapter_config.json", "its adapter_config.json is"), (WEIGHTS, "its weights are")])
def test_a_finished_adapter_with_a_damaged_file_is_trained_again(
    finished: Path, tmp_path: Path, whole: Tuned, file: str, what: str, how: str
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    good = (tmp_path / "a" / file).read_bytes()
    damage(tmp_path / "a" / file, how)
    tuned, notes = continued(tmp_path / "a")
    assert f"The adapter at a is trained again: {what} {'missing' if how == 'delete' else 'damaged'}." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256
    assert (tmp_path / "a" / file).read_bytes() == good


def test_the_tokenizer_beside_an_adapter_belongs_to_it_and_the_card_may_be_changed(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    base = replace(build_base(), tokenizer_folder=tmp_path / "base")
    tune(base, tmp_path / "a")
    (tmp_path / "a" / "README.md").write_text("mine")
    tune(base, tmp_path / "a", progress=(watcher := Watcher()))
    assert watcher.notes == []
    (tmp_path / "a" / "tokenizer.json").write_text("[]")
    tune(base, tmp_path / "a", progress=watcher)
    assert "The adapter at a is trained again: its tokenizer.json is damaged." in watcher.notes


def test_an_adapter_that_records_no_hashes_but_the_weights_is_read_as_before(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    side = json.loads((tmp_path / "a" / "stepladder.json").read_text())
    assert side.pop("files_sha256").keys() == {"adapter_config.json"}
    (tmp_path / "a" / "stepladder.json").write_text(json.dumps(side))
    assert continued(tmp_path / "a")[1] == []


# Full and failing disks


def checkpointed(folder: Path, settings: TrainSettings, step: int) -> None:
    """A checkpoint of `step`, made from nothing but settings."""
    with adapted(build_llama(), settings) as wrapped:
        save_checkpoint(folder, Progressed(step=step), adapter_tensors(wrapped), build_optimizer(wrapped, settings), "b")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_disk_that_fails_at_any_touch_leaves_the_earlier_checkpoint_whole(
    tmp_path: Path, quick_settings: TrainSettings, code: int
) -> None:
    with writing_to(FailingDisk()) as counting:
        checkpointed(tmp_path / "counted", quick_settings, 1)
    assert counting.operations > 15
    for at in range(1, counting.operations + 1):
        folder, notes = tmp_path / str(at), []
        checkpointed(folder, quick_settings, 1)
        with writing_to(FailingDisk(at, code)), pytest.raises(OSError, match=os.strerror(code)):
            checkpointed(folder, quick_settings, 2)
        found = newest_checkpoint(folder, "b", notes.append)
        assert found is not None
        assert notes == []  # never a half one under a final name
        if found.step == 2:  # it failed when all was written, and only the entry in the folder was not yet safe
            assert at == counting.operations
        checkpointed(folder, quick_settings, 2)
        assert newest_checkpoint(folder, "b", notes.append) == Progressed(step=2, evaluations={})


def fails_and_goes_on(folder: Path, at: int, whole: Tuned) -> None:
    with writing_to(FailingDisk(at, errno.ENOSPC)), pytest.raises(RunError) as raised:
        tune(build_base(), folder)
    said = str(raised.value)
    assert f"cannot be written below {folder.parent}" in said
    assert "No space left on device. What was saved before is whole. Make room on that disk" in said
    assert not folder.exists() or hash_file(folder / "adapter_model.safetensors") == whole.adapter_sha256
    tuned, notes = continued(folder)
    assert not any("cannot be used" in note for note in notes)
    assert (tuned.adapter_sha256, tuned.history) == (whole.adapter_sha256, whole.history)


def touches(folder: Path) -> int:
    with writing_to(FailingDisk()) as counting:
        tune(build_base(), folder)
    return counting.operations


def test_a_full_disk_ends_the_training_with_what_to_do_and_it_goes_on_when_there_is_room(tmp_path: Path, whole: Tuned) -> None:
    operations = touches(tmp_path / "counted")
    for at in (1, operations // 3, 2 * operations // 3, operations - 12, operations - 1):
        fails_and_goes_on(tmp_path / str(at), at, whole)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_full_disk_at_every_single_touch_of_a_training_loses_nothing(tmp_path: Path, whole: Tuned) -> None:
    for at in range(1, touches(tmp_path / "counted") + 1):
        fails_and_goes_on(tmp_path / str(at), at, whole)


def test_the_systems_own_refusal_to_write_is_named(tmp_path: Path, whole: Tuned) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, limits[1]))
    try:
        with pytest.raises(RunError, match="the checkpoint of step 3 cannot be written below .*: File too large. What was saved"):
            tune(build_base(), tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert continued(tmp_path / "a")[0].adapter_sha256 == whole.adapter_sha256


def test_too_little_room_is_said_before_the_first_step(tmp_path: Path) -> None:
    watcher = Watcher()
    with writing_to(FailingDisk(free_bytes=50_000)), pytest.raises(RunError, match=r"need 0\.\d MB below .*; 0\.1 MB are free"):
        tune(build_base(), tmp_path / "a", progress=watcher)
    assert watcher.total is None


def test_a_signal_counts_more_than_a_full_disk(tmp_path: Path) -> None:
    watcher = Watcher(5, KeyboardInterrupt)
    with writing_to(FailingDisk()) as counting:
        broken_off(tmp_path / "counted", 5)
    with writing_to(FailingDisk(counting.operations + 1, errno.ENOSPC)), pytest.raises(KeyboardInterrupt):
        tune(build_base(), tmp_path / "a", progress=watcher)
    assert "the checkpoint of step 5 cannot be written" in watcher.notes[-1]


# Moved folders, other data


def test_a_moved_folder_goes_on_where_it_was(at_step_eight: Path, tmp_path: Path, whole: Tuned) -> None:
    elsewhere = tmp_path / "another place"
    shutil.copytree(at_step_eight, elsewhere)
    (elsewhere / "a.checkpoints").rename(elsewhere / "renamed.checkpoints")
    tuned, notes = continued(elsewhere / "renamed")
    assert "Continuing the training behind step 7." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256
    names = [path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()]
    assert not any(str(at_step_eight).encode() in content or str(elsewhere).encode() in content for content in names)


def test_a_base_that_lies_elsewhere_now_is_the_same_base(at_step_eight: Path, tmp_path: Path, whole: Tuned) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    moved = replace(build_base(), identity=replace(IDENTITY, name="models/tiny"))
    assert tune(moved, tmp_path / "a", progress=(watcher := Watcher())).adapter_sha256 == whole.adapter_sha256
    assert "Continuing the training behind step 7." in watcher.notes


ROWS = build_rows(10)
CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"rows": ROWS[:-1]}, "training rows: 1 removed (row-9)"),
    ({"rows": [*ROWS, replace(ROWS[0], id="new")]}, "training rows: 1 added (new)"),
    ({"rows": [replace(ROWS[0], token_ids=(*ROWS[0].token_ids[:-2], 3, 2)), *ROWS[1:]]}, "training rows: 1 changed (row-0)"),
    (
        {"rows": [replace(row, token_ids=(20, *row.token_ids[1:])) for row in reversed(ROWS)]},
        "training rows: the same in another order",
    ),
    ({"rows": build_rows(10, seed=1)}, "training rows: 10 changed (row-0, row-1, row-2, …)"),
    ({"held_out": build_rows(4, seed=9, name="unseen")}, "held-out rows: 1 removed (unseen-4)"),
    ({"wanted": QUICK.model_copy(update={"rank": 3})}, "alpha 4 -> 6; rank 2 -> 3"),
    ({"seed": 1}, "seed 0 -> 1"),
    ({"base": {"base_sha256": "dd" * 32}}, "base_sha256 aaaaaaaaaaaa… -> dddddddddddd…"),
    ({"base": {"template_sha256": "dd" * 32}}, "template_sha256 cccccccccccc… -> dddddddddddd…"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES, ids=[said[:30] for _, said in CHANGES])
@pytest.mark.parametrize("state", ["broken off", "finished"])
def test_changed_data_settings_or_base_are_refused_with_the_difference(
    at_step_eight: Path, finished: Path, tmp_path: Path, state: str, change: dict[str, Any], said: str
) -> None:
    shutil.copytree(finished if state == "finished" else at_step_eight, tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    given = dict(change)
    base = replace(build_base(), identity=replace(IDENTITY, **given.pop("base", {})))
    with pytest.raises(RunError) as raised:
        tune(base, tmp_path / "a", **given)
    what = f"the adapter at {tmp_path / 'a'}" if state == "finished" else f"a training that was broken off at {tmp_path}"
    assert what in raised.value.problem
    assert raised.value.problem.endswith(f"belongs to other data, settings or another base: {said}.")
    assert "Bring the former ones back to continue it" in raised.value.hint
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("how", ["truncate", "empty", "delete"])
def test_changed_data_are_refused_also_where_the_binding_is_lost(
    at_step_eight: Path, tmp_path: Path, whole: Tuned, how: str
) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    damage(next((tmp_path / "a.checkpoints").glob("*/binding.json")), how)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(
        RunError, match="belongs to other data, .*; its binding.json, which would say what differs, cannot be read"
    ):
        tune(build_base(), tmp_path / "a", rows=build_rows(10, seed=3))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    broken_off(tmp_path / "a", 9)
    assert json.loads(next((tmp_path / "a.checkpoints").glob("*/binding.json")).read_text())["rows"]["training"].keys()
    tuned, notes = continued(tmp_path / "a")
    assert "Continuing the training behind step 7." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256


def test_a_new_training_may_be_asked_for_and_the_old_checkpoints_stay(at_step_eight: Path, tmp_path: Path, whole: Tuned) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    tuned, notes = continued(tmp_path / "a", seed=1, anew=True)
    assert tuned.adapter_sha256 != whole.adapter_sha256
    assert not any(note.startswith("Continuing") for note in notes)
    back, notes = continued(tmp_path / "a", anew=True)
    assert "The adapter at a is trained again: it belongs to something else (seed 1 -> 0)." in notes
    assert "Continuing the training behind step 7." in notes
    assert back.adapter_sha256 == whole.adapter_sha256


def test_an_adapter_that_was_being_replaced_when_a_kill_came_is_there_again(finished: Path, tmp_path: Path, whole: Tuned) -> None:
    old, new = tmp_path / ".a.abcd1234.old.tmp", tmp_path / ".a.abcd1234.tmp"
    shutil.copytree(finished / "a", old)
    assert continued(tmp_path / "a")[0].adapter_sha256 == whole.adapter_sha256
    assert not old.exists()
    (tmp_path / "a").rename(old)
    tune(build_base(), tmp_path / "b", seed=1).folder.rename(new)
    tuned, notes = continued(tmp_path / "a", seed=1, anew=True)
    assert (tuned.folder, notes) == (tmp_path / "a", [])  # the new one was whole: nothing is trained again
    assert tuned.adapter_sha256 != whole.adapter_sha256
    assert not old.exists()


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="holds something that is no adapter of Stepladder's. Choose another folder"):
        tune(build_base(), tmp_path / "a")
    assert (tmp_path / "a" / "thesis.txt").read_text() == "years of work"


def test_a_file_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a letter")
    with pytest.raises(RunError, match="holds something that is no adapter of Stepladder's"):
        tune(build_base(), tmp_path / "a")
    assert (tmp_path / "a").read_text() == "a letter"


def test_other_versions_of_libraries_are_said_aloud(at_step_eight: Path, tmp_path: Path) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "a.checkpoints").glob("*/binding.json"))
    raw = json.loads(path.read_text())
    raw["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(raw))
    _, notes = continued(tmp_path / "a")
    assert any(note.startswith("It was begun with other versions (torch 1.0 -> ") for note in notes)


@pytest.mark.parametrize(
    ("name", "other"), [("threads", "7"), ("processor", "Zuse Z3"), ("instructions", "AVX9"), ("device", "H1")]
)
def test_other_circumstances_are_said_aloud_and_not_refused(at_step_eight: Path, tmp_path: Path, name: str, other: str) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "a.checkpoints").glob("*/binding.json"))
    raw = json.loads(path.read_text())
    assert raw["circumstances"].pop(name)
    path.write_text(json.dumps(raw))
    with pytest.raises(KilledError):  # as of an older version, which did not record it
        tune(build_base(), tmp_path / "a", progress=(watcher := Watcher(8)))
    assert not any("It was begun" in note for note in watcher.notes)
    raw["circumstances"][name] = other
    path.write_text(json.dumps(raw))
    tuned, notes = continued(tmp_path / "a")
    assert any(note.startswith(f"It was begun under other circumstances ({name} {other} -> ") for note in notes)
    assert json.loads((tuned.folder / "stepladder.json").read_text())["circumstances"].keys() == raw["circumstances"].keys()


def test_a_training_goes_on_with_other_threads_and_says_so(tmp_path: Path) -> None:
    broken_off(tmp_path / "a", 8)
    torch.set_num_threads(2)
    try:
        _, notes = continued(tmp_path / "a")
    finally:
        torch.set_num_threads(1)
    said = "It was begun under other circumstances (threads 1 -> 2), so its last digits may differ from those of one run."
    assert said in notes


# Passes that the machine's memory cuts


def with_memory_for(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """As on a machine where one pass takes `tokens` unless the user says otherwise."""

    def settings_for(base: Any, wanted: Any, rows: int, seed: int) -> TrainSettings:
        return replace(presets(base, wanted, rows, seed), tokens_per_pass=wanted.tokens_per_pass or tokens)

    presets = real_settings_for
    monkeypatch.setattr(finetune, "settings_for", settings_for)


real_settings_for = finetune.settings_for


@pytest.mark.parametrize("memory", [20, 1_000_000])
def test_on_a_machine_with_other_memory_a_training_goes_on_with_its_own_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    with_memory_for(monkeypatch, 30)
    once = tune(build_base(), tmp_path / "once")
    broken_off(tmp_path / "a", 8)
    with_memory_for(monkeypatch, memory)
    assert tune(build_base(), tmp_path / "other").adapter_sha256 != once.adapter_sha256  # passes decide the last digits
    tuned, notes = continued(tmp_path / "a")
    assert "Continuing the training behind step 6." in notes
    assert f"The training goes on with 30 tokens per pass, as it was begun; this machine's memory would give {memory:,}. " in (
        " ".join(notes)
    )
    assert (tuned.adapter_sha256, tuned.history) == (once.adapter_sha256, once.history)
    assert not (tmp_path / "a.checkpoints").exists()
    assert continued(tmp_path / "a") == (tuned, [])  # finished, whatever the memory


def test_other_passes_that_the_user_asks_for_are_taken_and_said(tmp_path: Path, whole: Tuned) -> None:
    broken_off(tmp_path / "a", 8)
    tuned, notes = continued(tmp_path / "a", wanted=QUICK.model_copy(update={"tokens_per_pass": 20}))
    assert "Continuing the training behind step 6." in notes
    assert any("goes on with 20, as `tokens_per_pass` says: its last digits may differ" in note for note in notes)
    assert [point.loss for point in tuned.history] == pytest.approx([point.loss for point in whole.history], rel=1e-3)
    assert [point.loss for point in tuned.history[6:]] != [point.loss for point in whole.history[6:]]
    assert continued(tmp_path / "a") == (tuned, [])


def test_a_difference_does_not_name_passes(at_step_eight: Path, tmp_path: Path) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    with pytest.raises(RunError, match=r"another base: seed 0 -> 1\."):
        tune(build_base(), tmp_path / "a", seed=1, wanted=QUICK.model_copy(update={"tokens_per_pass": 20}))


# What a checkpoint must fit


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda moments: moments.popitem(), "fits 27 of 28 tensors and says that 12 steps were taken"),
        (lambda moments: moments[0].update(exp_avg=torch.zeros(1)), "fits 27 of 28 tensors"),
        (lambda moments: [values["step"].fill_(7) for values in moments.values()], "says that 7 steps were taken"),
    ],
    ids=["a tensor is missing", "a shape is another", "the steps are others"],
)
def test_an_optimizer_of_another_training_is_refused(
    tmp_path: Path, quick_settings: TrainSettings, spoil: Callable[[dict[int, dict[str, torch.Tensor]]], Any], said: str
) -> None:
    from safetensors.torch import save_file

    with adapted(build_llama(), quick_settings) as wrapped:
        optimizer = build_optimizer(wrapped, quick_settings)
        for value in adapter_tensors(wrapped).values():
            value.grad = torch.ones_like(value)
        for _ in range(12):
            optimizer.step()
        save_checkpoint(tmp_path, Progressed(step=12), adapter_tensors(wrapped), optimizer, "b")
        moments = {number: {**values} for number, values in optimizer.state_dict()["state"].items()}
        restore_optimizer(tmp_path, 12, build_optimizer(wrapped, quick_settings))
        spoil(moments)
        flat = {f"{number}/{key}": value.contiguous() for number, values in moments.items() for key, value in values.items()}
        save_file(flat, tmp_path / "step-000012" / OPTIMIZER)
        with pytest.raises(RunError, match=said):
            restore_optimizer(tmp_path, 12, build_optimizer(wrapped, quick_settings))


def test_the_manifest_names_every_file_with_its_hash(at_step_eight: Path) -> None:
    saved = next((at_step_eight / "a.checkpoints").glob("*/step-000007"))
    manifest = json.loads((saved / MANIFEST).read_text())
    assert manifest["files"] == {path.name: hash_file(path) for path in saved.iterdir() if path.name != MANIFEST}
    assert (manifest["step"], manifest["evaluated"]) == (7, False)
    assert set(manifest["needs"]) <= {3, 6}
    assert manifest["bytes"] == {name: (saved / name).stat().st_size for name in manifest["files"]}
    assert manifest["versions"] == versions()


def test_a_manifest_that_was_changed_is_not_believed(at_step_eight: Path, tmp_path: Path, whole: Tuned) -> None:
    """Without the steps it needs, the damage to one of them would show when the adapter is to be left, and not before."""
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "a.checkpoints").glob("*/step-000007")) / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "needs": []}))
    damage(path.parent.with_name("step-000006") / "adapter.safetensors", "truncate")
    tuned, notes = continued(tmp_path / "a")
    said = " ".join(notes)
    assert "Checkpoint step-000007 cannot be used (its manifest.json is missing or damaged); " in said
    assert "Checkpoint step-000006 cannot be used (adapter.safetensors has " in said
    assert "Continuing the training behind step 3." in notes
    assert tuned.adapter_sha256 == whole.adapter_sha256


def test_checkpoints_of_an_older_version_are_read_as_before(at_step_eight: Path, tmp_path: Path, whole: Tuned) -> None:
    shutil.copytree(at_step_eight, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "a.checkpoints").glob("*/step-*/manifest.json"):
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({key: manifest[key] for key in manifest if key not in ("bytes", "versions", "sha256")}))
    for path in (tmp_path / "a.checkpoints").glob("*/binding.json"):
        raw = json.loads(path.read_text())
        del raw["circumstances"]
        path.write_text(json.dumps(raw))
    tuned, notes = continued(tmp_path / "a")
    assert "Continuing the training behind step 7." in notes
    assert not any("cannot be used" in note or "It was begun" in note for note in notes)
    assert tuned.adapter_sha256 == whole.adapter_sha256


def test_the_page_on_killed_trainings_says_the_tolerance_that_holds() -> None:
    page = Path(__file__).parents[3] / "docs" / "explanation" / "killed-training.md"
    in_16_bits = {TOLERANCE[torch.bfloat16], TOLERANCE[torch.float16]}
    said = f"(to within {TOLERANCE_ELSE:.0e} of the largest logit; {max(in_16_bits) * 100:.0f} % in 16 bits)".replace("e-0", "e-")
    assert len(in_16_bits) == 1
    assert said in page.read_text(encoding="utf-8")
