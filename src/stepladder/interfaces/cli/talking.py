"""The command `chat`: a rung and the bare base answer side by side, while they write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stepladder.domain.prediction import Prediction
from stepladder.interfaces.cli.climbing import watching
from stepladder.interfaces.cli.dialogue import Dialogue, has_person, open_dialogue
from stepladder.service.chat import Chat, Voice, open_chat
from stepladder.service.figures import visible

HINT = "Enter sends · /new begins anew · Esc ends"
NEW = "/new"
REFRESHES_PER_SECOND = 12


def chat(run: Path, *, rung: str | None, device: str, as_json: bool) -> None:
    """Talk until the person ends it; without a terminal, every line of stdin is a turn."""
    with watching() as watcher:
        talk = open_chat(run, rung=rung, device=device, watcher=watcher)
    if has_person() and not as_json:
        with open_dialogue("chat", "Run it in a terminal.") as dialogue:
            _talk(talk, dialogue)
        return
    for line in sys.stdin:
        if text := line.strip():
            _answer_line(talk, text, as_json=as_json)


def _talk(talk: Chat, dialogue: Dialogue) -> None:
    names = " and ".join(voice.name for voice in talk.voices)
    dialogue.say(f"Talking to {names}.", "bold")
    dialogue.say(HINT, "dim")
    for text in _turns(dialogue):
        if text == NEW:
            talk.forget()
            dialogue.say("A new talk.", "dim")
            continue
        _answer_side_by_side(talk, text, dialogue.console)
        dialogue.say()


def _answer_side_by_side(talk: Chat, text: str, console: Console) -> None:
    written = {voice.name: "" for voice in talk.voices}
    with Live(console=console, refresh_per_second=REFRESHES_PER_SECOND, vertical_overflow="visible") as live:

        def hear(name: str, piece: str) -> None:
            written[name] += piece
            live.update(_columns(talk, written))

        for voice in talk.voices:
            prediction = voice.answer(text, partial(hear, voice.name))
            written[voice.name] = _said(prediction) or "(empty)"  # tool calls come in one form only now
            live.update(_columns(talk, written), refresh=True)


def _turns(dialogue: Dialogue) -> Iterator[str]:
    while True:
        try:
            text = dialogue.line("> ")
        except KeyboardInterrupt:
            return  # the end of input, or Ctrl-C: either way nobody wants to say more
        if text is None:
            return
        if text.strip():
            yield text.strip()


def _columns(talk: Chat, written: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in talk.voices:
        table.add_column(ratio=1, overflow="fold")
    table.add_row(*(Text(voice.name, style="bold") for voice in talk.voices))
    table.add_row(*(Text(visible(written[voice.name])) for voice in talk.voices))
    return table


def _answer_line(talk: Chat, text: str, *, as_json: bool) -> None:
    if text == NEW:
        talk.forget()
        return
    if as_json:
        answers = [_as_json(voice, text) for voice in talk.voices]
        print(json.dumps({"turn": text, "answers": answers}, ensure_ascii=False), flush=True)
        return
    console = Console(file=sys.stdout, highlight=False)
    for voice in talk.voices:
        prediction = voice.answer(text, lambda piece: None)
        console.print(Text(f"{voice.name}: {visible(_said(prediction))}"), soft_wrap=True)


def _said(prediction: Prediction) -> str:
    return f"(no answer: {prediction.fault})" if prediction.fault else prediction.text


def _as_json(voice: Voice, text: str) -> dict[str, Any]:
    prediction = voice.answer(text, lambda piece: None)
    spoken = prediction.generation
    return {
        "rung": voice.name,
        "answer": prediction.text,
        "fault": prediction.fault,
        "cut": prediction.cut,
        "latency_seconds": prediction.latency_seconds,
        "model_sha256": spoken.model_sha256 if spoken else "",
        "adapter_sha256": spoken.adapter_sha256 if spoken else None,
    }
