"""The prompts that every system answers, in a file: four rungs of a real task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepladder.domain.messages import Message
from stepladder.domain.protocols import Prompt


@dataclass(frozen=True, slots=True)
class Rung:
    """What is asked, how long an answer may be, and under which adapter; "" = none."""

    name: str
    prompts: tuple[Prompt, ...]
    max_new_tokens: int
    adapter: str = ""

    def as_json(self) -> dict[str, Any]:
        prompts = [[[message.role, message.content] for message in prompt.messages] for prompt in self.prompts]
        return {"name": self.name, "prompts": prompts, "max_new_tokens": self.max_new_tokens, "adapter": self.adapter}

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Rung:
        prompts = tuple(
            Prompt(f"row-{number}", tuple(Message(role, text) for role, text in messages))
            for number, messages in enumerate(entry["prompts"])
        )
        return cls(entry["name"], prompts, entry["max_new_tokens"], entry["adapter"])


def read(path: Path, name: str) -> Rung:
    """A rung from the file that `prepare` wrote."""
    return next(Rung.from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8")) if entry["name"] == name)
