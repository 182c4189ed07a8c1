"""Counts for Prometheus. Labels are methods, statuses and states: never a name, an id or a text that a user has sent."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

_KNOWN_METHODS = frozenset({"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"})

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters of this process; safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()

    def count_request(self, method: str, status: int) -> None:
        # Any word can be sent as a method; each would be a series of its own.
        known = method if method in _KNOWN_METHODS else "other"
        self.add("stepladder_http_requests_total", 1, method=known, status=str(status))

    def add(self, name: str, amount: float, **labels: str) -> None:
        with self._lock:
            self._counts[name, tuple(sorted(labels.items()))] += amount  # type: ignore[assignment]

    def counts(self) -> dict[tuple[str, Labels], float]:
        with self._lock:
            return dict(self._counts)


HELP: Mapping[str, tuple[str, str]] = {
    "stepladder_http_requests_total": ("counter", "Requests answered, by method and status."),
    "stepladder_answers_total": ("counter", "Answers of models, by kind of request."),
    "stepladder_prompt_tokens_total": ("counter", "Tokens read by models."),
    "stepladder_completion_tokens_total": ("counter", "Tokens written by models."),
    "stepladder_answer_seconds_total": ("counter", "Seconds from a request for an answer to its end, waiting included."),
    "stepladder_answers_waiting": ("gauge", "Requests that wait for a model."),
    "stepladder_models_loaded": ("gauge", "Base models in memory."),
    "stepladder_jobs": ("gauge", "Fine-tuning jobs, by status."),
    "stepladder_stored_bytes": ("gauge", "Bytes of uploaded files."),
}


def render(values: Iterable[tuple[str, Labels, float]]) -> str:
    """Prometheus' text format, version 0.0.4: every family once, with its help and kind."""
    families: dict[str, list[str]] = {}
    for name, labels, value in values:
        shown = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
        families.setdefault(name, []).append(f"{name}{{{shown}}} {value:g}" if shown else f"{name} {value:g}")
    lines: list[str] = []
    for name in sorted(families):
        kind, meaning = HELP[name]
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *sorted(families[name])]
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
