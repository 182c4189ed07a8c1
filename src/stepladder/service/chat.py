"""Talking to a rung: every turn is answered by the rung as it was fitted, and by the bare base beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from stepladder.domain.errors import RunError
from stepladder.domain.messages import Input, Message
from stepladder.domain.prediction import Prediction
from stepladder.domain.protocols import Predictor
from stepladder.engines.wrappers import Overheard
from stepladder.service.open_run import find_run
from stepladder.service.predict import restore_rung
from stepladder.service.setup import Watcher
from stepladder.service.shipping import plain_name
from stepladder.service.spending import purse_beside_run
from stepladder.techniques.asking import ModelPredictor, ZeroShot
from stepladder.techniques.forms import PLAIN
from stepladder.techniques.tuning import TunedPredictor

BASE = "base"


@dataclass
class Voice:
    """One side of the talk, with what was said on this side."""

    name: str
    predictor: Predictor
    turns: list[Message] = field(default_factory=list)

    def answer(self, text: str, on_text: Callable[[str], None]) -> Prediction:
        """Answer the next user turn; the answer is heard piece by piece where tokens are written one by one.

        A turn that a server left without an answer (see the prediction's `fault`) is no part of what was said.
        """
        heard: list[str] = []

        def hear(piece: str) -> None:
            heard.append(piece)
            on_text(piece)

        turns = (*self.turns, Message("user", text))
        [prediction] = _overheard(self.predictor, hear).predict([Input(f"turn-{len(turns) // 2 + 1}", turns)])
        if prediction.fault:
            return prediction
        if not heard:  # no model wrote it, or one chose among labels
            on_text(prediction.text)
        self.turns = [*turns, Message("assistant", prediction.text)]
        return prediction


@dataclass
class Chat:
    """The rung first, then the base; only the base's zero-shot answer is missing where the rung is just that."""

    run: Path
    voices: tuple[Voice, ...]

    def forget(self) -> None:
        """Begin a new talk."""
        for voice in self.voices:
            voice.turns = []


def open_chat(run: Path | str, *, rung: str | None = None, device: str = "auto", watcher: Watcher | None = None) -> Chat:
    """A talk with a finished climb's rung, and with its base model asked by the plain instruction.

    Args:
        run: A run folder, or a task folder (its newest finished run).
        rung: Another rung of the climb than the one the verdict recommends.
    Raises:
        RunError: No such rung was fitted, or it cannot talk.
    """
    folder = find_run(run)
    name = rung or plain_name(folder.read_verdict().verdict.rung)
    if name is None or name == "recorded":
        raise RunError(
            "there is no rung to talk to." if name is None else "recorded answers cannot talk.", "Choose one with --rung."
        )
    predictor = restore_rung(folder, name, device=device, watcher=watcher, purse=purse_beside_run(folder, "chat"))
    if isinstance(predictor, TunedPredictor):
        predictor = predictor.seed_predictors()[0]
    voices = [Voice(name, predictor)]
    if isinstance(predictor, ModelPredictor):
        plain = ModelPredictor(predictor.context, {}, ZeroShot(predictor.context, PLAIN))
        voices.append(Voice(BASE, plain))
    return Chat(folder.path, tuple(voices))


def _overheard(predictor: Predictor, on_text: Callable[[str], None]) -> Predictor:
    if not isinstance(predictor, ModelPredictor):
        return predictor
    engine = Overheard(predictor.context.engine, on_text)
    return replace(predictor, context=replace(predictor.context, engine=engine))
