"""One rung in one world: fitted (or restored after a kill), asked, graded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stepladder.domain.climb import GradedRow, RungStatus
from stepladder.domain.errors import MissingExtra, NotOffered, NotShown
from stepladder.domain.messages import Example
from stepladder.domain.prediction import Grade, Prediction, Score, Ungraded
from stepladder.domain.protocols import FitContext, Predictor, Recipe, Technique
from stepladder.domain.verdict import Interval
from stepladder.evaluation.graders import Grader, prepare
from stepladder.evaluation.statistics import mean_interval
from stepladder.service.worlds import World
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.asking import ModelPredictor

UNSPOKEN = "the token limit ended it before a word of its answer; a model that thinks first needs `[model] thinking_tokens`"


@dataclass(frozen=True)
class RungRun:
    """A rung after its turn in one world. `predictor` is None when it did not run; `rows` are its validation answers.

    `restored`: it was fitted before this climb was continued.
    """

    name: str  # the technique's, or "technique @ model" for a compared model
    technique: Technique
    world: World
    status: RungStatus
    reason: str = ""
    predictor: Predictor | None = None
    context: FitContext | None = None
    rows: tuple[GradedRow, ...] = ()
    seconds: float = 0.0
    marker: Marker | None = None  # who graded it in this world; None when it did not run
    restored: bool = False

    @property
    def recipe(self) -> Recipe:
        return self.predictor.recipe if self.predictor is not None else {}


@dataclass(frozen=True)
class Marker:
    """Grades answers with every grader of the task; the first decides.

    A cut answer is wrong, whatever its text. Where a server gave none, or was cut before its first word, there is nothing to
    grade.
    """

    graders: tuple[Grader, ...]

    def grade(self, example: Example, prediction: Prediction) -> Grade:
        """The deciding grade."""
        return self._grade(self.graders[0], example, prediction)

    def _grade(self, grader: Grader, example: Example, prediction: Prediction) -> Grade:
        if prediction.fault:
            return Ungraded(prediction.fault)
        if prediction.unspoken:
            return Ungraded(UNSPOKEN)
        return Score(0.0) if prediction.cut else grader.grade(example, prediction.text)

    def scorer(self, examples: Sequence[Example]) -> Callable[[Sequence[Prediction]], list[Grade]]:
        """What a technique may use to choose: grades by input id, references kept out of its sight."""
        by_id = {example.id: example for example in examples}

        def score(predictions: Sequence[Prediction]) -> list[Grade]:
            asked = [by_id[prediction.input_id] for prediction in predictions]
            self._prepare(self.graders[:1], asked, predictions)
            return [self.grade(example, prediction) for example, prediction in zip(asked, predictions, strict=True)]

        return score

    def rows(
        self,
        rung: str,
        split: str,
        examples: Sequence[Example],
        predictions: Sequence[Prediction],
        *,
        fold: int | None,
        seed: int = 0,
    ) -> tuple[GradedRow, ...]:
        """Every answer with its grades, as it is recorded."""
        self._prepare(self.graders, examples, predictions)
        return tuple(
            self._row(rung, split, example, prediction, fold, seed)
            for example, prediction in zip(examples, predictions, strict=True)
        )

    def _prepare(self, graders: Sequence[Grader], examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
        """Let model judges read all answers at once; cut ones and those that never came are not judged."""
        whole = [(one, said.text) for one, said in zip(examples, predictions, strict=True) if not (said.cut or said.fault)]
        for grader in graders:
            prepare(grader, [example for example, _ in whole], [text for _, text in whole])

    def _row(self, rung: str, split: str, example: Example, prediction: Prediction, fold: int | None, seed: int) -> GradedRow:
        decided = self.grade(example, prediction)
        others = {grader.name: _value(self._grade(grader, example, prediction)) for grader in self.graders[1:]}
        spoken = prediction.generation
        return GradedRow(
            rung=rung,
            split=split,
            id=example.id,
            answer=prediction.text,
            score=_value(decided),
            ungraded=decided.reason if isinstance(decided, Ungraded) else "",
            others=others,
            fold=fold,
            seed=seed,
            cut=prediction.cut,
            unanswered=bool(prediction.fault) or prediction.unspoken,
            prompt_tokens=spoken.prompt_tokens if spoken else 0,
            completion_tokens=spoken.completion_tokens if spoken else 0,
            latency_seconds=prediction.latency_seconds,
            model_sha256=spoken.model_sha256 if spoken else "",
            adapter_sha256=spoken.adapter_sha256 if spoken else None,
            prompt_sha256=spoken.prompt_sha256 if spoken else "",
            retrieved=prediction.retrieved,
            passages=prediction.passages,
        )


def run_rung(name: str, technique: Technique, world: World, context: FitContext, marker: Marker, run: RunFolder) -> RungRun:
    """Fit a rung, or take it up from the run folder when it was finished there before, and grade its validation answers.

    A tuned rung is validated on the held-out rows only: the others it has learned.
    """
    recorded = run.read_result(name, world.fold)
    start = time.perf_counter()
    try:
        predictor = technique.fit(context) if recorded is None else technique.restore(recorded["recipe"], context)
    except (MissingExtra, NotOffered, NotShown) as error:
        return RungRun(name, technique, world, RungStatus.NOT_APPLICABLE, str(error))
    examples = world.held_out if technique.tuned else world.validation
    try:
        predictions = predictor.predict([example.input for example in examples])
    except (NotOffered, NotShown) as error:
        return RungRun(name, technique, world, RungStatus.NOT_APPLICABLE, str(error))
    seconds = time.perf_counter() - start if recorded is None else float(recorded["seconds"])
    if recorded is None:
        run.write_result(name, world.fold, {"recipe": predictor.recipe, "seconds": seconds})
    rows = marker.rows(name, "validation", examples, predictions, fold=world.fold)
    if isinstance(predictor, ModelPredictor):
        context = predictor.context  # with the engine that really answers
    restored = recorded is not None
    return RungRun(name, technique, world, RungStatus.RAN, "", predictor, context, rows, seconds, marker, restored)


def _value(grade: Grade) -> float | None:
    return grade.value if isinstance(grade, Score) else None


def renamed(rows: Sequence[GradedRow], rung: str) -> tuple[GradedRow, ...]:
    """The same answers under a contender's name."""
    return tuple(replace(row, rung=rung) for row in rows)


def validation_interval(rows: Sequence[GradedRow]) -> Interval:
    """Mean validation score of some graded rows; a row that several folds answered counts once, by its mean."""
    by_id: dict[str, list[float]] = {}
    for row in rows:
        by_id.setdefault(row.id, []).append(float("nan") if row.score is None else row.score)
    return mean_interval([sum(scores) / len(scores) for scores in by_id.values()], seed=0)
