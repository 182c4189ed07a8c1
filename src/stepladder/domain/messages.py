"""What is said to a model and what it says back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call of an assistant turn; `arguments` is JSON text exactly as written in the data."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `weight` (0 or 1) says whether training learns an assistant turn; other roles carry None."""

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    weight: float | None = None

    def as_chat(self) -> dict[str, Any]:
        """The message in OpenAI's chat shape (without `weight`), as templates and APIs take it."""
        chat: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.name is not None:
            chat["name"] = self.name
        if self.tool_calls:
            chat["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            chat["tool_call_id"] = self.tool_call_id
        return chat


@dataclass(frozen=True, slots=True)
class Input:
    """What a rung has to answer: the turns so far and the tools on offer. Never a reference.

    A system turn in `messages` differs from row to row; the one all rows share is the task's instruction and is not here.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, text: str, id: str = "input") -> Input:
        """A plain string as one user turn."""
        return cls(id=id, messages=(Message("user", text),))

    @property
    def text(self) -> str:
        """All that the turns say as one text, tool calls included, for embedding, searching and duplicate checks."""
        lines: list[str] = []
        for message in self.messages:
            lines += [message.content, *(f"{call.name} {call.arguments}" for call in message.tool_calls)]
        return "\n".join(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class Example:
    """One input with its reference, the expected assistant turn."""

    input: Input
    reference: Message
    metadata: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()  # gold documents, paths relative to the task folder
    recorded: str | None = None  # the answer the present system gave
    rejected: Message | None = None  # the answer that was liked less, where rows are preferences
    line: int = 0  # where the row stands in its file, from 1

    @property
    def id(self) -> str:
        return self.input.id

    @property
    def by_teacher(self) -> bool:
        """Whether a model alone wrote the reference: such a row may teach, but neither choose nor confirm."""
        return self.metadata.get("source") == "teacher"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document. `document.text[start:end] == text`, to the character.

    `document` is the path relative to the task folder, as `sources` of a row names it.
    """

    document: str
    start: int
    end: int
    text: str
    heading: str = ""

    @property
    def id(self) -> str:
        """Which passage this is, as records name it."""
        return f"{self.document}:{self.start}-{self.end}"
