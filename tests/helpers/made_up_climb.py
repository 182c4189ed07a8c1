"""Climbs that never took place: a realistic one, one with the same text everywhere, and hypothesis strategies for any."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from hypothesis import strategies as st

from stepladder.domain.climb import ChangedRow, ClimbRecord, RungResult, RungStatus
from stepladder.domain.protocols import ModelIdentity, TrainPoint
from stepladder.domain.retention import Retention, RetentionMeasure, TriedRemedy
from stepladder.domain.verdict import Cost, Gain, Interval, Outcome, Route, Verdict

MODEL = "smollm2-135m-instruct"


def interval(value: float, half: float = 0.06, items: int = 100) -> Interval:
    return Interval(value, max(0.0, value - half), min(1.0, value + half), method="wilson-summed", items=items)


def lost(
    name: str,
    base: float | None,
    tuned: float,
    value: float,
    limit: float | None,
    bound: Literal["mean", "upper"] = "mean",
    *,
    always: bool = False,
) -> RetentionMeasure:
    """A retention measure whose bound lies 0.004 above its mean."""
    loss = Interval(value, value - 0.004, value + 0.004, 0.9, "paired t", 40)
    return RetentionMeasure(name, base, tuned, loss, limit, bound, always)


def training_history(steps: int = 60) -> tuple[TrainPoint, ...]:
    """A loss that falls and jitters, and a held-out loss that turns up again after two thirds."""
    points = []
    for step in range(1, steps + 1):
        loss = 0.25 + 2.2 * math.exp(-step / 9) + 0.09 * math.sin(step * 2.3)
        rising = 0.004 * max(0, step - steps * 2 // 3)
        held_out = 0.42 + 2.0 * math.exp(-step / 10) + rising if step % 6 == 0 else None
        points.append(TrainPoint(step, step / 12, 1e-3 * (1 - step / steps), loss, held_out))
    return tuple(points)


def ran(
    name: str, validation: float, test: float | None = None, *, seconds_per_call: float = 0.4, **changes: object
) -> RungResult:
    """A rung that ran; tuned when its name says lora."""
    made = RungResult(
        name=name,
        tuned=name.startswith("lora"),
        status=RungStatus.RAN,
        model=MODEL,
        validation=interval(validation, 0.08, 60),
        test=None if test is None else interval(test),
        metrics={"validation/parses": min(1.0, validation + 0.1), "validation/valid": min(1.0, validation + 0.05)},
        cost=Cost(
            seconds_once=40,
            seconds_per_call=seconds_per_call,
            prompt_tokens_per_call=seconds_per_call * 400,
            completion_tokens_per_call=38 if seconds_per_call else 0,
            calls=120_000,
        ),
        latency_p50_seconds=seconds_per_call,
        latency_p95_seconds=seconds_per_call * 1.7,
        seconds=52.0,
        recipe={"rung": name, "shots": 4},
    )
    if test is not None:
        made = replace(made, metrics={**made.metrics, "test/parses": min(1.0, test + 0.1), "test/valid": min(1.0, test + 0.05)})
    return replace(made, **changes)  # type: ignore[arg-type]


def absent(name: str, status: RungStatus, reason: str) -> RungResult:
    return RungResult(name=name, tuned=name.startswith("lora"), status=status, reason=reason, model=MODEL)


RUNGS = (
    ran("baseline", 0.22, seconds_per_call=0.0, model="", seconds=0.4),
    absent("classifier", RungStatus.NOT_APPLICABLE, "The answer is a JSON object, not one label out of a closed set."),
    ran("prompt", 0.13, 0.15, role="zero-shot", cut_share=0.03),
    ran("constrained", 0.41, seconds_per_call=0.45),
    ran("few-shot", 0.68, seconds_per_call=1.1),
    ran("nearest", 0.79, 0.77, seconds_per_call=1.2, role="best untuned, nominee"),
    absent("rag", RungStatus.NOT_APPLICABLE, "The task has no documents folder."),
    ran("lora", 0.9, 0.88, seconds_per_call=0.31, role="tuned champion", history=training_history(), seconds=214.0),
    ran("lora+constrained", 0.89, seconds_per_call=0.36, history=training_history(48), seconds=31.0),
    absent("lora+nearest", RungStatus.OVER_BUDGET, "Its training needs about 6 minutes; 2 are left of 8 (--budget-minutes)."),
    absent("lora+rag", RungStatus.NOT_APPLICABLE, "The task has no documents folder."),
)

GAINS = (
    Gain("prompt", "nearest", Interval(0.62, 0.52, 0.71, items=100), 64, 2, 34, 0.9999, 0.9999, 0.9999),
    Gain("nearest", "lora", Interval(0.11, 0.04, 0.18, items=100), 14, 3, 83, 0.9962, 0.974, 0.9999),
)

REGRESSIONS = (
    ChangedRow(
        "tickets-0117",
        "Hi, I was billed twice for my March subscription and the second charge emptied my account. Please sort it out today.",
        '{"intent": "refund", "urgency": "high", "product": "subscription"}',
        "nearest",
        '{"intent": "refund", "urgency": "high", "product": "subscription"}',
        1.0,
        "lora",
        '{"intent": "billing_question", "urgency": "high", "product": "subscription"}',
        0.0,
    ),
    ChangedRow(
        "tickets-0042",
        "Long story, sorry. "
        + "The router restarts whenever the kettle is on, and your chat keeps sending me the same article. " * 9,
        '{"intent": "technical", "urgency": "normal", "product": "router"}',
        "nearest",
        '{"intent": "technical", "urgency": "normal", "product": "router"}',
        1.0,
        "lora",
        "",
        0.33,
    ),
)


def made_up_climb() -> ClimbRecord:
    """A climb as the README would show it: LoRA earns its place on ticket triage."""
    return ClimbRecord(
        run="2026-11-22-1015-quiet-heron",
        task="support-tickets",
        created="2026-11-22T10:15:04Z",
        model=ModelIdentity(MODEL, "transformers", "3b" * 32, "9c" * 32, "f0" * 32, 134_515_008, 2048, "bfloat16"),
        grader="json_fields",
        rungs=RUNGS,
        verdict=Verdict(
            outcome=Outcome.SUFFICIENT,
            rung="lora",
            route=Route.TARGET,
            confidence="confirmed",
            sentence="Fine-tune: lora is the cheapest rung that reaches 80 %. Every untuned rung stays below it.",
            probability=0.953,
            reasons=(
                "lora answers 88 of 100 test rows rightly; 85 were needed.",
                "nearest, the best untuned rung, reaches 77 %.",
            ),
            would_change=(
                "A target of 75 %: nearest would do, without any training.",
                "Fewer than 2,300 calls in all: training would cost more than it saves.",
                "A larger model with a prompt may win: none was tried, and the base has 135 million parameters.",
            ),
            gains=GAINS,
            facts=(
                "Price of 1,000 calls, set-up shared out over 120,000 calls: lora $0.31, nearest $1.20.",
                "Break-even of lora against nearest: 2,300 calls in machine time; 120,000 are expected.",
                "Latency of one answer: lora 310 ms (95th percentile 527 ms), nearest 1.2 s (95th percentile 2.0 s).",
            ),
        ),
        regime="large",
        split_sizes={"train": 140, "validation": 60, "test": 100},
        target=0.8,
        minimum_gain=0.03,
        plan=("With 100 test rows, 85 must be right to show 80 %.", "The smallest gain these rows can show is 8 points."),
        notes=("Two rows with the same input were put into one cluster.",),
        retention=(
            Retention(
                "lora",
                True,
                (
                    lost("general text", 3.21, 3.24, 0.009, 0.02, "upper"),
                    lost("multiple choice", 0.21, 0.2, 0.01, 0.03),
                    lost("instructions", 0.4, 0.3, 0.1, None),
                    lost("self-stopping", 0.775, 0.9, -0.125, 0.1, always=True),
                    lost("KL, task inputs", None, 0.71, 0.71, None),
                ),
                remedy="adapter scale 0.5",
                tried=(TriedRemedy("adapter scale 0.75", ("general text",)), TriedRemedy("adapter scale 0.5", (), 0.89)),
            ),
        ),
        noise={
            "replayed_rows": 32.0,
            "answers_changed_by_batching": 0.25,
            "scores_changed_by_batching": 0.0625,
            "batching_floor": 0.049,
            "replayed_rows prompt": 16.0,
            "replayed_rows lora": 16.0,
            "seed_floor lora": 0.034,
        },
        regressions=REGRESSIONS,
        fixed=14,
        broken=3,
        versions={"stepladder": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.2"},
        machine="Linux x86_64, 2 cores, 8 GB, no GPU",
        seconds=431.0,
    )


def climb_full_of(text: str) -> ClimbRecord:
    """A climb with `text` in every field that holds text, keys included."""
    number = interval(0.5)
    rungs = tuple(
        RungResult(
            name=text,
            tuned=True,
            status=status,
            reason=text,
            model=text,
            role=text,
            validation=replace(number, method=text),
            test=replace(number, method=text),
            metrics={f"test/{text}": 0.5, text: 0.5},
            recipe={text: text, "adapters": [{"best_step": text}], "nested": {text: [text]}},
            history=training_history(12),
        )
        for status in RungStatus
    )
    row = ChangedRow(text, text, text, text, text, 1.0, text, text, 0.0)
    long_row = ChangedRow(text, text * 60, text * 60, text, text * 60, 1.0, text, text * 60, 0.0)
    return ClimbRecord(
        run=text,
        task=text,
        created=text,
        model=ModelIdentity(text, text, text, text, text, 1, 1, text, text),
        grader=text,
        rungs=rungs,
        verdict=Verdict(
            Outcome.UNDECIDED,
            text,
            Route.GAIN,
            text,
            text,
            0.5,
            120,
            (text,),
            (text,),
            (Gain(text, text, number, 1, 2, 3, 0.5, 0.5, 0.5),),
            (text,),
        ),
        regime=text,
        split_sizes={text: 5},
        target=0.5,
        minimum_gain=0.03,
        plan=(text,),
        notes=(text,),
        retention=(
            Retention(text, True, (lost(text, 0.5, 0.5, 0.3, 0.1),), "", text, (TriedRemedy(text, (text,), 0.5),), 0),
            Retention(text, False, (), text),
        ),
        noise={text: 0.5},
        regressions=(row, long_row),
        versions={text: text},
        machine=text,
    )


_texts = st.text(max_size=30) | st.text(st.characters(), max_size=300) | st.sampled_from(["lora", "prompt", ""])  # any code point
_rates = st.floats(0, 1)
_amounts = st.floats(0, 1e12) | st.sampled_from([0.0, 1e-300, 5e-324])
_maybe_amounts = st.none() | _amounts


def _intervals(low: float = 0.0) -> st.SearchStrategy[Interval]:
    bounds = st.lists(st.floats(low, 1), min_size=3, max_size=3).map(sorted)
    return st.builds(lambda three, method: Interval(three[1], three[0], three[2], method=method, items=9), bounds, _texts)


_points = st.builds(
    TrainPoint, st.integers(0, 10_000), _amounts, _amounts, st.floats(-1e6, 1e6), st.none() | st.floats(-1e6, 1e6)
)
_costs = st.builds(Cost, _amounts, _amounts, _maybe_amounts, _maybe_amounts, _amounts, _amounts, _amounts, _amounts)
_recipes = st.dictionaries(_texts, _texts | st.integers() | st.none() | st.lists(_texts, max_size=2), max_size=3)
_rungs = st.builds(
    RungResult,
    name=_texts,
    tuned=st.booleans(),
    status=st.sampled_from(RungStatus),
    reason=_texts,
    model=_texts,
    role=_texts,
    validation=st.none() | _intervals(),
    test=st.none() | _intervals(),
    metrics=st.dictionaries(_texts, st.floats(-1e6, 1e6), max_size=3),
    cost=_costs,
    latency_p50_seconds=_maybe_amounts,
    latency_p95_seconds=_maybe_amounts,
    cut_share=_rates,
    seconds=_amounts,
    recipe=_recipes | st.integers(0, 50).map(lambda step: {"adapters": [{"best_step": step}]}),
    history=st.lists(_points, max_size=8).map(tuple),
)
_gains = st.builds(
    Gain, _texts, _texts, _intervals(-1.0), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), _rates, _rates, _rates
)
_verdicts = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    rung=st.none() | _texts,
    route=st.none() | st.sampled_from(Route),
    confidence=_texts,
    sentence=_texts,
    probability=st.none() | _rates,
    needed_test_rows=st.none() | st.integers(0, 10**7),
    reasons=st.lists(_texts, max_size=3).map(tuple),
    would_change=st.lists(_texts, max_size=3).map(tuple),
    gains=st.lists(_gains, max_size=3).map(tuple),
    facts=st.lists(_texts, max_size=3).map(tuple),
)
_measures = st.builds(
    RetentionMeasure,
    _texts,
    st.none() | _rates,
    _rates,
    _intervals(-1.0),
    st.none() | _rates,
    st.sampled_from(["mean", "upper"]),
    st.booleans(),
)
_tried = st.builds(TriedRemedy, _texts, st.lists(_texts, max_size=2).map(tuple), st.none() | _rates)
_retentions = st.builds(
    Retention,
    _texts,
    st.booleans(),
    st.lists(_measures, max_size=3).map(tuple),
    _texts,
    _texts,
    st.lists(_tried, max_size=2).map(tuple),
    st.none() | st.integers(0, 4),
    st.booleans(),
)
_changed = st.builds(ChangedRow, _texts, _texts, _texts, _texts, _texts, _rates, _texts, _texts, _rates)
_models = st.builds(
    ModelIdentity,
    _texts,
    _texts,
    _texts,
    _texts,
    _texts,
    st.none() | st.integers(0, 10**12),
    st.integers(0, 10**6),
    _texts,
    _texts,
)


def climbs() -> st.SearchStrategy[ClimbRecord]:
    """Any record the types allow, with finite numbers."""
    return st.builds(
        ClimbRecord,
        run=_texts,
        task=_texts,
        created=_texts,
        model=_models,
        grader=_texts,
        rungs=st.lists(_rungs, max_size=5).map(tuple),
        verdict=_verdicts,
        regime=_texts,
        split_sizes=st.dictionaries(_texts, st.integers(0, 10**6), max_size=3),
        target=st.none() | _rates,
        minimum_gain=_rates,
        plan=st.lists(_texts, max_size=2).map(tuple),
        notes=st.lists(_texts, max_size=2).map(tuple),
        retention=st.lists(_retentions, max_size=2).map(tuple),
        noise=st.dictionaries(_texts, _amounts, max_size=2),
        regressions=st.lists(_changed, max_size=3).map(tuple),
        fixed=st.integers(0, 99),
        broken=st.integers(0, 99),
        versions=st.dictionaries(_texts, _texts, max_size=2),
        machine=_texts,
        seconds=_amounts,
    )
