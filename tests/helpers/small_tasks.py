"""Small tasks in a folder, and engines whose success is known beforehand."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from stepladder.domain.protocols import Decoding, Prompt
from stepladder.engines.fake import FakeEngine
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder, FakeTuner

LABELS = ("bird", "fish", "tool", "tree")
THINGS = {
    "bird": "heron lark finch wren tern plover robin swift crane stork magpie rook raven osprey kestrel".split(),
    "fish": "trout perch tench roach bream pike carp eel cod hake sole turbot herring sprat dace".split(),
    "tool": "hammer chisel plane rasp spanner wrench mallet saw awl gouge drill clamp level square file".split(),
    "tree": "birch alder willow rowan hazel larch maple beech poplar aspen elm spruce pine yew cedar".split(),
}
SCENES = (
    "seen by the gate in early light",
    "drawn on the back of an old envelope",
    "named in a letter from my aunt in winter",
    "found behind the shed after three days of rain",
    "asked about by a child on the train home",
    "listed on page nine of the yellow catalogue",
    "painted on a plate that nobody uses",
    "mentioned twice in the minutes of the meeting",
)


@dataclass
class World:
    """What everything is, and how often the model knows it: share right zero-shot, with demonstrations, with an adapter."""

    answers: dict[str, str] = field(default_factory=dict)
    zero_shot: float = 0.2
    shown: float = 0.6
    tuned: float = 0.95
    calls: int = 0
    asked: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # the last turn, all that decided the answer, by what
    stop_after: int | None = None

    def answer(self, prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
        text = prompt.messages[-1].content
        self.calls += 1
        self.asked[text, repr((prompt.messages, decoding)), adapter.name if adapter else ""] += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        right = next((label for thing, label in self.answers.items() if f" {thing} " in f" {text} "), LABELS[0])
        shown = sum(message.role == "assistant" for message in prompt.messages) > 0
        rate = self.tuned if adapter is not None else self.shown if shown else self.zero_shot
        luck = int(hashlib.sha256(f"{text}{rate}".encode()).hexdigest()[:8], 16) / 2**32
        return right if luck < rate else LABELS[(LABELS.index(right) + 1) % len(LABELS)]

    @property
    def tools(self) -> Tools:
        return Tools(FakeEngine(self.answer), FakeTuner(), FakeEmbedder())


def write_task(folder: Path, rows: int, **settings: str) -> World:
    """A task of `rows` different sentences about things of four kinds; returns the world that knows the answers.

    `settings` are TOML lines by table: `use='calls_total = 10'`; `top` stands before all tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = World({thing: label for label, things in THINGS.items() for thing in things})
    lines = []
    for number in range(rows):
        label = LABELS[number % len(LABELS)]
        thing = THINGS[label][number // len(LABELS) % 15]
        scene = SCENES[(number * 7 + number // 60) % len(SCENES)]
        row = {"id": f"r{number:03}", "prompt": f"A {thing} {scene} ({number * 37 % 101}).", "completion": label}
        lines.append(json.dumps(row))
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tables = {key: value for key, value in settings.items() if key != "top"}
    toml = [
        'name = "things"',
        'instruction = "Say what kind of thing it is."',
        settings.get("top", ""),
        "[data]",
        'examples = "examples.jsonl"',
        "[output]",
        f"labels = {json.dumps(LABELS)}",
        *(f"[{table}]\n{value}" for table, value in tables.items()),
    ]
    (folder / "task.toml").write_text("\n".join(toml) + "\n", encoding="utf-8")
    return world
