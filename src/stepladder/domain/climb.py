"""One climb as it is recorded: every rung that was looked at, what it scored and cost, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from stepladder.domain.learning_curve import LearningCurve
from stepladder.domain.protocols import ModelIdentity, Recipe, TrainPoint
from stepladder.domain.retention import Retention
from stepladder.domain.verdict import Cost, Interval, Verdict


class RungStatus(StrEnum):
    RAN = "ran"
    NOT_APPLICABLE = "not applicable"
    REFUSED = "refused"  # tuning a fact-bound, one-off or changing task
    OVER_BUDGET = "over budget"
    FAILED = "failed"
    NOT_COMPARABLE = "not comparable"  # the base's weights elsewhere, behind another template or tokenizer


@dataclass(frozen=True, slots=True)
class RungResult:
    """A rung of the ladder after the climb; scores None where it was not asked.

    `validation` scores choose, `test` scores confirm: they are never mixed. `metrics` are further aggregates by
    "SPLIT/GRADER" ("test/parses"). Latencies are seconds per answer of a single caller, of contenders only.
    """

    name: str
    tuned: bool
    status: RungStatus
    reason: str = ""
    model: str = ""
    role: str = ""  # why it answered the test split: "zero-shot", "nominee", "best untuned", "tuned champion"
    validation: Interval | None = None
    test: Interval | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    latency_p50_seconds: float | None = None
    latency_p95_seconds: float | None = None
    cut_share: float = 0.0
    seconds: float = 0.0  # wall time this rung took, choosing and training included
    recipe: Recipe = field(default_factory=dict)
    history: tuple[TrainPoint, ...] = ()

    def __str__(self) -> str:
        scores = {"validation": self.validation, "test": self.test}
        told = [self.status.value, *(f"{split} {score}" for split, score in scores.items() if score is not None)]
        return f"{self.name}: {', '.join(told)}{f'. {self.reason}' if self.reason else ''}"


@dataclass(frozen=True, slots=True)
class GradedRow:
    """One answer of one rung, graded: a line of `rows.jsonl`."""

    rung: str
    split: str  # "validation" or "test"
    id: str
    answer: str
    score: float | None  # None = ungraded
    ungraded: str = ""
    others: Mapping[str, float | None] = field(default_factory=dict)  # further graders
    fold: int | None = None
    seed: int = 0
    cut: bool = False
    unanswered: bool = False  # no answer came, so that there was nothing to grade; `ungraded` says why
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_seconds: float = 0.0
    model_sha256: str = ""
    adapter_sha256: str | None = None
    prompt_sha256: str = ""
    retrieved: tuple[str, ...] = ()  # documents
    passages: tuple[str, ...] = ()  # what was shown of them, by `Chunk.id`; records of older versions have none


@dataclass(frozen=True, slots=True)
class ChangedRow:
    """A test row that one rung has right and another wrong, for the report.

    Of several seeds the scores are means; the answers are those of the seeds that show the change most.
    """

    id: str
    input: str
    reference: str
    baseline: str
    baseline_answer: str
    baseline_score: float
    candidate: str
    candidate_answer: str
    candidate_score: float


class MistakeKind(StrEnum):
    """What is wrong with an answer, by what would help; in the order in which they are looked for."""

    CUT = "cut"
    FORMAT = "format"
    RETRIEVER = "retriever"
    READER = "reader"
    MISSING_FACT = "missing fact"
    STYLE = "style"
    REASONING = "reasoning"


@dataclass(frozen=True, slots=True)
class Mistakes:
    """Wrong test answers of one rung that are of one kind. `rows` are their ids.

    `wrong` of `asked` rows are wrong in all; of several seeds the mean score decides. `right_elsewhere`: how many of `rows`
    another contender has right.
    """

    rung: str
    kind: MistakeKind
    rows: tuple[str, ...]
    wrong: int
    asked: int
    remedy: str
    right_elsewhere: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """One rung on one kind of test rows: those whose `column` holds `value`. `rest` is its mean score on all others.

    `chance` is how probable such a gap would be where there is none, corrected for the number of slices; `worse` says that the
    slice is clearly worse.
    """

    rung: str
    column: str
    value: str
    score: Interval
    rest: float
    chance: float
    worse: bool


@dataclass(frozen=True, slots=True)
class ClimbRecord:
    """Everything a reader of the verdict may ask for; `verdict.json` holds it."""

    run: str
    task: str
    created: str  # ISO 8601, UTC
    model: ModelIdentity
    grader: str
    rungs: tuple[RungResult, ...]
    verdict: Verdict
    regime: str
    split_sizes: Mapping[str, int]
    target: float | None
    minimum_gain: float
    plan: tuple[str, ...] = ()  # what the plan said, line by line
    notes: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()  # of each model judge, how far it agrees with people
    retention: tuple[Retention, ...] = ()  # of tuned rungs, as they went to the test rows
    noise: Mapping[str, float] = field(default_factory=dict)
    regressions: tuple[ChangedRow, ...] = ()  # worst first
    improvements: tuple[ChangedRow, ...] = ()  # best first
    fixed: int = 0
    broken: int = 0
    fixed_rows: tuple[str, ...] = ()  # ids of all of them
    broken_rows: tuple[str, ...] = ()
    mistakes: tuple[Mistakes, ...] = ()  # of every contender
    slices: tuple[Slice, ...] = ()  # of the verdict's rung
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    seconds: float = 0.0
    curves: tuple[LearningCurve, ...] = ()  # of the rungs `[rungs] learning_curve` asks for
    compared: tuple[ModelIdentity, ...] = ()  # the models of `[model] compare`
    answering: tuple[str, ...] = ()  # how the answers came: read back or asked, and what servers made otherwise than asked
