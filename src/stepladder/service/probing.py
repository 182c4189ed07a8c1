"""The retention probes put to a base model and to what was tuned from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from stepladder.domain.messages import Message
from stepladder.domain.prediction import Generation
from stepladder.domain.probes import ChoiceProbe, Probes
from stepladder.domain.protocols import Comparing, Conversation, Decoding, Engine, Prompt
from stepladder.engines.adapter import hash_adapter
from stepladder.evaluation.retention import Observed, choice_margin, follows, goes_in_circles, refuses

PROBE_TOKENS = 96
"""New tokens of an answer to a general prompt: enough for most, and for a loop to show."""
REPLAY_TOKENS = 160
TASK_TOKENS = 64
REPLAY_SHARE = 0.3
"""Of the training rows, the replayed ones included."""


@dataclass
class Prober:
    """Asks every probe of a set of weights once; answers and scores are recorded by `engine`, the rest is remembered here."""

    probes: Probes
    engine: Engine
    comparing: Comparing
    _likely: dict[str, Observed] = field(default_factory=dict)

    def likelihoods(self, adapter: Path | None) -> Observed:
        """The part that takes no answers: loss on general text, margins."""
        key = "" if adapter is None else hash_adapter(adapter)
        if key not in self._likely:
            self._likely[key] = Observed(
                text_nll=tuple(self.comparing.text_nll(self.probes.texts, adapter=adapter)),
                margins=self._margins(adapter),
            )
        return self._likely[key]

    def observe(self, adapter: Path | None, task_prompts: Sequence[Prompt]) -> Observed:
        """Everything. `task_prompts` are what the rung asks for some of the task's inputs."""
        likely = self.likelihoods(adapter)
        said = self._answers(self._general, adapter)
        texts = [answer.text for answer in said]
        instructions = self.probes.instructions
        answered = texts[: len(instructions)]
        return Observed(
            text_nll=likely.text_nll,
            margins=likely.margins,
            followed=tuple(follows(text, one.checks) for one, text in zip(instructions, answered, strict=True)),
            stopped=tuple(float(not answer.cut) for answer in said),
            looped=tuple(float(goes_in_circles(text)) for text in texts),
            refused=tuple(float(refuses(text)) for text in texts[len(instructions) :]),
            kl_general=self._divergence(self._general, adapter, PROBE_TOKENS),
            kl_task=self._divergence(task_prompts, adapter, TASK_TOKENS),
        )

    def replay_rows(self) -> tuple[Conversation, ...]:
        """Training rows of the base's own finished answers to general prompts; never a prompt that is measured."""
        prompts = [_ask(f"replay-{number}", text) for number, text in enumerate(self.probes.replay)]
        rows = []
        for prompt, answer in zip(prompts, self._answers(prompts, None, REPLAY_TOKENS), strict=True):
            if answer.cut or answer.fault or not answer.text.strip() or goes_in_circles(answer.text):
                continue
            rows.append(Conversation(prompt.id, (*prompt.messages, Message("assistant", answer.text.strip(), weight=1.0))))
        return tuple(rows)

    @property
    def _general(self) -> list[Prompt]:
        return [_ask(f"probe-{number}", text) for number, text in enumerate(self.probes.prompts)]

    def _margins(self, adapter: Path | None) -> tuple[float, ...]:
        prompts = [_ask(f"choice-{number}", _choice_text(probe)) for number, probe in enumerate(self.probes.choices)]
        scores = self.engine.score(prompts, [probe.options for probe in self.probes.choices], adapter=adapter)
        return tuple(
            choice_margin([one.log_probability for one in row], [one.tokens for one in row], probe.options.index(probe.answer))
            for probe, row in zip(self.probes.choices, scores, strict=True)
        )

    def _answers(self, prompts: Sequence[Prompt], adapter: Path | None, tokens: int = PROBE_TOKENS) -> list[Generation]:
        return self.engine.generate(prompts, Decoding(max_new_tokens=tokens), adapter=adapter) if prompts else []

    def _divergence(self, prompts: Sequence[Prompt], adapter: Path | None, tokens: int) -> tuple[float, ...]:
        """Along what the base itself says."""
        if adapter is None or not prompts:
            return ()
        said = [answer.text for answer in self._answers(prompts, None, tokens)]
        return tuple(self.comparing.divergence(prompts, said, adapter=adapter))


def replayed_beside(rows: int) -> int:
    """How many replayed rows stand beside `rows` of the task's own."""
    return ceil(rows * REPLAY_SHARE / (1 - REPLAY_SHARE))


def _ask(id: str, text: str) -> Prompt:
    return Prompt(id, (Message("user", text),))


def _choice_text(probe: ChoiceProbe) -> str:
    return f"{probe.question}\nAnswer with one of: {', '.join(probe.options)}."
