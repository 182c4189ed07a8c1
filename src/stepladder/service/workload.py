"""How much work each rung is: answers and training tokens, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import ceil, log2

from stepladder.domain.protocols import Choices
from stepladder.service.speeds import PROBE_PROMPTS, Speeds

FIRST_RACE_ROWS = 12
PASSAGE_TOKENS = 230
"""A passage of 120-200 words in tokens, about."""
MOST_EPOCHS_EXPECTED = 6
"""Epochs after which a training has usually stopped by itself, however many it is allowed."""
REPLAYED_ROWS = 30
FEWEST_REPLAYED_EACH = 8
PROBED_READ, PROBED_WRITTEN = 14_000, 3_000
"""Tokens that the built-in retention probes take of one set of weights, read at once and written in answers, about."""
SLOWER_THAN_THE_PROBE = 1.6
"""How many times longer answers take than the probe's short prompts suggest (longer contexts, batches that empty, less shared).

`benchmarks/plan_accuracy.py` compares finished climbs with their plans, and prints the factor that would have fitted the rungs
that only answer. It would be higher; what is foreseen for test rows and replay is too long, so that whole climbs lie closer.
"""


@dataclass(frozen=True, slots=True)
class Effort:
    """Tokens of some work.

    `read` are computed, a beginning that prompts share only once; `sent` counts every prompt whole, as a hosted model bills
    it. `alone` are written by answers asked one by one. `scored` are label tokens, read in one go. `trained` passes through
    a training.
    """

    sent: float = 0.0
    read: float = 0.0
    written: float = 0.0
    alone: float = 0.0
    scored: float = 0.0
    trained: float = 0.0

    @property
    def answered(self) -> float:
        """Tokens of all answers."""
        return self.written + self.alone

    def __add__(self, other: Effort) -> Effort:
        return Effort(
            self.sent + other.sent,
            self.read + other.read,
            self.written + other.written,
            self.alone + other.alone,
            self.scored + other.scored,
            self.trained + other.trained,
        )

    def __mul__(self, times: float) -> Effort:
        return Effort(
            times * self.sent,
            times * self.read,
            times * self.written,
            times * self.alone,
            times * self.scored,
            times * self.trained,
        )

    def seconds(self, speeds: Speeds) -> float:
        """How long it takes on this machine."""
        answers = SLOWER_THAN_THE_PROBE * (self.read / speeds.prompt + self.written / speeds.completion)
        alone = PROBE_PROMPTS * self.alone / speeds.completion  # a step for one row takes about as long as for a batch
        return answers + alone + self.scored / speeds.prompt + self.trained / speeds.training


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
    search_epochs: int = 0  # of all short runs of a learning-rate search
    labels: int = 0
    longest_input_tokens: float = 0.0  # of the rows looked at; memory follows from these, time from the means
    longest_answer_tokens: float = 0.0
    latency_decides: bool = False  # `[use] max_latency_seconds` is given
    graded_rows: int = 0  # training rows answered zero-shot for a grader that learns from them
    compares: bool = False  # the engine can lay tuned weights beside their base, so retention is measured
    free_text: bool = False  # no schema, labels or pattern bound the answer
    thinking_tokens: int = 0  # before each answer
    tested: tuple[int, ...] = ()  # test rows of each world, where they differ: rows are not always a multiple of the folds

    def all_test_rows(self, folds: int) -> int:
        """Test rows of the first so many worlds together: the rows that a verdict will rest on."""
        return sum(self.tested[:folds]) if self.tested else self.test_rows * folds

    @property
    def demonstration_tokens(self) -> float:
        return self.input_tokens + self.answer_tokens + 10  # turn marks


def rung_efforts(work: Workload, choices: Choices, *, rungs: tuple[str, ...]) -> dict[str, Effort]:
    """The work of each of `rungs`, choosing and training included, over all worlds."""
    return {rung: _EFFORTS[rung](work, choices) * work.worlds for rung in rungs if rung in _EFFORTS}


def estimate_rungs(work: Workload, choices: Choices, speeds: Speeds, *, rungs: tuple[str, ...]) -> dict[str, float]:
    """Seconds each of `rungs` will take, choosing and training included, over all worlds."""
    return {rung: effort.seconds(speeds) for rung, effort in rung_efforts(work, choices, rungs=rungs).items()}


def confirmation_effort(work: Workload, choices: Choices, *, tuned: bool) -> Effort:
    """The contenders' test answers, the replay at batch 1 and, before them, the retention probes."""
    contenders = 3 if tuned else 2  # zero-shot, the best untuned rung, the tuned one; the nominee is mostly one of them
    zero_shot = _answers(work, work.test_rows, own=0, rambles=True)
    few_shot = _answers(work, work.test_rows, own=3 * work.demonstration_tokens, rambles=work.free_text)
    plain = _answers(work, work.test_rows, own=0)
    answers = zero_shot + few_shot + (plain if tuned else Effort())
    seeds = plain * ((choices.seeds - 1) if tuned else 0)
    share = replay_share(contenders, latency_decides=work.latency_decides)
    replayed = contenders * min(share, work.worlds * work.test_rows)
    prompt = work.shared_tokens + work.input_tokens + 1.5 * work.demonstration_tokens  # between a plain and a few-shot one
    replay = Effort(sent=replayed * prompt, read=replayed * prompt, alone=replayed * (work.answer_tokens + work.thinking_tokens))
    probed = _retention(work) if tuned and work.compares else Effort()
    return (answers + seeds) * work.worlds + replay + probed


def estimate_confirmation(work: Workload, choices: Choices, speeds: Speeds, *, tuned: bool) -> float:
    """Seconds for the contenders' test answers and the replay at batch 1."""
    return confirmation_effort(work, choices, tuned=tuned).seconds(speeds)


def _retention(work: Workload) -> Effort:
    """The retention probes: the base once, one adapter a world. Remedies are not foreseen."""
    return Effort(sent=PROBED_READ, read=PROBED_READ, written=PROBED_WRITTEN) * (1 + work.worlds)


def replay_share(contenders: int, *, latency_decides: bool) -> int:
    """Test rows each of some contenders answers again, one by one: 30 together, 8 each; 30 each where latency decides."""
    return REPLAYED_ROWS if latency_decides else max(FEWEST_REPLAYED_EACH, ceil(REPLAYED_ROWS / contenders))


def trainings(choices: Choices, rungs: tuple[str, ...]) -> dict[str, int]:
    """How many adapters each of `rungs` trains in one world."""
    counts = {"lora": choices.lora_prompts + choices.seeds - 1}
    counts |= dict.fromkeys(("lora+nearest", "lora+rag", "qlora", "dpo"), choices.seeds)
    return {rung: count for rung, count in counts.items() if rung in rungs}


def _answers(work: Workload, rows: float, *, own: float, rambles: bool = False, shared: float = 0.0) -> Effort:
    """`rows` answers with `own` tokens each beside the input.

    Untuned answers tend to ramble: without examples always, after examples where the answer is free text.
    """
    written = (work.answer_tokens + work.max_new_tokens) / 2 if rambles else work.answer_tokens
    common = work.shared_tokens + shared
    each = work.input_tokens + own
    return Effort(sent=rows * (common + each), read=common + rows * each, written=rows * (written + work.thinking_tokens))


def _prompt(work: Workload, choices: Choices) -> Effort:
    rounds = max(1, ceil(log2(max(2, work.validation_rows / FIRST_RACE_ROWS))))
    raced = min(choices.forms * min(FIRST_RACE_ROWS, work.validation_rows) * rounds, choices.forms * work.validation_rows)
    scored = Effort(scored=work.validation_rows * work.labels * 3)  # a label is a few tokens
    return _answers(work, raced + work.validation_rows + work.graded_rows, own=0, rambles=True) + scored


def _constrained(work: Workload, choices: Choices) -> Effort:
    return _answers(work, work.validation_rows, own=0)


def _few_shot(work: Workload, choices: Choices) -> Effort:
    variants = len(choices.shots) + choices.orders - 1
    shared = max(choices.shots) * work.demonstration_tokens
    return _answers(work, work.validation_rows, own=0, rambles=work.free_text, shared=shared) * variants


def _nearest(work: Workload, choices: Choices) -> Effort:
    return _sum(
        _answers(work, work.validation_rows, own=shots * work.demonstration_tokens, rambles=work.free_text)
        for shots in choices.shots
    )


def _rag(work: Workload, choices: Choices) -> Effort:
    """Every number of passages on all rows, the plain form beside the chosen one on the first few, and two controls."""
    controls = 2  # oracle context and gold passages removed
    passages = [*choices.passages, *[max(choices.passages)] * controls]
    whole = _sum(_answers(work, work.validation_rows, own=count * PASSAGE_TOKENS, rambles=work.free_text) for count in passages)
    if choices.forms < 2:
        return whole
    rows = min(FIRST_RACE_ROWS, work.validation_rows)
    return whole + _sum(_answers(work, rows, own=count * PASSAGE_TOKENS, rambles=work.free_text) for count in choices.passages)


def epoch_tokens(work: Workload, *, own: float = 0.0) -> float:
    """Tokens one epoch computes: every row's own, the shared prefix once a step, and a third for each held-out token."""
    row = work.input_tokens + work.answer_tokens + own
    steps = ceil(work.tune_rows / work.batch_size)
    return work.tune_rows * row + steps * work.shared_tokens + work.held_out_rows * row / 3


def _training(work: Workload, *, own: float) -> Effort:
    """One training, with the search for its learning rate."""
    return Effort(trained=(min(work.epochs, MOST_EPOCHS_EXPECTED) + work.search_epochs) * epoch_tokens(work, own=own))


def _lora(work: Workload, choices: Choices) -> Effort:
    return _training(work, own=0) * trainings(choices, ("lora",))["lora"] + _tuned_answers(work, choices)


def _tuned_answers(work: Workload, choices: Choices) -> Effort:
    return _answers(work, work.held_out_rows, own=0)


def _lora_nearest(work: Workload, choices: Choices) -> Effort:
    own = min(choices.shots) * work.demonstration_tokens
    return _training(work, own=own) * choices.seeds + _tuned_answers(work, choices)


def _lora_rag(work: Workload, choices: Choices) -> Effort:
    return _training(work, own=3 * PASSAGE_TOKENS) * choices.seeds + _tuned_answers(work, choices)


def _qlora(work: Workload, choices: Choices) -> Effort:
    """As `lora` with one prompt. Unpacking the weights is shared by all tokens of a pass, and is not counted."""
    return _training(work, own=0) * choices.seeds + _tuned_answers(work, choices)


def _dpo(work: Workload, choices: Choices) -> Effort:
    """At most: every row may have a second answer."""
    return _training(work, own=work.answer_tokens) * choices.seeds + _tuned_answers(work, choices)


def _sum(efforts: Iterable[Effort]) -> Effort:
    return sum(efforts, Effort())


_EFFORTS: Mapping[str, Callable[[Workload, Choices], Effort]] = {
    "prompt": _prompt,
    "constrained": _constrained,
    "few-shot": _few_shot,
    "nearest": _nearest,
    "rag": _rag,
    "lora": _lora,
    "lora+constrained": _tuned_answers,
    "lora+nearest": _lora_nearest,
    "lora+rag": _lora_rag,
    "qlora": _qlora,
    "dpo": _dpo,
}
