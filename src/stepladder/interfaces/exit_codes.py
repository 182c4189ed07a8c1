"""One table from errors to exit codes (design §2) and HTTP statuses."""

from __future__ import annotations

from stepladder.domain.errors import (
    BudgetError,
    DataError,
    EngineError,
    EvaluationError,
    MissingExtra,
    ModelError,
    NotOffered,
    PrivacyError,
    RunError,
    StepladderError,
    Unanswered,
    UsageError,
)

OK = 0
TARGET_NOT_REACHED = 1
USAGE = 2
DATA = 3
ENGINE = 4
BUDGET = 5
OUR_FAULT = 70
INTERRUPTED = 130

EXIT_CODES: dict[type[StepladderError], int] = {
    UsageError: USAGE,
    PrivacyError: USAGE,
    MissingExtra: USAGE,
    DataError: DATA,
    RunError: DATA,
    EvaluationError: DATA,
    ModelError: ENGINE,
    NotOffered: ENGINE,
    EngineError: ENGINE,
    BudgetError: BUDGET,
}


def exit_code(error: BaseException) -> int:
    """The exit code that tells a script what happened."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), OUR_FAULT)


HTTP_STATUSES: dict[type[StepladderError], int] = {
    UsageError: 400,
    PrivacyError: 403,
    MissingExtra: 400,
    DataError: 400,
    RunError: 404,
    EvaluationError: 400,
    ModelError: 400,
    Unanswered: 502,
    EngineError: 400,  # a local engine fails on what it is asked for; 5xx would be sent again and again
    BudgetError: 429,
}


def http_status(error: BaseException) -> int:
    """The HTTP status that tells a client what happened."""
    return next((status for kind, status in HTTP_STATUSES.items() if isinstance(error, kind)), 500)
