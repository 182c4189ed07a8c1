"""How a person answers one row: one key for a label, field by field for JSON, an editable line for text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from stepladder.domain.output import dump_json
from stepladder.domain.task import Task
from stepladder.interfaces.cli.dialogue import ENTER, ESCAPE, Dialogue, own_editor
from stepladder.service.label_fields import ABSENT, Field, fields_of


class Command(Enum):
    """What a person may say instead of an answer."""

    SKIP = "s"
    UNDO = "u"
    STOP = "q"


COMMAND_WORDS = {Command.SKIP: "s skip", Command.UNDO: "u undo the last", Command.STOP: "q stop"}
Reply = str | Command


@dataclass(frozen=True)
class Answering:
    """Asks for answers in the shape of a task's output."""

    task: Task
    dialogue: Dialogue

    def ask(self, draft: str, commands: Sequence[Command], *, usable: bool) -> Reply:
        """An answer or a command.

        Args:
            draft: What to begin from; "" shows none.
            usable: Whether the draft may be accepted as it stands, by Enter.
        """
        if self.task.settings.output.labels:
            return self._ask_label(draft if usable else "", commands)
        schema = self.task.output_schema
        fields = None if schema is None else fields_of(schema)
        if fields is not None:
            return self._ask_fields(fields, draft, commands, usable=usable)
        return self._ask_text(draft, commands, usable=usable)

    def _ask_label(self, draft: str, commands: Sequence[Command]) -> Reply:
        labels = self.task.settings.output.labels
        default = labels.index(draft) if draft in labels else None
        if default is not None:
            self.dialogue.say(f"draft: {draft}", "bold")
        self._hint([*(["Enter accepts the draft"] if default is not None else []), "a key chooses"], commands)
        while True:
            chosen = self.dialogue.choose("", labels, default=default, extra=[command.value for command in commands])
            if isinstance(chosen, int):
                return labels[chosen]
            if chosen != ESCAPE:
                return Command(chosen)
            return self._menu(commands)

    def _ask_fields(self, fields: Sequence[Field], draft: str, commands: Sequence[Command], *, usable: bool) -> Reply:
        values = _values(fields, draft)
        if values:  # a draft that is no JSON is of no use here
            self.dialogue.say("draft:", "bold")
            for field in fields:
                shown = "(left out)" if values.get(field.name, ABSENT) is ABSENT else dump_json(values[field.name])
                self.dialogue.say(f"  {field.name}: {shown}")
        ways = ["Enter accepts the draft", "e edits it"] if usable else ["Enter goes through the fields"]
        while True:
            self._hint(ways, commands)
            pressed = self.dialogue.key(ENTER, "e", *(command.value for command in commands))
            if pressed == ENTER and usable:
                return draft
            if pressed not in (ENTER, "e"):
                return Command(pressed)
            filled = self._fill(fields, values)
            if filled is not None:
                return dump_json(filled, self.task.output_schema)

    def _fill(self, fields: Sequence[Field], before: dict[str, Any]) -> dict[str, Any] | None:
        """Every field in turn, Enter keeps what was there; None when the person left by Esc."""
        values = dict(before)
        for field in fields:
            if field.description:
                self.dialogue.say(f"  ({field.description})", "dim")
            value = self._ask_field(field, values.get(field.name, ABSENT), known=field.name in before)
            if value is ESCAPE:
                return None
            values[field.name] = value
        return {name: value for name, value in values.items() if value is not ABSENT}

    def _ask_field(self, field: Field, before: Any, *, known: bool) -> Any:
        if field.kind == "choice":
            shown = ["leave out" if value is ABSENT else field.show(value) for value in field.choices]
            places = [place for place, value in enumerate(field.choices) if known and _same(value, before)]
            default = places[0] if places else None
            kept = f" [{shown[default]}]" if default is not None else ""
            chosen = self.dialogue.choose(f"  {field.name}{kept}: ", shown, default=default, extra=[ESCAPE])
            if not isinstance(chosen, int):
                return ESCAPE
            self.dialogue.say(f"  {field.name} = {shown[chosen]}")
            return field.choices[chosen]
        begun = field.show(before)
        while True:
            written = self.dialogue.line(f"  {field.name}: ", begun)
            if written is None:
                return ESCAPE
            try:
                return field.read(written)
            except ValueError:
                wanted = {"number": "a whole number" if field.whole else "a number"}.get(field.kind, "JSON, such as [1, 2]")
                self.dialogue.say(f"  That is not {wanted}.", "red")
                begun = written

    def _ask_text(self, draft: str, commands: Sequence[Command], *, usable: bool) -> Reply:
        if draft:
            self.dialogue.say("draft:", "bold")
            self.dialogue.say(draft)
        ways = ["Enter accepts the draft"] if usable else ["Enter writes an answer"]
        ways += ["e edits it", "n writes anew"] if draft else []
        ways += ["o opens your editor"] if own_editor() else []
        while True:
            self._hint(ways, commands)
            pressed = self.dialogue.key(ENTER, "e", "n", "o", *(command.value for command in commands))
            if pressed == ENTER and usable:
                return draft
            if pressed == "o":
                return self.dialogue.open_editor(draft)
            if pressed not in (ENTER, "e", "n"):
                return Command(pressed)
            written = self.dialogue.line("> ", "" if pressed == "n" else draft)
            if written is not None:
                return written

    def _menu(self, commands: Sequence[Command]) -> Command:
        """Where letters write, commands need a place of their own: behind Esc."""
        self._hint([], commands)
        return Command(self.dialogue.key(*(command.value for command in commands)))

    def _hint(self, ways: Sequence[str], commands: Sequence[Command]) -> None:
        self.dialogue.say(" · ".join([*ways, *(COMMAND_WORDS[command] for command in commands)]), "dim")


def _values(fields: Sequence[Field], draft: str) -> dict[str, Any]:
    """The draft's values of the fields, as far as it is a JSON object; keys that a model made up have no place in an answer."""
    try:
        value = json.loads(draft) if draft else {}
    except ValueError:
        return {}
    return {field.name: value[field.name] for field in fields if field.name in value} if isinstance(value, dict) else {}


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)
