"""Only the fine-tune: a task's training rows to a PEFT folder. The test rows are not looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from stepladder import files
from stepladder.domain.errors import DataError, ModelError, RunError, UsageError
from stepladder.domain.messages import Example, Input
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import Choices, Conversation, FitContext, Preference, Tuned
from stepladder.domain.task import Task
from stepladder.domain.verdict import Interval
from stepladder.evaluation.statistics import mean_interval
from stepladder.evaluation.verdict import MOST_CUT
from stepladder.service.figures import interval_text
from stepladder.service.setup import Base, ClimbOptions, Tools, Watcher, fit_context, make_base
from stepladder.service.worlds import World, build_worlds, whole_world
from stepladder.techniques.asking import ZeroShot, generate, step
from stepladder.techniques.dpo import preferences, preferred
from stepladder.techniques.forms import INPUT_SLOT, PLAIN, Form, own_forms
from stepladder.techniques.tuning import FEWEST_ROWS, conversations

Method = Literal["sft", "dpo"]
SIDE_FILE = "stepladder.json"  # marks a folder that a training has left, and that the next one may replace
CARD = "README.md"
CARD_SECTION = "## Measured on the task"


@dataclass(frozen=True)
class FineTune:
    """A finished fine-tune. Scores are the deciding grader's on the held-out rows, which also stopped the training.

    Cut shares: of the answers to these rows that reached the token limit without ending by themselves.
    """

    folder: Path
    task: str
    method: str
    form: str  # of the prompt it was trained on
    rows: int
    held_out_rows: int
    adapter_sha256: str
    held_out_loss: float
    best_step: int
    steps: int
    seconds: float
    untuned_score: Interval
    score: Interval
    untuned_cut_share: float
    cut_share: float

    @property
    def runs_on(self) -> bool:
        """Whether the tuned model has unlearned to end its turn: over 5 % of its answers are cut, and more than untuned."""
        return self.cut_share > max(MOST_CUT, self.untuned_cut_share)

    def __str__(self) -> str:
        alarm = [f"It does not end its turn: {self._cut_text()}. Look at how the training rows end."] if self.runs_on else []
        return "\n".join(
            [
                f"Adapter: {self.folder}",
                f"Trained on {self.rows} rows in {self.seconds:.0f} s: step {self.best_step} of {self.steps} kept, held-out loss "
                f"{self.held_out_loss:.4f}.",
                f"Score on {self.held_out_rows} held-out rows: {interval_text(self.untuned_score)} untuned, "
                f"{interval_text(self.score)} tuned. These rows stopped the training; `stepladder climb` confirms on test rows.",
                *alarm,
            ]
        )

    def _cut_text(self) -> str:
        return f"{self.cut_share:.0%} of its answers reach the token limit, untuned {self.untuned_cut_share:.0%}"


def tune(
    task: Task | Path | str,
    *,
    method: Method = "sft",
    output: Path | str | None = None,
    start: Path | str | None = None,
    four_bit: bool = False,
    device: str = "auto",
    seed: int = 0,
    watcher: Watcher | None = None,
    tools: Tools | None = None,
) -> FineTune:
    """Fine-tune the task's base model on its training rows, and measure the adapter on the held-out rows.

    Rows are read, checked and split as for a climb. Called again, it continues a training that was broken off, and returns
    a finished one at once. The prompt is the first of `[[prompts]]`, else the plain instruction.

    Args:
        method: "sft" learns the references; "dpo" goes on from that adapter to prefer them to the rows' non-preferred answers.
        output: Folder of the adapter; by default `tuned/METHOD` in the task folder.
        four_bit: Train and measure over the base model's weights in 4 bits.
        start: With "dpo", the adapter to go on from; by default `tuned/sft` (`tuned/sft-4bit`), trained first
            where it is not finished.
    Raises:
        DataError: The task or its data cannot be used, or leaves no rows to learn or to stop by.
        ModelError: The model's weights are not on this machine, or cannot be tuned on these rows.
        UsageError: `output` holds something else than an adapter of ours.
        RunError: Another process is training into `output`.
    """
    task = task if isinstance(task, Task) else Task.load(task)
    _check_method(method, start)
    folder = Path(output) if output is not None else _default_folder(task, method, four_bit=four_bit)
    _check_output(folder)
    options = ClimbOptions(device=device, seed=seed)
    base = make_base(task, options, watcher or Watcher(), tools=tools, four_bit=four_bit)
    begin = Path(start) if start is not None else _default_folder(task, "sft", four_bit=four_bit)
    return fine_tune(base, folder, method=method, start=begin, trained=start is not None)


def _default_folder(task: Task, method: Method, *, four_bit: bool) -> Path:
    return task.folder / "tuned" / (f"{method}-4bit" if four_bit else method)


def fine_tune(base: Base, folder: Path, *, method: Method, start: Path, trained: bool = False) -> FineTune:
    """`tune` for a task that has been read and whose model is loaded.

    Args:
        trained: Whether the adapter at `start` is there already; otherwise preference tuning trains it first.
    """
    if base.tuner is None:
        raise ModelError(
            f"The weights of '{base.engine.identity.name}' are not on this machine, so they cannot be tuned here.",
            "Name a local model in `[model] base`.",
        )
    world = tuning_world(base)
    form = next(iter(own_forms(base.task)), PLAIN)
    context = fit_context(base, world, base.engine, Choices(seeds=1), folder.parent, {})
    base.watcher.say(f"Training on {len(world.tune_rows)} rows, stopped by {len(world.held_out)} others. Prompt: '{form.name}'.")
    if method == "sft":
        with _alone(folder):
            return _report(base, context, form, method, _train(base, context, form, folder))
    rows, held_out = (preferences(context, ZeroShot(context, form), part) for part in (context.tune_rows, context.held_out))
    _check_pairs(base, len(rows), len(held_out))
    if not trained:
        _check_output(start)
        with _alone(start):
            _train(base, context, form, start)
    with _alone(folder):
        return _report(base, context, form, method, _prefer(base, context, rows, held_out, start, folder))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with files.lock(folder.parent / f".{folder.name}.lock"):
            yield
    except files.Locked as error:
        raise RunError(f"Another process is training into {folder}.", "Wait for it, or give another --output.") from error


def _check_method(method: str, start: Path | str | None) -> None:
    if method not in get_args(Method):
        raise UsageError(f"'{method}' is no way to tune.", f"Choose among {', '.join(get_args(Method))}.")
    if start is not None and method != "dpo":
        raise UsageError("only preference tuning goes on from an adapter.", "Add --method dpo, or leave --start out.")


def _check_pairs(base: Base, rows: int, held_out: int) -> None:
    if rows and held_out:
        return
    settings = base.task.settings.data
    where = base.task.path(settings.examples or settings.train or "")
    raise DataError(
        where,
        None,
        f"preference tuning needs rows with a non-preferred answer, to learn and to stop by; there are {rows} and {held_out}.",
        "Add such rows, or tune with --method sft.",
    )


def tuning_world(base: Base) -> World:
    """The rows to learn from and to stop by. Of a small data set, which a climb would cross-fit, all rows are used.

    Raises:
        DataError: One of the two is empty.
    """
    data = base.data
    if data.splits.regime in ("cross", "prompts"):
        world = whole_world(base.task, data.examples, data.splits)
    else:
        world = build_worlds(base.task, data.examples, data.splits, folds=1)[0]
    if not world.tune_rows or not world.held_out:
        settings = base.task.settings.data
        where = base.task.path(settings.examples or settings.train or "")
        raise DataError(where, None, "no rows are left to learn from, or none to stop the training by.", "Add examples.")
    if len(world.train) < FEWEST_ROWS:
        base.watcher.say(
            f"Only {len(world.train)} training rows: a climb would not tune on fewer than {FEWEST_ROWS}, since prompts do better."
        )
    return world


def _check_output(folder: Path) -> None:
    """A finished training replaces its folder as a whole, so it must be none of the user's own."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / SIDE_FILE).is_file()):
        raise UsageError(f"{folder} holds something else than an adapter of Stepladder.", "Give --output a new folder.")


def _train(base: Base, context: FitContext, form: Form, folder: Path) -> Tuned:
    assert base.tuner is not None
    rows, held_out = _rows(context, form, context.tune_rows), _rows(context, form, context.held_out)
    with step(context.progress, "fine-tune"):
        return base.tuner.tune(
            rows, held_out, base.task.settings.rungs.lora, folder=folder, seed=context.seed, progress=context.progress
        )


def _prefer(
    base: Base, context: FitContext, rows: Sequence[Preference], held_out: Sequence[Preference], start: Path, folder: Path
) -> Tuned:
    settings = base.task.settings.rungs.dpo
    assert base.tuner is not None
    with step(context.progress, "preferences"):
        return base.tuner.prefer(
            rows, held_out, settings, start=start, folder=folder, seed=context.seed, progress=context.progress
        )


def _rows(context: FitContext, form: Form, examples: Sequence[Example]) -> list[Conversation]:
    return conversations(context, examples, ZeroShot(context, form)([example.input for example in examples]))


def _report(base: Base, context: FitContext, form: Form, method: Method, tuned: Tuned) -> FineTune:
    """The held-out rows answered by the base model, and by the adapter as it lies in its folder; the card says so, too."""
    losses = tuned.held_out_nll
    untuned_answers, answers = (_answers(context, form, adapter) for adapter in (None, tuned.folder))
    done = FineTune(
        folder=tuned.folder,
        task=base.task.settings.name,
        method=method,
        form=form.name,
        rows=len(context.tune_rows if method == "sft" else preferred(context.tune_rows)),
        held_out_rows=len(context.held_out),
        adapter_sha256=tuned.adapter_sha256,
        held_out_loss=sum(losses) / len(losses),
        best_step=tuned.best_step,
        steps=tuned.steps,
        seconds=tuned.seconds,
        untuned_score=_score(base, context, untuned_answers),
        score=_score(base, context, answers),
        untuned_cut_share=_cut_share(untuned_answers),
        cut_share=_cut_share(answers),
    )
    _complete_card(base, context, form, done)
    return done


def _answers(context: FitContext, form: Form, adapter: Path | None) -> list[Prediction]:
    asked = ZeroShot(context, form)([example.input for example in context.held_out])
    return generate(context, asked, adapter=adapter)


def _score(base: Base, context: FitContext, answers: Sequence[Prediction]) -> Interval:
    rows = base.marker.rows("tuned", "held-out", context.held_out, answers, fold=None)
    return mean_interval([float("nan") if row.score is None else row.score for row in rows], seed=context.seed)


def _cut_share(answers: Sequence[Prediction]) -> float:
    return sum(answer.cut for answer in answers) / len(answers)


def _complete_card(base: Base, context: FitContext, form: Form, done: FineTune) -> None:
    """Add to the model card what this task measured, and how the model has to be asked."""
    path = done.folder / CARD
    card = path.read_text(encoding="utf-8").partition(CARD_SECTION)[0].rstrip() if path.is_file() else f"# {done.task}"
    shown = form.render(base.task, Input.of(INPUT_SLOT))
    prompt = "\n".join(f"[{message.role}]\n{message.content}" for message in shown.messages)
    grader = base.marker.graders[0].name
    lines = [
        card,
        "",
        CARD_SECTION,
        "",
        f"Task: {done.task}. Trained on {done.rows} rows in {done.seconds:.0f} s ({base.engine.identity.dtype}).",
        "",
        f"| {grader}, {done.held_out_rows} held-out rows | 95 % interval | answers cut at the token limit |",
        "|---|---|---|",
        f"| untuned | {interval_text(done.untuned_score)} | {done.untuned_cut_share:.0%} |",
        f"| tuned | {interval_text(done.score)} | {done.cut_share:.0%} |",
        "",
        "The held-out rows also stopped the training, so the tuned score is a little too good; no test row was looked at.",
        "",
        f"Ask it as it was trained, with the input in place of `{INPUT_SLOT}` (answers up to {context.max_new_tokens} tokens):",
        "",
        "````",
        prompt,
        "````",
        "",
    ]
    files.write_text(path, "\n".join(lines))
