"""Some test rows again, one at a time: what a single caller waits, and whether batching changed an answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stepladder.domain.climb import GradedRow
from stepladder.domain.messages import Example
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.wrappers import OneByOne
from stepladder.service.rung_run import RungRun
from stepladder.service.setup import Base
from stepladder.storage.run_folder import RunFolder

REPLAYED_ROWS = 30
FEWEST_ROWS = 5


@dataclass(frozen=True)
class Replay:
    """Answers of a contender at batch 1: seconds of each, and how many differ from the batched run's."""

    latencies: tuple[float, ...] = ()
    changed: int = 0

    @property
    def rows(self) -> int:
        return len(self.latencies)


def replay_alone(base: Base, run: RunFolder, name: str, ran: RungRun, batched: Sequence[GradedRow], *, seconds: float) -> Replay:
    """Up to 30 test rows of a contender's first world again, one by one, for at most about `seconds`.

    Replayed answers are recorded too, so a continued climb does not repeat them. Rungs that ask no model are left out.
    """
    if ran.context is None or ran.predictor is None or not any(row.prompt_tokens for row in batched):
        return Replay()
    inner = ran.context.engine
    alone = RecordedEngine(OneByOne(getattr(inner, "engine", inner)), run.path / "replay.jsonl")
    predictor = ran.technique.restore(ran.recipe, replace(ran.context, engine=alone))
    answers = {row.id: row.answer for row in batched if row.seed == 0 and row.fold == ran.world.fold}
    latencies: list[float] = []
    changed = 0
    base.watcher.progress.start(f"one by one: {name}", min(REPLAYED_ROWS, len(ran.world.test)))
    started = time.monotonic()
    for example in _evenly(ran.world.test, REPLAYED_ROWS):
        if len(latencies) >= FEWEST_ROWS and time.monotonic() - started > seconds:
            break
        prediction = predictor.predict([example.input])[0]
        latencies.append(prediction.latency_seconds)
        changed += prediction.text != answers.get(example.id)
        base.watcher.progress.advance()
    base.watcher.progress.finish()
    return Replay(tuple(latencies), changed)


def _evenly(rows: Sequence[Example], count: int) -> list[Example]:
    """At most `count` rows, spread over all."""
    step = max(1, len(rows) // count)
    return list(rows[::step][:count])
