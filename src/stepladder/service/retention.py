"""General abilities of tuned rungs, measured before the test split opens, and restored where that can be done.

Only the tuned champion is measured, since no other tuned rung answers the test rows. Where nothing restores it, the next best
tuned rung is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stepladder.data.probes import load_probes
from stepladder.domain.climb import RungStatus
from stepladder.domain.errors import EngineError, ModelError
from stepladder.domain.protocols import Comparing, Predictor, Prompt
from stepladder.domain.retention import Retention, TriedRemedy
from stepladder.evaluation.retention import retention_measures
from stepladder.service.contest import name_validated
from stepladder.service.probing import Prober
from stepladder.service.remedies import remedies
from stepladder.service.retention_text import retention_line
from stepladder.service.rung_run import RungRun
from stepladder.service.setup import Base
from stepladder.storage.run_folder import RunFolder
from stepladder.techniques.tuning import TunedPredictor, adapter_folder

TASK_INPUTS = 12
"""Held-out inputs along which the divergence on the task is measured."""


@dataclass(frozen=True, eq=False)
class Guard:
    """Looks after the general abilities of the tuned rungs of one climb. `prober` is None where nothing can be compared."""

    base: Base
    run: RunFolder
    prober: Prober | None
    deadline: float

    @classmethod
    def of(cls, base: Base, run: RunFolder, runs: Sequence[RungRun], *, deadline: float) -> Guard:
        """A guard that asks through the engine of the tuned rungs, which records."""
        tuned = next((ran for ran in runs if ran.technique.tuned and ran.context is not None), None)
        engine = tuned.context.engine if tuned is not None and tuned.context is not None else base.engine
        able = isinstance(base.engine, Comparing) and "score" in base.engine.can
        prober = Prober(load_probes(base.task), engine, base.engine) if able and isinstance(base.engine, Comparing) else None
        return cls(base, run, prober, deadline)

    def keep_abilities(self, runs: Sequence[RungRun]) -> tuple[list[RungRun], tuple[Retention, ...]]:
        """All rungs, champions replaced by their remedied selves, and what was measured, champion by champion."""
        kept = list(runs)
        found: list[Retention] = []
        for fold in dict.fromkeys(ran.world.fold for ran in runs):
            reports: dict[str, Retention] = {}
            while (place := self._champion(kept, fold, reports)) is not None:
                here = [ran for ran in kept if ran.world.fold == fold and ran.status is RungStatus.RAN]
                kept[place], reports[kept[place].name] = self.guard(kept[place], here)
            found += reports.values()
        return kept, tuple(found)

    def _champion(self, runs: Sequence[RungRun], fold: int | None, reports: Mapping[str, Retention]) -> int | None:
        """Where the best tuned rung of a world stands that is not known yet; None when the champion is."""
        places = {ran.name: place for place, ran in enumerate(runs) if ran.world.fold == fold}
        here = [runs[place] for place in places.values()]
        if not any(ran.status is RungStatus.RAN and ran.technique.tuned for ran in here):
            return None
        name = name_validated(self.base, here, {name: report.blocked for name, report in reports.items()}).tuned
        return None if name is None or name in reports else places[name]

    def guard(self, ran: RungRun, below: Sequence[RungRun], *, refit: bool = False) -> tuple[RungRun, Retention]:
        """The rung as it may go on, and its retention: as it is, under the first remedy that suffices, or failed."""
        progress = self.base.watcher.progress
        progress.start(f"retention: {ran.name}")
        try:
            ran, report = self._guard(ran, below)
        except (EngineError, ModelError) as error:
            report = self._report(ran, unmeasured=str(error))
        finally:
            progress.finish()
        report = replace(report, refit=refit)
        self.base.watcher.say(retention_line(report))
        return ran, report

    def _guard(self, ran: RungRun, below: Sequence[RungRun]) -> tuple[RungRun, Retention]:
        gate = self.base.task.settings.use.other_tasks
        if self.prober is None or not isinstance(ran.predictor, TunedPredictor):
            name = (ran.context.engine if ran.context is not None else self.base.engine).identity.engine
            return ran, self._report(ran, unmeasured=f"The engine '{name}' cannot compare a tuned model with its base.")
        if not gate and time.monotonic() > self.deadline:
            return ran, self._report(ran, unmeasured="The time of `[budget] minutes` is used up.")
        known = ran.recipe.get("retention", {})  # restored after a kill: the remedy was chosen before
        report = self._measure(ran, ran.predictor)
        if not report.failed or known:
            tried = tuple(TriedRemedy(one["name"], tuple(one["failed"]), one["score"]) for one in known.get("tried", ()))
            return ran, replace(report, remedy=known.get("remedy", ""), tried=tried)
        return self._restore(ran, report, below)

    def _restore(self, ran: RungRun, report: Retention, below: Sequence[RungRun]) -> tuple[RungRun, Retention]:
        """The first remedy under which the abilities hold and the task's validation score does not fall by `minimum_gain`.

        Where every remedy that holds costs more than that, the one that costs least.
        """
        assert self.prober is not None
        started = time.monotonic()
        wanted = _score(ran) - self.base.task.settings.minimum_gain
        tried: list[TriedRemedy] = []
        holding: list[tuple[RungRun, Retention]] = []
        for name, apply in remedies(ran, below, self.prober.replay_rows, deadline=self.deadline):
            predictor = apply()
            now = self._measure(ran, predictor)
            if now.failed:
                tried.append(TriedRemedy(name, tuple(one.name for one in now.failed)))
                continue
            restored = self._validated(ran, predictor)
            tried.append(TriedRemedy(name, (), _score(restored)))
            holding.append((restored, replace(now, remedy=name)))
            if _score(restored) >= wanted:
                break
        if not holding:
            return ran, replace(report, tried=tuple(tried))
        restored, now = max(holding, key=lambda one: _score(one[0]))  # of equals the gentler
        chosen = replace(now, tried=tuple(tried))
        return self._keep(restored, chosen, seconds=time.monotonic() - started), chosen

    def _keep(self, ran: RungRun, report: Retention, *, seconds: float) -> RungRun:
        """Put the remedied recipe in place of the first one, with what led to it."""
        said = {"remedy": report.remedy, "tried": [{"name": t.name, "failed": t.failed, "score": t.score} for t in report.tried]}
        assert ran.context is not None
        predictor = ran.technique.restore({**ran.recipe, "retention": said}, ran.context)
        kept = replace(ran, predictor=predictor, seconds=ran.seconds + seconds)
        recorded = self.run.read_result(ran.name, ran.world.fold) or {}
        self.run.write_result(ran.name, ran.world.fold, {**recorded, "recipe": kept.recipe, "seconds": kept.seconds})
        return kept

    def _validated(self, ran: RungRun, predictor: Predictor) -> RungRun:
        """The rung with another predictor, graded on its validation rows again."""
        examples = ran.world.held_out
        answers = predictor.predict([example.input for example in examples])
        rows = self.base.marker.rows(ran.name, "validation", examples, answers, fold=ran.world.fold)
        return replace(ran, predictor=predictor, rows=rows)

    def _measure(self, ran: RungRun, predictor: Predictor) -> Retention:
        """Every measure, or only the quick ones where these fail already and it would be blocked anyway."""
        assert self.prober is not None
        assert isinstance(predictor, TunedPredictor)
        adapter = adapter_folder(predictor.context, predictor.recipe["adapters"][0])
        observers = (self.prober.likelihoods, partial(self.prober.observe, task_prompts=_task_prompts(ran, predictor)))
        for observe in observers:
            report = self._report(ran)
            report = replace(report, measures=retention_measures(observe(None), observe(adapter)))
            if report.failed and predictor is not ran.predictor:
                break
        return report

    def _report(self, ran: RungRun, *, unmeasured: str = "") -> Retention:
        gate = self.base.task.settings.use.other_tasks
        return Retention(ran.name, gate, unmeasured=unmeasured, fold=ran.world.fold)


def _task_prompts(ran: RungRun, predictor: TunedPredictor) -> list[Prompt]:
    inputs = [example.input for example in ran.world.held_out[:TASK_INPUTS]]
    return [asked.prompt for asked in predictor.prompter(inputs)]


def _score(ran: RungRun) -> float:
    known = [row.score for row in ran.rows if row.score is not None]
    return float(np.mean(known)) if known else 0.0
