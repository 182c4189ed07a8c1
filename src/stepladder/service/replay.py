"""Some test rows again, one at a time: what a single caller waits, and whether batching changed an answer."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from stepladder.domain.climb import GradedRow
from stepladder.domain.errors import BudgetError, EngineError
from stepladder.domain.messages import Example
from stepladder.domain.protocols import Engine, Predictor
from stepladder.domain.sealed import Opened
from stepladder.engines.answers import CachedEngine
from stepladder.engines.cache import RecordedEngine
from stepladder.engines.wrappers import FirstTokens, OneByOne, WarmedUp
from stepladder.service.rung_run import RungRun
from stepladder.service.setup import Base, bare_engine
from stepladder.service.workload import REPLAYED_ROWS, replay_share
from stepladder.storage.run_folder import RunFolder


@dataclass(frozen=True)
class Replay:
    """A contender's answers at batch 1: seconds of each, and how many answers and scores differ from the batched run's."""

    latencies: tuple[float, ...] = ()
    changed_answers: int = 0
    changed_scores: int = 0

    @property
    def rows(self) -> int:
        return len(self.latencies)


@dataclass
class _Witness:
    """One contender's replay under way: test answers still to be asked again, in an order drawn once."""

    base: Base
    name: str
    path: Path  # where replayed answers are recorded
    waiting: list[tuple[RungRun, Example]]
    batched: Mapping[tuple[int | None, str], GradedRow]
    done: Replay = Replay()
    restored: dict[int | None, Predictor] = field(default_factory=dict)  # by fold
    warmed: dict[int | None, WarmedUp] = field(default_factory=dict)  # by fold

    def ask(self, rows: int, until: float | None = None) -> None:
        """Ask at most `rows` more, fold by fold; stop at `until` (of `time.monotonic`), or when the model fails."""
        now, self.waiting = self.waiting[:rows], self.waiting[rows:]
        if not now or (until is not None and time.monotonic() >= until):
            return
        self.base.watcher.progress.start(f"one by one: {self.name}", len(now))
        try:
            for _, group in groupby(sorted(now, key=_fold), key=_fold):
                self._ask_fold(list(group), until)
        except (BudgetError, EngineError) as error:  # the verdict does not depend on this
            self.waiting = []
            self.base.watcher.say(f"{self.name}: no further test rows are asked one by one. {error}")
        finally:
            self.base.watcher.progress.finish()

    def _ask_fold(self, rows: Sequence[tuple[RungRun, Example]], until: float | None) -> None:
        ran = rows[0][0]
        self._alone(ran)
        first = [example for _, example in rows[:2]]
        self.warmed[ran.world.fold].before_next(lambda: _warm_up(ran, first))
        for _, example in rows:
            if until is not None and time.monotonic() >= until:
                return
            self._compare(ran, example)
            self.base.watcher.progress.advance()

    def _compare(self, ran: RungRun, example: Example) -> None:
        prediction = self._alone(ran).predict([example.input])[0]
        if prediction.fault:
            return  # nothing to lay beside the batched answer
        (alone,) = self.base.marker.rows(self.name, "test", [example], [prediction], fold=ran.world.fold)
        before = self.batched[ran.world.fold, example.id]
        self.done = Replay(
            (*self.done.latencies, alone.latency_seconds),
            self.done.changed_answers + (alone.answer != before.answer),
            self.done.changed_scores + (alone.score != before.score),
        )

    def _alone(self, ran: RungRun) -> Predictor:
        """The rung as it answers a single caller; it is warmed up when it is really asked."""
        if ran.world.fold not in self.restored:
            warmed = self.warmed[ran.world.fold] = WarmedUp(OneByOne(_engine_of(ran)))
            alone: Engine = warmed
            if self.base.answers is not None:
                alone = CachedEngine(alone, self.base.answers, manner="alone")
            self.restored[ran.world.fold] = _restore(ran, RecordedEngine(alone, self.path))
        return self.restored[ran.world.fold]


def replay_alone(
    base: Base,
    run: RunFolder,
    contenders: Mapping[str, Sequence[RungRun]],
    rows: Sequence[GradedRow],
    opened: Opened,
    *,
    deadline: float,
) -> dict[str, Replay]:
    """Test answers again, one by one, of every contender that asks a model.

    Each contender answers its share of the 30 rows (docs/decisions/013) whatever the clock says, and as many more, up to 30,
    as fit before `deadline` (of `time.monotonic`). While the shares are small the contenders answer different rows.
    Replayed answers are recorded too, so a continued climb does not repeat them.

    Args:
        contenders: By name, the rung behind it in every world.
        rows: Their batched test answers.
    """
    asked = {(row.rung, row.fold) for row in rows if row.prompt_tokens}
    worlds = {name: [ran for ran in runs if (name, ran.world.fold) in asked] for name, runs in contenders.items()}
    asking = {name: runs for name, runs in worlds.items() if runs}
    if not asking:
        return {}
    share = replay_share(len(asking), latency_decides=base.task.settings.use.max_latency_seconds is not None)
    witnesses = []
    for number, (name, runs) in enumerate(asking.items()):
        answers = {(row.fold, row.id): row for row in rows if row.rung == name and row.seed == 0}
        drawn = _draw(runs, opened, seed=base.options.seed, start=number * share)
        witnesses.append(_Witness(base, name, run.path / "replay.jsonl", drawn, answers))
    for witness in witnesses:
        witness.ask(share)
    for number, witness in enumerate(witnesses):
        witness.ask(REPLAYED_ROWS - share, until=_part_of(deadline, len(witnesses) - number))
    return {witness.name: witness.done for witness in witnesses}


def _part_of(deadline: float, claimants: int) -> float:
    """When the first of several claimants to the time that is left has had its part."""
    now = time.monotonic()
    return now + max(0.0, deadline - now) / claimants


def _draw(runs: Sequence[RungRun], opened: Opened, *, seed: int, start: int) -> list[tuple[RungRun, Example]]:
    """30 test rows over all worlds, drawn once and the same for every contender; it begins at `start`, around the circle."""
    every = [(ran, example) for ran in runs for example in ran.world.test.open(opened)]
    drawn = random.Random(seed).sample(every, min(REPLAYED_ROWS, len(every)))
    start %= len(drawn)
    return drawn[start:] + drawn[:start]


def _fold(row: tuple[RungRun, Example]) -> int:
    return row[0].world.fold or 0


def _engine_of(ran: RungRun) -> Engine:
    """The rung's engine without its record, which would answer from the batched run."""
    assert ran.context is not None
    return bare_engine(ran.context.engine)


def _restore(ran: RungRun, engine: Engine) -> Predictor:
    """The rung as it was fitted, asking `engine`."""
    assert ran.context is not None
    return ran.technique.restore(ran.recipe, replace(ran.context, engine=engine))


def _warm_up(ran: RungRun, examples: Sequence[Example]) -> None:
    """Let a local engine read what the rung's prompts have in common.

    Every contender then stands as a served one would. Without it those that happened to answer last would look quicker,
    and all would look slower in a continued climb. A server does this for itself, and its calls may cost money.
    """
    engine = _engine_of(ran)
    if not engine.identity.served:
        _restore(ran, FirstTokens(engine)).predict([example.input for example in examples])
