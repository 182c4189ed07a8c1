"""Contenders and verdicts as JSON, so that a recorded verdict can be read, checked and derived again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepladder.data.placing import Growth
from stepladder.domain.errors import RunError
from stepladder.domain.verdict import Cost, Gain, Interval, Outcome, Route, Verdict
from stepladder.evaluation.compare import Contender
from stepladder.evaluation.ruling import VerdictInputs
from stepladder.evaluation.verdict import decide

Record = Mapping[str, Any]


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    return {**asdict(verdict), "outcome": verdict.outcome.value, "route": verdict.route.value if verdict.route else None}


def verdict_from_json(record: Record) -> Verdict:
    """Raises: RunError: A key is missing or unknown."""
    try:
        return Verdict(
            **{
                **record,
                "outcome": Outcome(record["outcome"]),
                "route": None if record["route"] is None else Route(record["route"]),
                "reasons": tuple(record["reasons"]),
                "would_change": tuple(record["would_change"]),
                "facts": tuple(record["facts"]),
                "gains": tuple(Gain(**{**gain, "interval": Interval(**gain["interval"])}) for gain in record["gains"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken("verdict", error) from error


def contender_to_json(contender: Contender) -> dict[str, Any]:
    """Scores as rows of numbers, null = ungraded."""
    plain = {item.name: getattr(contender, item.name) for item in fields(contender)}
    return {**plain, "scores": _scores_to_json(contender.scores), "cost": asdict(contender.cost)}


def contender_from_json(record: Record) -> Contender:
    """Raises: RunError: A key is missing or unknown."""
    try:
        return Contender(**{**record, "scores": _scores_from_json(record["scores"]), "cost": Cost(**record["cost"])})
    except (KeyError, TypeError, ValueError) as error:
        raise _broken("contender", error) from error


def inputs_to_json(inputs: VerdictInputs) -> dict[str, Any]:
    plain = {item.name: getattr(inputs, item.name) for item in fields(inputs)}
    return {
        **plain,
        "contenders": [contender_to_json(contender) for contender in inputs.contenders],
        "clusters": None if inputs.clusters is None else [int(cluster) for cluster in inputs.clusters],
        "leaks": list(inputs.leaks),
        "accepted_leaks": list(inputs.accepted_leaks),
        "learned_before": list(inputs.learned_before),
        "growth": list(inputs.growth),
        "refit_faults": dict(inputs.refit_faults),
        "not_comparable": list(inputs.not_comparable),
        "left_out": list(inputs.left_out),
        "split_growth": None if inputs.split_growth is None else asdict(inputs.split_growth),
    }


def inputs_from_json(record: Record) -> VerdictInputs:
    """Raises: RunError: A key is missing or unknown."""
    try:
        growth = record.get("split_growth")
        return VerdictInputs(
            **{
                **record,
                "contenders": tuple(contender_from_json(contender) for contender in record["contenders"]),
                "clusters": None if record["clusters"] is None else tuple(record["clusters"]),
                "leaks": tuple(record["leaks"]),
                "accepted_leaks": tuple(record.get("accepted_leaks", ())),
                "learned_before": tuple(record.get("learned_before", ())),
                "growth": tuple(record.get("growth", ())),
                "refit_faults": dict(record.get("refit_faults", {})),
                "not_comparable": tuple(record.get("not_comparable", ())),
                "left_out": tuple(record.get("left_out", ())),
                "split_growth": None if growth is None else Growth(**growth),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken("verdict's inputs", error) from error


def rederive(record: Record, **assumptions: Any) -> Verdict:
    """The verdict that follows from recorded inputs, under other assumptions if given (`target=0.9`, `minimum_gain=…`)."""
    return decide(replace(inputs_from_json(record), **assumptions))


def _scores_to_json(scores: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(score) else float(score) for score in row] for row in scores]


def _scores_from_json(rows: list[list[float | None]]) -> NDArray[np.float64]:
    return np.array([[np.nan if score is None else score for score in row] for row in rows], dtype=np.float64)


def _broken(what: str, error: Exception) -> RunError:
    return RunError(f"the recorded {what} cannot be read: {error}.", "The run folder was changed, or a newer version wrote it.")
