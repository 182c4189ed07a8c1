"""Engines that ask another engine in a different way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stepladder.domain.prediction import Generation
from stepladder.domain.protocols import CompletionScore, Decoding, Drafting, Engine, ModelIdentity, Prompt, Request, Serving


class Wrapped:
    """The other engine as it is; subclasses change one thing."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @property
    def identity(self) -> ModelIdentity:
        return self.engine.identity

    @property
    def can(self) -> frozenset[str]:
        return self.engine.can

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        return self.engine.generate(prompts, decoding, adapter=adapter, on_answer=on_answer)

    def score(
        self, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]], *, adapter: Path | None = None
    ) -> list[list[CompletionScore]]:
        return self.engine.score(prompts, completions, adapter=adapter)

    def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        return self.engine.count_tokens(prompts)

    def count_text_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.engine.count_text_tokens(texts)


class OneByOne(Wrapped):
    """Generates for one prompt at a time, as for a single caller."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        answers: list[Generation] = []
        for index, prompt in enumerate(prompts):
            answers += self.engine.generate([prompt], decoding, adapter=adapter)
            if on_answer is not None:
                on_answer(index, answers[-1])
        return answers


class WarmedUp(Wrapped):
    """Warms up before it is next asked to generate; one that is never asked never does."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._warm_up: Callable[[], None] | None = None

    def before_next(self, warm_up: Callable[[], None]) -> None:
        """What to do once, before the next answer."""
        self._warm_up = warm_up

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        if self._warm_up is not None:
            warm_up, self._warm_up = self._warm_up, None
            warm_up()
        return self.engine.generate(prompts, decoding, adapter=adapter, on_answer=on_answer)


class FirstTokens(Wrapped):
    """Reads every prompt and generates one token: what warms an engine up at the least cost."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        return self.engine.generate(prompts, replace(decoding, max_new_tokens=1), adapter=adapter, on_answer=on_answer)


class Drawing(Wrapped):
    """Draws at a temperature, by a seed of its own, whatever decoding is asked for."""

    def __init__(self, engine: Engine, *, temperature: float, seed: int) -> None:
        super().__init__(engine)
        self._temperature = temperature
        self._seed = seed

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        drawn = replace(decoding, temperature=self._temperature, seed=self._seed)
        return self.engine.generate(prompts, drawn, adapter=adapter, on_answer=on_answer)


class Drafted(Wrapped):
    """The same answers, sooner where a draft foretells them; who asks neither sees the drafts nor has a way to give any.

    Args:
        drafts: What an answer may be, by the prompt's id (the input's). An engine that takes no drafts is asked without.
    """

    def __init__(self, engine: Engine, drafts: Mapping[str, str]) -> None:
        super().__init__(engine)
        self._drafts = drafts

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        if not isinstance(self.engine, Drafting):
            return self.engine.generate(prompts, decoding, adapter=adapter, on_answer=on_answer)
        own = [self._drafts.get(prompt.id) for prompt in prompts]
        return self.engine.generate_drafted(prompts, own, decoding, adapter=adapter, on_answer=on_answer)


class Overheard(Wrapped):
    """Tells what is being written, piece by piece; from an engine that cannot, each answer comes in one piece.

    Args:
        on_text: Called with the next piece of the one answer asked for at a time.
    """

    def __init__(self, engine: Engine, on_text: Callable[[str], None]) -> None:
        super().__init__(engine)
        self._on_text = on_text

    def generate(
        self,
        prompts: Sequence[Prompt],
        decoding: Decoding,
        *,
        adapter: Path | None = None,
        on_answer: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        if isinstance(self.engine, Serving):
            requests = [Request(prompt, decoding, adapter) for prompt in prompts]
            return self.engine.answer(requests, on_text=lambda place, piece: self._on_text(piece), on_answer=on_answer)
        answers = self.engine.generate(prompts, decoding, adapter=adapter, on_answer=on_answer)
        for answer in answers:
            self._on_text(answer.text)
        return answers
