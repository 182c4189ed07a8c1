"""OpenAI's `python` graders: the user's `grade(sample, item)`, run where it can reach nothing and stop nobody."""

from __future__ import annotations

import atexit
import io
import json
import threading
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_monty import (
    CollectString,
    Monty,
    MontyCrashedError,
    MontyError,
    MontySession,
    MontySyntaxError,
    OSPolicy,
    ResourceLimits,
)

from stepladder.evaluation.graders.reward import Fault, GraderRefused, Outcome, Reward, Subject, Trouble

_CALL = """
_given = grade(sample, item)
float(_given) if isinstance(_given, (int, float)) else [type(_given).__name__]
"""
_WORLD: OSPolicy = {
    "datetime": datetime(2000, 1, 1, tzinfo=UTC),
    "timezone": "utc",
    "sleep": "zero",
    "process_time": "zero",
    "random_start": {"seed": 0},
}
"""Clock, sleep and chance stand still, so that the same answer gets the same grade on any day."""
_GIVE_UP_AFTER = 3


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one call may use. A worker that does not stop by itself is killed a second later."""

    seconds: float = 10.0
    memory_bytes: int = 256 * 2**20
    output_bytes: int = 2**20  # printed text
    depth: int = 500


class PythonFunction:
    """What the function returns, run by pydantic-monty in a worker process; each call starts from the source anew.

    There are no files, no sockets, no environment and no clock in there. A function that raises, runs over its bounds or
    returns no number leaves the row ungraded; OpenAI gives such rows 0, which would look like a bad answer. After three
    calls over the time limit the function is given up.
    """

    type = "python"
    asks_a_model = False
    variables: frozenset[str] = frozenset()

    def __init__(self, name: str | None, source: str, bounds: Bounds | None = None) -> None:
        """Raises `GraderRefused` when the source does not run, imports what is not there, or defines no `grade`."""
        self.name = name or self.type
        self._source = source
        self._bounds = bounds or Bounds()
        self._timeouts = 0
        self._check()

    def reward(self, subject: Subject) -> Outcome:
        if self._timeouts >= _GIVE_UP_AFTER:
            return Fault("the function was given up: it ran over its time limit three times", Trouble.PYTHON_RUN)
        try:
            with self._session() as session:
                self._feed(session, self._source)
                found = self._feed(session, _CALL, {"sample": subject.sample, "item": dict(subject.item)})
        except MontyCrashedError as error:
            self._timeouts += error.timed_out
            return Fault(f"the sandbox had to be stopped: {_short(error)}", Trouble.PYTHON_SERVER)
        except MontyError as error:
            self._timeouts += isinstance(error.exception(), TimeoutError)
            return Fault(f"the function failed: {_short(error)}", Trouble.PYTHON_RUN)
        except (ValueError, TypeError, RecursionError, OverflowError) as error:  # a row that cannot be handed over
            return Fault(f"the row cannot be given to the function: {_short(error)}", Trouble.PYTHON_RUN)
        if not isinstance(found, float):
            kind = found[0] if isinstance(found, list) and found else "something else"
            return Fault(f"the function returned {str(kind)[:40]}, not a number", Trouble.PYTHON_RUN)
        if found != found or found in (float("inf"), float("-inf")):
            return Fault(f"the function returned {found}", Trouble.PYTHON_RUN)
        return Reward(found)

    def prepare(self, subjects: Sequence[Subject]) -> None:
        """Nobody is asked."""

    def template_fault(self, subject: Subject) -> Fault | None:
        return None

    def _check(self) -> None:
        for module in imported_modules(self._source):
            self._check_import(module)
        try:
            with self._session() as session:
                self._feed(session, self._source)
                self._feed(session, "grade")
        except MontySyntaxError as error:
            raise GraderRefused(f"the source is no Python that the sandbox knows: {_short(error)}.", _HINT, "source") from error
        except MontyError as error:
            if isinstance(error.exception(), NameError) and "'grade'" in str(error):
                raise GraderRefused("the source defines no function `grade(sample, item)`.", _HINT, "source") from error
            raise GraderRefused(f"the source does not run: {_short(error)}.", _HINT, "source") from error

    def _check_import(self, module: str) -> None:
        try:
            with self._session() as session:
                self._feed(session, f"import {module}")
        except MontyError as error:
            hint = "The sandbox has parts of the standard library only: json, math, re, datetime, collections and others."
            if module.partition(".")[0] in ("rapidfuzz", "nltk", "rouge_score"):
                hint = "For that, use a grader of type `text_similarity`, alone or inside `multi`."
            raise GraderRefused(f"the source imports '{module}', which the sandbox does not have.", hint, "source") from error

    def _session(self) -> MontySession:
        bounds = self._bounds
        limits: ResourceLimits = {
            "max_feed_duration_secs": bounds.seconds,
            "max_memory": bounds.memory_bytes,
            "max_recursion_depth": bounds.depth,
            "max_suspensions": 1,
            "max_total_sleep_secs": 0.0,
        }
        return _pool().checkout(limits=limits, os_policy=_WORLD)

    def _feed(self, session: MontySession, code: str, inputs: Mapping[str, Any] | None = None) -> Any:
        printed = CollectString(max_bytes=self._bounds.output_bytes)
        return session.feed_run(code, inputs=dict(inputs or {}), print_callback=printed)


_HINT = "Write `def grade(sample, item):` that returns a number from 0 to 1; the how-to lists what the sandbox has."


def imported_modules(source: str) -> list[str]:
    """Modules that the import statements of `source` name, wherever they stand; what cannot be read is left to the sandbox.

    The source is cut into tokens, never parsed here: it may be written to break a parser.
    """
    found: list[str] = []
    statement: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            ends = token.type == tokenize.NEWLINE or (token.type == tokenize.OP and token.string in (";", ":"))
            if ends or token.type == tokenize.ENDMARKER:
                found += _modules(statement)
                statement = []
            elif token.type in (tokenize.NAME, tokenize.OP):
                statement.append(token.string)
    except (tokenize.TokenError, SyntaxError, ValueError):
        return []
    return list(dict.fromkeys(found))


def _modules(statement: Sequence[str]) -> list[str]:
    if statement[:1] == ["from"] and "import" in statement:
        return ["".join(statement[1 : statement.index("import")])]
    if statement[:1] != ["import"]:
        return []
    parts = " ".join(statement[1:]).split(",")
    return [part.split(" as ")[0].replace(" ", "") for part in parts if part.strip()]


def _short(error: BaseException) -> str:
    """The last line of an error, which names it; printable, and at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return json.dumps(lines[-1][:200], ensure_ascii=True)[1:-1]


_workers: list[Monty] = []
_starting = threading.Lock()


def _pool() -> Monty:
    """The workers, started at the first use and stopped with the program."""
    with _starting:
        if not _workers:
            pool = Monty(request_timeout=60.0)
            pool.__enter__()
            atexit.register(pool.__exit__, None, None, None)
            _workers.append(pool)
        return _workers[0]
