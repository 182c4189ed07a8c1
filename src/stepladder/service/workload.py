"""How much work each rung is: answers and training tokens, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from stepladder.domain.protocols import Choices
from stepladder.service.speeds import Speeds

FIRST_RACE_ROWS = 12
PASSAGE_TOKENS = 230
"""A passage of 120-200 words in tokens, about."""
MOST_EPOCHS_EXPECTED = 6
"""Epochs after which a training has usually stopped by itself, however many it is allowed."""
REPLAY_ROWS = 30
SLOWER_THAN_THE_PROBE = 1.6
"""Our estimate: answers take longer than the probe's short prompts suggest (longer contexts, batches that empty, less shared)."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Sizes of one world, in rows and mean tokens a row."""

    validation_rows: int
    held_out_rows: int
    tune_rows: int
    test_rows: int
    worlds: int
    shared_tokens: float  # the instruction with its form
    input_tokens: float
    answer_tokens: float
    max_new_tokens: int
    epochs: int
    batch_size: int
    labels: int = 0
    graded_rows: int = 0  # training rows answered zero-shot for a grader that learns from them

    @property
    def demonstration_tokens(self) -> float:
        return self.input_tokens + self.answer_tokens + 10  # turn marks


def estimate_rungs(work: Workload, choices: Choices, speeds: Speeds, *, rungs: tuple[str, ...]) -> dict[str, float]:
    """Seconds each of `rungs` will take, choosing and training included, over all worlds."""
    return {rung: work.worlds * _ESTIMATES[rung](work, choices, speeds) for rung in rungs if rung in _ESTIMATES}


def estimate_confirmation(work: Workload, choices: Choices, speeds: Speeds, *, tuned: bool) -> float:
    """Seconds for the contenders' test answers and the replay at batch 1."""
    contenders = 4 if tuned else 3
    few_shot = _answers(work, speeds, work.test_rows, own=3 * work.demonstration_tokens, tuned=False)
    plain = _answers(work, speeds, work.test_rows, own=0, tuned=True)
    replay = contenders * min(REPLAY_ROWS, work.test_rows) * (work.answer_tokens / speeds.completion) * 4
    seeds = (choices.seeds - 1) * plain if tuned else 0.0
    return work.worlds * (contenders / 2 * (few_shot + plain) + seeds) + replay


def _answers(work: Workload, speeds: Speeds, rows: int, *, own: float, tuned: bool, shared: float = 0.0) -> float:
    """Seconds for `rows` answers with `own` tokens each beside the input. Untuned zero-shot answers tend to ramble."""
    written = work.answer_tokens if tuned else (work.answer_tokens + work.max_new_tokens) / 2
    reading = (work.shared_tokens + shared + rows * (work.input_tokens + own)) / speeds.prompt
    return SLOWER_THAN_THE_PROBE * (reading + rows * written / speeds.completion)


def _prompt(work: Workload, choices: Choices, speeds: Speeds) -> float:
    rounds = max(1, ceil(log2(max(2, work.validation_rows / FIRST_RACE_ROWS))))
    raced = min(choices.forms * min(FIRST_RACE_ROWS, work.validation_rows) * rounds, choices.forms * work.validation_rows)
    scored = work.validation_rows * work.labels * 3 / speeds.prompt  # a label is a few tokens, read in one go
    return _answers(work, speeds, raced + work.validation_rows + work.graded_rows, own=0, tuned=False) + scored


def _constrained(work: Workload, choices: Choices, speeds: Speeds) -> float:
    return _answers(work, speeds, work.validation_rows, own=0, tuned=True)


def _few_shot(work: Workload, choices: Choices, speeds: Speeds) -> float:
    variants = len(choices.shots) + choices.orders - 1
    shared = max(choices.shots) * work.demonstration_tokens
    return variants * _answers(work, speeds, work.validation_rows, own=0, tuned=True, shared=shared)


def _nearest(work: Workload, choices: Choices, speeds: Speeds) -> float:
    return sum(
        _answers(work, speeds, work.validation_rows, own=shots * work.demonstration_tokens, tuned=True) for shots in choices.shots
    )


def _rag(work: Workload, choices: Choices, speeds: Speeds) -> float:
    controls = 2  # oracle context and gold passages removed
    passages = [*choices.passages, *[max(choices.passages)] * controls]
    return sum(_answers(work, speeds, work.validation_rows, own=count * PASSAGE_TOKENS, tuned=True) for count in passages)


def epoch_tokens(work: Workload, *, own: float = 0.0) -> float:
    """Tokens one epoch computes: every row's own, the shared prefix once a step, and a third for each held-out token."""
    row = work.input_tokens + work.answer_tokens + own
    steps = ceil(work.tune_rows / work.batch_size)
    return work.tune_rows * row + steps * work.shared_tokens + work.held_out_rows * row / 3


def _training(work: Workload, choices: Choices, speeds: Speeds, *, own: float) -> float:
    """Seconds of one training."""
    return min(work.epochs, MOST_EPOCHS_EXPECTED) * epoch_tokens(work, own=own) / speeds.training


def _lora(work: Workload, choices: Choices, speeds: Speeds) -> float:
    trainings = choices.lora_prompts + choices.seeds - 1
    return trainings * _training(work, choices, speeds, own=0) + _tuned_answers(work, choices, speeds)


def _tuned_answers(work: Workload, choices: Choices, speeds: Speeds) -> float:
    return _answers(work, speeds, work.held_out_rows, own=0, tuned=True)


def _lora_nearest(work: Workload, choices: Choices, speeds: Speeds) -> float:
    own = min(choices.shots) * work.demonstration_tokens
    return choices.seeds * _training(work, choices, speeds, own=own) + _tuned_answers(work, choices, speeds)


def _lora_rag(work: Workload, choices: Choices, speeds: Speeds) -> float:
    own = 3 * PASSAGE_TOKENS
    return choices.seeds * _training(work, choices, speeds, own=own) + _tuned_answers(work, choices, speeds)


_ESTIMATES = {
    "prompt": _prompt,
    "constrained": _constrained,
    "few-shot": _few_shot,
    "nearest": _nearest,
    "rag": _rag,
    "lora": _lora,
    "lora+constrained": _tuned_answers,
    "lora+nearest": _lora_nearest,
    "lora+rag": _lora_rag,
}
