"""What a climb stands on before its first rung: data, engine, plan, run folder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from stepladder import files
from stepladder.data.probes import load_probes
from stepladder.data.split import record_opening
from stepladder.domain.answer import expected_answer
from stepladder.domain.errors import DataError, ModelError, RunError
from stepladder.domain.grader_settings import judges_in
from stepladder.domain.messages import Example
from stepladder.domain.protocols import Choices, Embedder, Engine, FitContext, Progress, Recipe, SilentProgress, Tuner
from stepladder.domain.sealed import Opened
from stepladder.domain.task import Task
from stepladder.engines.address import moved_models
from stepladder.engines.answers import AnswerStore, CachedEngine
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.purse import Purse
from stepladder.evaluation.graders import Grader, build_graders, cannot_judge
from stepladder.evaluation.graders.style import Style
from stepladder.models.catalog import is_remote
from stepladder.service import wiring
from stepladder.service.check import Checked, brief_lines, check_accepted, refuse_blocked, run_on
from stepladder.service.judging import check_judges
from stepladder.service.plan import Plan
from stepladder.service.rung_run import Marker
from stepladder.service.task_data import TaskData, load_task_data, task_files
from stepladder.service.worlds import World
from stepladder.storage.records import from_json, to_json
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.forms import PLAIN, bank_of, own_forms

FOUR_BIT_RUNGS = ("qlora",)
GRADING = ("sacrebleu", "rapidfuzz", "nltk", "pydantic-monty", "google-re2")
"""Packages that grades may come from."""
SAME_RUN: Mapping[str, Any] = {
    "budget": {"usd"},
    "model": {"concurrency", "timeout_seconds"},
    "rungs": {"hosted": {"wait_minutes", "poll_seconds"}},
}
"""Settings that change no answer: a run is continued with more money, or with more patience."""
CHARACTERS_PER_TOKEN = 3.0
"""For engines that cannot count before sending: few enough that the limit on new tokens is not too low."""


@dataclass(frozen=True)
class ClimbOptions:
    """How to climb; everything has a default.

    `budget_minutes` overrides `[budget] minutes`. `tune_anyway` climbs tuned rungs that would be refused.
    `fresh` starts a new run although an unfinished one could be continued. `cache` False neither reads nor keeps answers of
    other climbs.
    """

    budget_minutes: float | None = None
    device: str = "auto"
    seed: int = 0
    tune_anyway: bool = False
    fresh: bool = False
    cache: bool = True


@dataclass(frozen=True)
class Watcher:
    """Who is told while a climb goes on: progress of long work, and lines worth keeping."""

    progress: Progress = field(default_factory=SilentProgress)
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Tools:
    """What answers, trains, embeds and judges. Without any given, `wiring` makes them from the names in task.toml.

    `judges` are engines of model judges by the model's name; those not given are made from it. `four_bit` loads the same
    model with its weights in 4 bits, when that is first wanted; None where it cannot be had. `answers` are kept from climb to
    climb; without any, each climb asks for itself.
    """

    engine: Engine
    tuner: Tuner | None
    embedder: Embedder
    judges: Mapping[str, Engine] = field(default_factory=dict)
    four_bit: Callable[[], Tools] | None = None
    answers: AnswerStore | None = None


@dataclass(frozen=True)
class Base:
    """The tools of a climb, the same for every rung."""

    data: TaskData
    engine: Engine
    tuner: Tuner | None
    embedder: Embedder
    marker: Marker
    options: ClimbOptions
    watcher: Watcher
    checked: Checked
    four_bit: Callable[[], Tools] | None = None
    answers: AnswerStore | None = None
    purse: Purse | None = None
    judged: Callable[[], int] = lambda: 0  # how many judgements have been asked for

    @property
    def task(self) -> Task:
        return self.data.task


def make_base(
    task: Task,
    options: ClimbOptions,
    watcher: Watcher,
    *,
    tools: Tools | None = None,
    write_split: bool = True,
    four_bit: bool = False,
    purse: Purse | None = None,
) -> Base:
    """Read the data first (cheap, and where most faults are), then load the model, in 4 bits if so wanted, and check the rows.

    Raises:
        DataError: The data cannot be read, or a check blocks and the split shall be written; nothing is written then.
    """
    wiring.set_threads()
    check_accepted(task)
    embedder = tools.embedder if tools is not None else wiring.build_embedder()
    data = load_task_data(task, embedder, seed=options.seed, write=False)
    judges = tools.judges if tools is not None else {}
    if options.fresh:
        wiring.judgements_path(data.task, cache=False).unlink(missing_ok=True)
    grader_tools = wiring.grader_tools(data.task, embedder, judges, device=options.device, purse=purse, cache=options.cache)
    marker = Marker(build_graders(data.task, grader_tools, examples=data.examples))
    check_task(data, marker)
    for note in data.notes:
        watcher.say(note)
    tools = tools or build_tools(data.task, options, embedder, purse, four_bit=four_bit)
    check_tools(data, tools.engine)
    check_lengths(data, tools.engine)
    checked = Checked(task, run_on(task, embedder, engine=tools.engine))
    for line in brief_lines(checked.report):
        watcher.say(line)
    if write_split:
        refuse_blocked(checked)
        data = load_task_data(task, embedder, seed=options.seed)
    return Base(
        data,
        tools.engine,
        tools.tuner,
        tools.embedder,
        marker,
        options,
        watcher,
        checked,
        tools.four_bit,
        tools.answers,
        purse,
        grader_tools.misses,
    )


def check_task(data: TaskData, marker: Marker) -> None:
    """Find, before anything is written or asked, what would break the climb later.

    Raises:
        DataError: An own prompt or probe cannot be read, or a grader cannot judge a reference.
        PrivacyError: A compared model, a judge or a fine-tuning endpoint is elsewhere and the data may not leave.
    """
    check_judges(data.task)
    own_forms(data.task)
    load_probes(data.task)
    for name in data.task.settings.model.compare:
        if is_remote(name):
            wiring.check_hosted(name, data.task)
    wiring.check_hosted_tuning(data.task)
    check_references(data.examples, data.file_of, marker.graders)


def check_references(examples: Sequence[Example], file_of: Mapping[str, Path], graders: Sequence[Grader]) -> None:
    """Every grader must be able to judge every reference.

    Raises:
        DataError: One cannot; its file and line are named.
    """
    for example in examples:
        for grader in graders:
            if isinstance(grader, Style):
                continue  # it cannot judge before it has learned
            fault = cannot_judge(grader, example)
            if fault is not None:
                problem = f"grader '{grader.name}' cannot judge this reference: {fault.reason}."
                raise DataError(
                    file_of[example.id], example.line, problem, "Choose another grader in task.toml, or correct the row."
                )


def check_lengths(data: TaskData, engine: Engine) -> None:
    """Every row must fit into the model's context with the instruction and room for an answer; nothing is ever cut to fit.

    Raises:
        DataError: The first row that does not; its file, line, length and the limit are named, and how many others there are.
    """
    context = engine.identity.context_tokens
    if not context or "count" not in engine.can or not data.examples:
        return  # the engine says so itself when it is asked
    room = new_token_limit(data.examples, engine)
    counts = engine.count_tokens([PLAIN.render(data.task, example.input) for example in data.examples])
    longest = data.examples[counts.index(max(counts))]
    forms = [*own_forms(data.task), *bank_of(data.task)]
    extra = max(engine.count_tokens([form.render(data.task, longest.input) for form in forms])) - max(counts)
    answers = engine.count_text_tokens([expected_answer(example) for example in data.examples])
    long = [
        (example, count + extra)
        for example, count, answer in zip(data.examples, counts, answers, strict=True)
        if count + extra + max(room, answer) > context
    ]
    if not long:
        return
    example, count = long[0]
    others = f" Rows too long: {len(long)}." if len(long) > 1 else ""
    problem = (
        f"in its longest prompt the row '{example.id}' has {count} tokens and answers need room for {room}, "
        f"but {engine.identity.name} has a context of {context}.{others}"
    )
    hint = "Shorten or drop the row, or choose a model with a longer context in `[model] base`."
    raise DataError(data.file_of[example.id], example.line, problem, hint)


def check_tools(data: TaskData, engine: Engine) -> None:
    """Refuse, before it is asked, a model that would never see the tools of the data or whose calls could not be read.

    Raises:
        ModelError: It names the model and a row.
    """
    name = engine.identity.name
    offered = next((row for row in data.examples if row.input.tools), None)
    called = next((row for row in data.examples if row.reference.tool_calls), None)
    if offered is not None and "tools" not in engine.can:
        problem = f"The chat template of {name} drops tools: the model would never see those of row '{offered.id}'."
    elif called is not None and "calls" not in engine.can:
        problem = (
            f"The chat template of {name} drops tool calls, or writes them in an unknown way; row '{called.id}' expects one."
        )
    else:
        return
    raise ModelError(
        problem,
        "Name a model that was trained with tools (or a served one: `URL NAME`) in `[model]`, or remove them from the data.",
    )


def build_tools(
    task: Task, options: ClimbOptions, embedder: Embedder, purse: Purse | None = None, *, four_bit: bool = False
) -> Tools:
    """Engine and tuner behind `[model] base`."""
    name = task.settings.model.base
    engine = wiring.build_engine(name, task, device=options.device, purse=purse, four_bit=four_bit)
    tuner = wiring.build_tuner(name, task, device=options.device, four_bit=four_bit)
    other = None if tuner is None else partial(build_tools, task, options, embedder, four_bit=True)
    return Tools(engine, tuner, embedder, four_bit=other, answers=wiring.build_answers(use=options.cache))


def open_run(base: Base, runs: Path) -> RunFolder:
    """The unfinished run of the same data, split, settings, weights and servers, or a new one."""
    moved = moved_models(_other_models(base.task))
    key = files.hash_json(
        {
            "settings": base.task.settings.model_dump(mode="json", exclude=dict(SAME_RUN)),
            "data": base.data.fingerprint,
            "files": _hash_files(base.task),
            "splits": {**base.data.splits.split_of, **base.data.splits.fold_of},
            "model": asdict(base.engine.identity),
            "options": [base.options.budget_minutes, base.options.seed, base.options.tune_anyway],
            **({"moved": moved} if moved else {}),
        }
    )
    run = None if base.options.fresh else RunFolder.unfinished(runs, key)
    if run is not None:
        base.watcher.say(f"Continuing {run.path}: finished answers are not asked again.")
        copy = run.task_folder / "task.toml"
        whole = copy.exists()  # else killed before it was
        if not whole or copy.read_bytes() != (base.task.folder / "task.toml").read_bytes():  # its budget was raised
            run.keep_task(base.task.folder, task_files(base.task))
        return run
    state = {"key": key, "created": datetime.now(UTC).isoformat(timespec="seconds"), "options": asdict(base.options)}
    run = RunFolder.create(runs, state, now=datetime.now())
    run.keep_task(base.task.folder, task_files(base.task))
    return run


def _other_models(task: Task) -> list[str]:
    """Names of the models that are asked beside the base: compared ones, judges, the one that an endpoint tunes."""
    settings = task.settings
    judges = [judge.model for grader in settings.decided_graders() for judge in judges_in(grader)]
    tuned = settings.rungs.hosted.model if "hosted" not in settings.rungs.skip else None
    return [*settings.model.compare, *judges, *([tuned] if tuned else [])]


def _hash_files(task: Task) -> dict[str, str]:
    """Contents of everything beside task.toml that answers depend on: documents, prompts, schema."""
    paths = [task.folder / name for name in task_files(task) if name not in ("task.toml", "splits.json")]
    found = [inner for path in paths for inner in (sorted(path.rglob("*")) if path.is_dir() else [path]) if inner.is_file()]
    return {path.relative_to(task.folder).as_posix(): files.hash_file(path) for path in found}


def keep_plan(run: RunFolder, plan: Plan) -> Plan:
    """The plan of this run: the one it was begun with, so that a continued run makes the same choices."""
    state = run.read_state()
    if "plan" in state:
        return from_json(Plan, state["plan"])
    run.write_state({**state, "plan": to_json(plan)})
    return plan


def record_engine(engine: Engine, run: RunFolder, answers: AnswerStore | None) -> RecordedEngine:
    """Every answer is written to the run as it comes, and never asked twice; what `answers` knows is not asked at all."""
    return RecordedEngine(engine if answers is None else CachedEngine(engine, answers), run.generations_path)


def bare_engine(engine: Engine) -> Engine:
    """The engine itself, which remembers nothing."""
    return bare_engine(engine.engine) if isinstance(engine, RecordedEngine) else engine


def fit_context(
    base: Base, world: World, engine: Engine, choices: Choices, folder: Path, recipes: dict[str, Recipe]
) -> FitContext:
    """What the rungs of one world may see."""
    return FitContext(
        task=base.task,
        train=world.train,
        validation=world.validation,
        tune_rows=world.tune_rows,
        held_out=world.held_out,
        clusters=base.data.clusters,
        chunks=base.data.chunks,
        engine=engine,
        embedder=base.embedder,
        score=base.marker.scorer((*world.validation, *world.held_out)),
        folder=folder,
        tuner=base.tuner,
        choices=choices,
        seed=base.options.seed,
        progress=base.watcher.progress,
        recipes=recipes,
        max_new_tokens=new_token_limit(world.train, engine, thinking_tokens=base.task.settings.model.thinking_tokens),
        recorded=base.data.recorded,
    )


def context_of_rung(base: Base, rung: str, context: FitContext, run: RunFolder) -> FitContext:
    """The context with the engine and the tuner that this rung is made for.

    Raises:
        MissingExtra: It wants 4-bit weights, and what holds them is not installed.
        ModelError: It wants 4-bit weights, and this engine has none.
    """
    if rung == "hosted":
        hosted = wiring.build_hosted_tuner(base.task, lambda engine: record_engine(engine, run, base.answers), base.purse)
        return replace(context, hosted=hosted)
    if rung not in FOUR_BIT_RUNGS:
        return context
    if base.four_bit is None:
        raise ModelError(f"'{base.engine.identity.name}' cannot be held in 4 bits here.", "Name a local model in `[model] base`.")
    tools = base.four_bit()
    return replace(context, engine=record_engine(tools.engine, run, base.answers), tuner=tools.tuner)


def new_token_limit(train: tuple[Example, ...], engine: Engine, *, thinking_tokens: int = 0) -> int:
    """1.5 times the 99th percentile of the training answers, and 16 more (design §4), rounded up to a multiple of 8.

    The rounding keeps the limit equal between folds whose answers hardly differ, so their answers can be shared. A served model
    may write `thinking_tokens` beyond that.
    """
    texts = [expected_answer(example) for example in train]
    if "count" in engine.can:
        counts = engine.count_text_tokens(texts)
    else:
        counts = [ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts]
    limit = 1.5 * float(np.quantile(counts, 0.99)) + 16
    return int(ceil(limit / 8) * 8) + (thinking_tokens if engine.identity.served else 0)


def open_test(base: Base, run: RunFolder, worlds: Sequence[World]) -> Opened:
    """Note in the ledger that the test rows of these worlds are opened for this run; the proof that opens them."""
    openings = len(record_opening(base.task, run.name, [name for world in worlds for name in world.test.ids]))
    if openings >= 5:
        base.watcher.say(
            f"These test rows have now been opened {openings} times; each opening makes a lucky winner likelier. Add new rows."
        )
    return Opened(run.name, openings)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on; parts that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in (
        "stepladder",
        "torch",
        "transformers",
        "peft",
        "bitsandbytes",
        "llguidance",
        "openai",
        "anthropic",
        "numpy",
        "scipy",
        *GRADING,
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def runs_folder(task: Task) -> Path:
    """Where a task's runs are kept.

    Raises:
        RunError: The folder cannot be written.
    """
    folder = task.folder / "runs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}.", "Copy the task to a folder of yours.") from error
    return folder
