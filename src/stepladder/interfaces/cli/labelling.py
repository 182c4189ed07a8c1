"""The command `label`: a person and a model make the first good examples."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Protocol

from stepladder.domain.errors import UsageError
from stepladder.domain.messages import Input
from stepladder.domain.task import Task
from stepladder.interfaces.cli.answering import Answering, Command, Reply
from stepladder.interfaces.cli.climbing import watching
from stepladder.interfaces.cli.dialogue import Dialogue, has_person, open_dialogue
from stepladder.interfaces.cli.progress import duration
from stepladder.service.label import Labelling, Question, labelling
from stepladder.service.label_summary import LabelSummary, summarise
from stepladder.service.new_task import STARTER, NewTask, schema_of, write_new_task
from stepladder.storage.records import to_json


def label(
    folder: Path,
    file: Path | None,
    *,
    teacher: str | None,
    count: int,
    again: int,
    teacher_rows: int,
    device: str,
    as_json: bool,
) -> None:
    """Label, ask some rows again, add the teacher's rows, say what it has come to."""
    if teacher_rows and teacher is None:
        raise UsageError("--teacher-rows needs --teacher.", "Name the model that answers them.")
    task = Task.load(folder) if (folder / "task.toml").is_file() else _ask_for_task(folder, file)
    with (
        watching() as watcher,
        labelling(task, file, teacher=teacher, count=count, again=again, device=device, watcher=watcher) as work,
    ):
        for note in work.notes:
            watcher.say(note)
        if work.wants_person():
            otherwise = "Run it in a terminal; with --count 0 and --teacher-rows a teacher answers alone."
            with open_dialogue("label", otherwise) as dialogue:
                _hold(work, dialogue)
        if teacher_rows:
            kept = work.add_teacher_rows(teacher_rows)
            watcher.say(f"{kept} of {teacher_rows} rows answered by the teacher alone could be kept.")
        summary = summarise(work)
    _show(summary, as_json=as_json)


def _show(summary: LabelSummary, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_json(summary), ensure_ascii=False, indent=2))
        return
    for line in summary.lines:
        print(line)


def _hold(work: Labelling, dialogue: Dialogue) -> None:
    """Both rounds, until they are finished or the person stops."""
    answering = Answering(work.task, dialogue)
    if work.task.settings.instruction:
        dialogue.say(work.task.settings.instruction, "bold")
    while (question := work.next_question()) is not None:
        _open(dialogue, question, "")
        reply = _ask(answering, question, (Command.SKIP, Command.UNDO, Command.STOP), work.answer)
        if reply is Command.STOP:
            return
        if reply is Command.SKIP:
            work.skip(question)
        elif reply is Command.UNDO and not work.undo():
            dialogue.say("There is nothing to undo.")
    _hold_second_round(work, dialogue, answering)


def _hold_second_round(work: Labelling, dialogue: Dialogue, answering: Answering) -> None:
    told = False
    while (question := work.next_again()) is not None:
        if not told:
            told = True
            dialogue.say()
            dialogue.say(
                f"Now {question.total - question.number + 1} rows once more, in another order and without drafts."
                " Your first answers stay; the two together say how sure the labels are.",
                "bold",
            )
        _open(dialogue, question, "once more ")
        reply = _ask(answering, question, (Command.SKIP, Command.STOP), work.answer_again)
        if reply is Command.STOP:
            return
        if reply is Command.SKIP:
            work.skip_again(question)


def _open(dialogue: Dialogue, question: Question, round_name: str) -> None:
    seconds = question.seconds_left or 0.0
    left = f" · about {duration(seconds)} left" if seconds >= 1 else ""
    dialogue.rule(f"{round_name}{question.number} of {question.total}{left}")
    dialogue.say(shown_input(question.row.input))
    dialogue.say()
    if question.draft.problem:
        dialogue.say(f"No draft to accept: {question.draft.problem}.", "dim")


class _Keep(Protocol):
    def __call__(self, question: Question, text: str, *, seconds: float) -> str: ...


def _ask(answering: Answering, question: Question, commands: tuple[Command, ...], keep: _Keep) -> Reply:
    """Ask until the answer follows the task's output; what does not is offered again to be corrected."""
    began = time.monotonic()
    draft, usable = question.draft.text, bool(question.draft.text) and not question.draft.problem
    while True:
        reply = answering.ask(draft, commands, usable=usable)
        if isinstance(reply, Command):
            return reply
        problem = keep(question, reply, seconds=time.monotonic() - began)
        if not problem:
            return reply
        answering.dialogue.say(f"That cannot be kept: {problem}.", "red")
        draft, usable = reply, False


def shown_input(item: Input) -> str:
    """A question as a person reads it; the roles are named where there is more than one turn."""
    if len(item.messages) == 1:
        return item.messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in item.messages)


def _ask_for_task(folder: Path, file: Path | None) -> Task:
    """The few things that must be known before the first row can be labelled; everything else has a default.

    Raises:
        UsageError: Nobody is there to answer, or there are no inputs to label.
    """
    begin = f"Run `stepladder init {folder}` first, or run `stepladder label {folder} FILE` in a terminal."
    if file is None or not has_person():
        raise UsageError(f"{folder} has no task.toml.", begin)
    with open_dialogue("label", begin) as dialogue:
        dialogue.say(f"{folder} is no task yet. Four questions make it one; task.toml can be changed later.", "bold")
        instruction = ""
        while not instruction.strip():
            instruction = _line(dialogue, "What is wanted, as you would tell a colleague: ")
        kinds = ("one of a few labels", "JSON with fields", "free text")
        kind = dialogue.choose("What is an answer?  ", kinds)
        labels = _ask_labels(dialogue) if kind == 0 else ()
        schema = _ask_schema(dialogue) if kind == 1 else None
        base = _line(dialogue, f"Model (Enter = {STARTER}): ").strip() or STARTER
        return write_new_task(folder, NewTask(instruction.strip(), labels, schema, base))


def _ask_labels(dialogue: Dialogue) -> tuple[str, ...]:
    while True:
        written = _line(dialogue, "The labels, separated by commas: ")
        labels = tuple(dict.fromkeys(label.strip() for label in written.split(",") if label.strip()))
        if len(labels) > 1:
            return labels
        dialogue.say("There must be two at least.", "red")


def _ask_schema(dialogue: Dialogue) -> dict[str, object]:
    dialogue.say("The fields, one a line: NAME, NAME: number, NAME: yes/no, or NAME: one, two, three. An empty line ends.")
    fields: list[str] = []
    while True:
        written = _line(dialogue, f"field {len(fields) + 1}: ").strip()
        if not written and fields:
            return schema_of(fields)
        try:
            schema_of([*fields, written])
            fields.append(written)
        except UsageError as error:
            dialogue.say(str(error), "red")


def _line(dialogue: Dialogue, prompt: str) -> str:
    written = dialogue.line(prompt)
    if written is None:
        raise KeyboardInterrupt
    return written
