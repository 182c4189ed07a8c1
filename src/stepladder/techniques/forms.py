"""Prompt forms: ways of saying the same instruction. What all rows share stands first, the input last.

An engine computes the common beginning of a rung's prompts once, so a form never puts an input before the instruction or the
demonstrations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stepladder.domain.answer import answer_text, canonical_message
from stepladder.domain.errors import DataError, RunError
from stepladder.domain.messages import Chunk, Example, Input, Message
from stepladder.domain.output import canonical_text
from stepladder.domain.protocols import Prompt, Recipe
from stepladder.domain.task import Task
from stepladder.techniques.shape import list_fields, remind, show_shape

INPUT_SLOT = "{input}"


@dataclass(frozen=True, slots=True)
class OwnPrompt:
    """A prompt of the user's, word for word (but for the line break that ends the file)."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class Form:
    """One way of saying the instruction.

    `place`: where the instruction stands ("nowhere": an empty system turn). `shape`: whether the allowed answers are shown, and
    how. `wrap`: what stands around the input. `reminder`: "reply with the answer only", before or after the input.
    """

    name: str
    place: Literal["system", "user", "nowhere"] = "system"
    shape: Literal["", "shown", "fields"] = ""
    rules: bool = False
    wrap: Literal["", "tags", "cues"] = ""
    reminder: Literal["", "before", "after"] = ""
    own: OwnPrompt | None = None

    def render(
        self, task: Task, input: Input, *, demonstrations: Sequence[Example] = (), passages: Sequence[Chunk] = ()
    ) -> Prompt:
        """The prompt for one input: system turn, demonstrations as user and assistant turns, then the input's own turns.

        The input's own system turn follows the instruction; earlier turns and tools stay as they are. Passages stand in the
        last user turn, before the question.
        """
        turns: list[Message] = []
        for example in demonstrations:
            turns += self._demonstration(task, example)
        turns += self._turns(task, input, passages)
        head, turns = self._open(task, turns)
        system = [*head, *(message.content for message in input.messages if message.role == "system")]
        opening = [Message("system", "\n\n".join(part for part in system if part))] if system else []
        return Prompt(input.id, (*opening, *turns), input.tools)

    def as_recipe(self) -> dict[str, Any]:
        """What names this form in a recipe; an own prompt is kept whole, since its file may change."""
        own = None if self.own is None else {"file": self.own.file, "text": self.own.text}
        return {"form": self.name, "own_prompt": own}

    def _open(self, task: Task, turns: list[Message]) -> tuple[list[str], list[Message]]:
        """Texts of the system turn, and the turns with the instruction put into the first user turn if it belongs there."""
        if self.own is not None:
            return self._open_own(self.own, turns)
        if self.place == "nowhere":
            return [""], turns
        text = self._instruction(task)
        first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
        if self.place == "system" or first is None:
            return [text], turns
        turns[first] = replace(turns[first], content=f"{text}\n\n{turns[first].content}")
        return [], turns

    def _open_own(self, own: OwnPrompt, turns: list[Message]) -> tuple[list[str], list[Message]]:
        if INPUT_SLOT not in own.text:
            return [own.text], turns
        head = own.text.split(INPUT_SLOT, 1)[0]
        first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            return [head.strip()], turns
        turns[first] = replace(turns[first], content=head + turns[first].content)
        return [], turns

    def _instruction(self, task: Task) -> str:
        shape = {"": "", "shown": show_shape(task), "fields": list_fields(task)}[self.shape]
        tags = "The input stands between <input> and </input>." if self.wrap == "tags" else ""
        reminder = remind(task) if self.reminder == "before" else ""
        parts = [part for part in (tags, shape, reminder) if part]
        instruction = task.settings.instruction
        if not self.rules:
            return "\n\n".join([instruction, *parts])
        rules = ["Follow the task to the letter.", "Use only what the input says.", *parts]
        return "\n".join([f"Task: {instruction}", "", "Rules:", *(f"{n}. {rule}" for n, rule in enumerate(rules, 1))])

    def _turns(self, task: Task, input: Input, passages: Sequence[Chunk]) -> list[Message]:
        """The input's turns but its system turn, the last user turn wrapped."""
        turns = [replace(message, weight=None) for message in input.messages if message.role != "system"]
        last = next((index for index in reversed(range(len(turns))) if turns[index].role == "user"), None)
        if last is not None:
            turns[last] = replace(turns[last], content=self._wrap(task, turns[last].content, passages))
        return turns

    def _wrap(self, task: Task, text: str, passages: Sequence[Chunk]) -> str:
        before = f"{show_passages(passages)}\n\n" if passages else ""
        if self.own is not None:
            tail = self.own.text.split(INPUT_SLOT, 1)[1] if INPUT_SLOT in self.own.text else ""
            return before + text + tail.replace(INPUT_SLOT, text)
        if self.wrap == "tags":
            text = f"<input>\n{text}\n</input>"
        elif self.wrap == "cues":
            text = f"Input: {text}"
        elif passages:
            text = f"Question: {text}"
        after = f"\n\n{remind(task)}" if self.reminder == "after" else ""
        return before + text + after + ("\nOutput:" if self.wrap == "cues" else "")

    def _demonstration(self, task: Task, example: Example) -> list[Message]:
        """Its system turn, which a chat has no place for in the middle, opens its first user turn."""
        turns = self._turns(task, example.input, ())
        own = "\n\n".join(message.content for message in example.input.messages if message.role == "system")
        first = next((index for index, turn in enumerate(turns) if turn.role == "user"), None)
        if own and first is not None:
            turns[first] = replace(turns[first], content=f"{own}\n\n{turns[first].content}")
        return [*turns, replace(reference_turn(task, example), weight=None)]


PLAIN = Form("plain")
SHORT = Form("short", place="nowhere")

BANK = (
    PLAIN,
    Form("strict", shape="shown", reminder="before"),
    Form("in-user", place="user"),
    Form("shown", shape="shown"),
    Form("tail", shape="shown", reminder="after"),
    Form("fields", shape="fields"),
    Form("rules", shape="shown", rules=True, reminder="before"),
    Form("tags", wrap="tags", reminder="before"),
    Form("cues", shape="shown", wrap="cues"),
    Form("in-user-strict", place="user", shape="shown", reminder="before"),
    Form("fields-tail", shape="fields", reminder="after"),
    Form("in-user-cues", place="user", wrap="cues"),
)


def bank_of(task: Task, count: int = len(BANK)) -> tuple[Form, ...]:
    """At most `count` structured forms that differ for this task, the plain one first."""
    probe = Input.of("probe")
    forms: dict[Prompt, Form] = {}
    for form in BANK:
        forms.setdefault(form.render(task, probe), form)
    return tuple(forms.values())[: max(1, count)]


def own_forms(task: Task) -> tuple[Form, ...]:
    """The user's own prompts, in the order of `[[prompts]]`.

    Raises:
        DataError: A prompt's file cannot be read, or holds nothing.
    """
    forms = []
    for setting in task.settings.prompts:
        path = task.path(setting.file)
        try:
            text = path.read_text(encoding="utf-8-sig").removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(path, None, f"the prompt cannot be read: {error}.", "Check `[[prompts]] file`.") from error
        if not text.strip():
            raise DataError(path, None, "the prompt is empty.", "Write the prompt, or drop it from `[[prompts]]`.")
        forms.append(_own_form(setting.name or setting.file, OwnPrompt(setting.file, text)))
    return tuple(forms)


def form_of(recipe: Recipe) -> Form:
    """The form a recipe names; the plain one when it names none.

    Raises:
        RunError: The recipe names a form that this version does not have.
    """
    name = recipe.get("form", PLAIN.name)
    own = recipe.get("own_prompt")
    if own is not None:
        return _own_form(str(name).removeprefix("own:"), OwnPrompt(own["file"], own["text"]))
    for form in (*BANK, SHORT):
        if form.name == name:
            return form
    raise RunError(f"the recipe names the prompt form '{name}', which this version does not have.", "Climb the task again.")


def reference_turn(task: Task, example: Example) -> Message:
    """The expected answer in the one serialisation that demonstrations and training targets share."""
    if example.reference.tool_calls:
        return canonical_message(example.reference, example.input.tools)
    return replace(example.reference, content=canonical_text(example.reference.content, task.output_schema))


def reference_text(task: Task, example: Example) -> str:
    """The text of the expected answer, serialised like every answer."""
    return answer_text(reference_turn(task, example), example.input.tools)


def show_passages(passages: Sequence[Chunk]) -> str:
    """Numbered passages, each under the heading or file it comes from."""
    parts = [f"[{n}] {chunk.heading or chunk.document}\n{chunk.text.strip()}" for n, chunk in enumerate(passages, 1)]
    return "\n\n".join(["Passages:", *parts])


def _own_form(name: str, own: OwnPrompt) -> Form:
    return Form(f"own:{name}", own=own)


def last_user_text(messages: Sequence[Message]) -> str:
    """The last user turn, or the last turn of any kind when no user spoke."""
    return next((m.content for m in reversed(messages) if m.role == "user"), messages[-1].content if messages else "")


def recipe_form(recipes: Mapping[str, Recipe], *rungs: str) -> Form:
    """The form chosen by the first of these rungs that was climbed; else the plain one."""
    return next((form_of(recipes[rung]) for rung in rungs if rung in recipes), PLAIN)
