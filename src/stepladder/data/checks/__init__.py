"""Checks of the rows and documents, one a file: what is wrong, where, and what to do, before anything is trained or "
"measured."""

from stepladder.data.checks.context import CheckContext, build_context
from stepladder.data.checks.finding import Check, Finding, Mark, NotRun, Repair, Severity
from stepladder.data.checks.registry import CHECKS, CheckReport, run_checks

__all__ = [
    "CHECKS",
    "Check",
    "CheckContext",
    "CheckReport",
    "Finding",
    "Mark",
    "NotRun",
    "Repair",
    "Severity",
    "build_context",
    "run_checks",
]
