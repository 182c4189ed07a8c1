"""A model of the server as an `Engine` for code on any thread: every call waits for its turn on the asking thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Decoding, Engine, ModelIdentity, Prompt
from stepladder.service.serving.asking import AskingThread
from stepladder.service.serving.speakers import WeightsSpeaker


class AskedEngine:
    """What a speaker says, under its own adapter; any other `adapter` is not for a caller of this to choose."""

    def __init__(self, speaker: WeightsSpeaker, asking: AskingThread) -> None:
        self._speaker = speaker
        self._asking = asking

    @property
    def identity(self) -> ModelIdentity:
        return self._asking.call(lambda: self._engine.identity).result()

    @property
    def can(self) -> frozenset[str]:
        return self._asking.call(lambda: self._engine.can).result()

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        own = self._speaker.adapter
        return self._asking.call(lambda: self._engine.generate(prompts, decoding, adapter=own, on_answer=on_answer)).result()

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        return self._asking.call(lambda: self._engine.score(prompts, completions, adapter=self._speaker.adapter)).result()

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        return self._asking.call(lambda: self._engine.count_tokens(prompts)).result()

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._asking.call(lambda: self._engine.count_text_tokens(texts)).result()

    @property
    def _engine(self) -> Engine:
        return self._speaker.engine()
