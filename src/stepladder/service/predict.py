"""The winner at work: a rung of a finished climb answers new inputs, whatever it is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepladder import files
from stepladder.data.readers import line_of_input, read_examples, read_inputs
from stepladder.domain.answer import parse_arguments, read_answer, wants_tool_calls
from stepladder.domain.errors import DataError, EngineError, RunError, UsageError
from stepladder.domain.messages import Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import Engine, Predictor, Recipe
from stepladder.domain.task import Task
from stepladder.engines.purse import Purse
from stepladder.service import wiring
from stepladder.service.open_run import find_run
from stepladder.service.plan import Plan
from stepladder.service.setup import (
    Base,
    ClimbOptions,
    Watcher,
    bare_engine,
    context_of_rung,
    fit_context,
    keep_plan,
    make_base,
    record_engine,
)
from stepladder.service.shipping import STANDS_ON, plain_name, refit_rung
from stepladder.service.worlds import World, build_worlds, whole_world
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.forms import form_of
from stepladder.techniques.ladder import technique

ROWS_AT_ONCE = 32
"""Answers written together; a kill costs at most these."""
LINE_BEGINS = b'{"id": "'


@dataclass(frozen=True)
class Answered:
    """What `predict` has done: answers in the file, how many of them new, how many cut at the token limit."""

    rung: str
    answered: int
    new: int
    cut: int


def predict(
    run: Path | str,
    file: Path | str,
    output: Path | str,
    *,
    rung: str | None = None,
    device: str = "auto",
    watcher: Watcher | None = None,
    purse: Purse | None = None,
) -> Answered:
    """Answer every input of a file; one JSON line each, in order, into `output`.

    Inputs that `output` already answers (by id, with the same rung and the same input) are left as they are, so a
    broken-off call continues.

    Args:
        run: A run folder, or a task folder (its newest finished run).
        rung: Another rung of the climb than the one the verdict recommends.
        purse: What hosted models draw on, from whoever holds the output (`held_output`); without one, the task's budget for
            this output, however often it is continued.
    Raises:
        RunError: No such rung was fitted, or another process answers into `output`. DataError: The input file cannot be used.
        EngineError: A server gave no answer; those before it are in the file.
    """
    watcher = watcher or Watcher()
    folder = find_run(run)
    name = rung or plain_name(folder.read_verdict().verdict.rung)
    if name is None:
        raise RunError("the verdict names no rung.", "Choose one with --rung.")
    if name == "recorded":
        raise RunError("recorded answers exist for the climb's own rows only.", "Choose another rung with --rung.")
    task = Task.load(folder.task_folder)
    target = Path(output)
    if target.exists() and not target.is_file():  # a folder, or a device, whose end would never be read
        raise UsageError(f"{target} is no file.", "Give --output a file name.")
    if purse is None:
        with held_output(target, task) as own:
            return predict(folder.path, file, target, rung=name, device=device, watcher=watcher, purse=own)
    read = read_examples(task)
    inputs = [row.input for row in read_inputs(Path(file), task.settings.data, shared_instruction=read.shared_instruction)]
    calls = wants_tool_calls(read.examples)
    done = _answered_before(target, name, inputs)
    waiting = [item for item in inputs if item.id not in done]
    cut = sum(bool(line.get("cut")) for line in done.values())
    if waiting:
        check = _LengthCheck(Path(file), waiting)
        predictor = restore_rung(folder, name, device=device, watcher=watcher, check=check, purse=purse)
        watcher.progress.start(f"{name} answers", len(waiting))
        for start in range(0, len(waiting), ROWS_AT_ONCE):
            batch = waiting[start : start + ROWS_AT_ONCE]
            for item, prediction in zip(batch, predictor.predict(batch), strict=True):
                if prediction.fault:  # lines stay in the inputs' order, so the next call goes on from here
                    raise EngineError(f"The input '{item.id}' got no answer: {prediction.fault}.", "Run it again to continue.")
                cut += prediction.cut
                files.append_line(
                    target, json.dumps(_line(name, item, prediction, calls=calls or bool(item.tools)), ensure_ascii=False)
                )
            watcher.progress.advance(len(batch))
        watcher.progress.finish()
    return Answered(name, len(inputs), len(waiting), cut)


@contextmanager
def held_output(output: Path, task: Task, *, fresh: bool = False) -> Iterator[Purse]:
    """Keep other processes from an output; gives the task's budget, less what was spent on this output before.

    Args:
        fresh: Remove what is there, and forget what was spent on it.
    Raises:
        RunError: Another process answers into it.
    """
    try:
        with files.lock(output.with_name(f".{output.name}.lock")):
            for path in (output, money_beside(output)) if fresh else ():
                path.unlink(missing_ok=True)
            purse = wiring.build_purse(task)
            purse.keep_in(money_beside(output))
            yield purse
    except files.Locked as error:
        raise RunError(f"another process answers into {output}.", "Wait for it, or stop it first.") from error


def money_beside(output: Path) -> Path:
    return output.with_name(f"{output.name}.money.jsonl")


@dataclass(frozen=True)
class _LengthCheck:
    """Refuses new inputs that do not fit into the context, before the first is answered."""

    file: Path
    inputs: Sequence[Input]

    def __call__(self, task: Task, engine: Engine, recipe: Recipe, room: int) -> None:
        """Rungs that ask no model have no `form` and take any length.

        Raises:
            DataError: An input is too long; its line, length and the limit are named.
        """
        context = engine.identity.context_tokens
        if not context or "count" not in engine.can or "form" not in recipe:
            return
        form = form_of(recipe)
        counts = engine.count_tokens([form.render(task, item) for item in self.inputs])
        for item, count in zip(self.inputs, counts, strict=True):
            if count + room > context:
                problem = (
                    f"the prompt of the input '{item.id}' has {count} tokens and its answer needs room for {room}, "
                    f"but {engine.identity.name} has a context of {context}."
                )
                line = line_of_input(self.file, task.settings.data, item.id)
                raise DataError(self.file, line, problem, "Shorten the input, or drop the line.")


def restore_rung(
    folder: RunFolder,
    name: str,
    *,
    device: str = "auto",
    watcher: Watcher | None = None,
    check: Callable[[Task, Engine, Recipe, int], None] | None = None,
    purse: Purse | None = None,
) -> Predictor:
    """A fitted rung of a finished run, ready to answer.

    Args:
        check: Asked with the task, the engine, the rung's recipe and the limit on new tokens, before anything is answered.
        purse: What hosted models draw on together; one of its own for this call when none is given.
    Raises:
        RunError: The run holds no such rung.
    """
    bare, _, compared = name.partition(" @ ")
    watcher, purse = watcher or Watcher(), purse or wiring.build_purse(Task.load(folder.task_folder))
    options = ClimbOptions(device=device, seed=int(folder.read_state().get("options", {}).get("seed", 0)))
    base = make_base(Task.load(folder.task_folder), options, watcher, write_split=False, purse=purse)
    choices = keep_plan(folder, Plan.none()).choices
    splits = base.data.splits
    cross = splits.regime in ("cross", "prompts")
    world = whole_world(base.task, base.data.examples, splits) if cross else _only_world(base)
    engine = wiring.build_engine(compared, base.task, device=device, purse=purse) if compared else base.engine
    if cross and any(folder.read_result(name, fold) is not None for fold in range(choices.folds)):
        refit_rung(base, folder, {compared: record_engine(engine, folder, base.answers)}, choices, name)
    recorded = folder.read_result(name, None)
    if recorded is None:
        known = sorted({path.parent.name.split("-fold")[0] for path in folder.path.glob("rungs/*/recipe.json")})
        raise RunError(f"{folder.path} has no fitted rung '{name}'.", f"It has: {', '.join(known) or 'none'}.")
    at = f" @ {compared}" if compared else ""
    below = {lower: folder.read_result(lower + at, None) for lower in STANDS_ON.get(bare, ())}
    recipes: dict[str, Recipe] = {lower: result["recipe"] for lower, result in below.items() if result is not None}
    context = fit_context(base, world, engine, choices, folder.rung_folder(name, None), recipes)
    context = context_of_rung(base, bare, context, folder)
    context = replace(context, engine=bare_engine(context.engine))  # new inputs are no part of the run
    if check is not None:
        check(base.task, engine, recorded["recipe"], context.max_new_tokens)
    return technique(bare).restore(recorded["recipe"], context)


def _only_world(base: Base) -> World:
    return build_worlds(base.task, base.data.examples, base.data.splits, folds=1)[0]


def _answered_before(target: Path, rung: str, inputs: Sequence[Input]) -> dict[str, dict[str, Any]]:
    """Complete lines of an earlier, broken-off call.

    Raises:
        DataError: The file holds something else; it is not touched.
    """
    asked = {item.id: _hash_input(item) for item in inputs}
    done: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(files.read_lines(target), start=1):
        line = _read_line(text)
        if not isinstance(line, dict) or "rung" not in line or "input_sha256" not in line:
            raise _no_answers(target, number)
        if line["rung"] != rung or asked.get(line["id"]) != line["input_sha256"]:
            raise DataError(target, number, "the answers in it are another rung's or another file's.", "Choose another --output.")
        done[line["id"]] = line
    _take_out_torn_line(target, len(done) + 1)
    return done


def _read_line(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _take_out_torn_line(target: Path, number: int) -> None:
    """Whoever reads the answers finds whole lines only: the one that a kill tore goes, and is answered again."""
    content = target.read_bytes() if target.exists() else b""
    whole, torn = content[: content.rfind(b"\n") + 1], content[content.rfind(b"\n") + 1 :]
    if not torn:
        return
    if not torn.startswith(LINE_BEGINS[: len(torn)]):
        raise _no_answers(target, number)
    files.write_bytes(target, whole)


def _no_answers(target: Path, number: int) -> DataError:
    return DataError(target, number, "this is not a file of answers.", "Choose another --output.")


def _hash_input(item: Input) -> str:
    return files.hash_json([[message.as_chat() for message in item.messages], list(item.tools)])


def _said_and_called(text: str) -> dict[str, Any]:
    """What was said, and the calls apart; arguments that are no JSON object stay a text."""
    message = read_answer(text)
    parsed = [(call, parse_arguments(call.arguments)) for call in message.tool_calls]
    called = [{"name": call.name, "arguments": call.arguments if value is None else value} for call, value in parsed]
    return {"answer": message.content, "tool_calls": called}


def _line(rung: str, item: Input, prediction: Prediction, *, calls: bool) -> dict[str, Any]:
    spoken = prediction.generation
    return {
        "id": item.id,
        **(_said_and_called(prediction.text) if calls else {"answer": prediction.text}),
        "rung": rung,
        "cut": prediction.cut,
        "retrieved": list(prediction.retrieved),
        "input_sha256": _hash_input(item),
        "model_sha256": spoken.model_sha256 if spoken else "",
        "adapter_sha256": spoken.adapter_sha256 if spoken else None,
        "latency_seconds": prediction.latency_seconds,
    }
