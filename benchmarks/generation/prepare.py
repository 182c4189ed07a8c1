"""The task, its prompts as four rungs ask them, and the adapter of the tuned one; what is there already is used."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real"))  # its files import each other by their bare names

import snips
from task_folder import WORK

from generation.rungs import Rung
from generation.systems import TUNED
from stepladder.domain.protocols import Choices
from stepladder.domain.task import Task
from stepladder.files import write_text
from stepladder.service.setup import Base, ClimbOptions, Watcher, fit_context, make_base
from stepladder.service.tune import tune, tuning_world
from stepladder.techniques.asking import Prompter, ZeroShot
from stepladder.techniques.few_shot import StaticShots
from stepladder.techniques.forms import PLAIN
from stepladder.techniques.nearest import NearestShots
from stepladder.techniques.shots import representatives


def prepare(path: Path, datasets: Path, names: Sequence[str], rows: int) -> None:
    """Write the rungs' prompts to `path`, building the task and training its adapter where they are missing."""
    folder = WORK / snips.NAME
    if not (folder / "task.toml").is_file():
        snips.build(datasets, folder)
    task = Task.load(folder)
    adapter = str(tune(task).folder) if TUNED in names else ""
    base = make_base(task, ClimbOptions(), Watcher())
    rungs = [rung(base, name, rows, adapter if name == TUNED else "") for name in names]
    write_text(path, json.dumps([one.as_json() for one in rungs]))


def rung(base: Base, name: str, rows: int, adapter: str) -> Rung:
    """The first `rows` test inputs as this rung asks them."""
    context = fit_context(base, tuning_world(base), base.engine, Choices(), WORK, {})
    prompters: dict[str, Prompter] = {
        "few-shot k=8": StaticShots(context, PLAIN, tuple(representatives(context, 8)), ()),
        "nearest k=4": NearestShots(context, PLAIN, 4, context.train),
    }
    prompter = prompters.get(name, ZeroShot(context, PLAIN))
    test = base.data.splits.counted(base.data.examples, "test")
    asked = prompter([example.input for example in test[:rows]])
    return Rung(name, tuple(one.prompt for one in asked), context.max_new_tokens, adapter)
