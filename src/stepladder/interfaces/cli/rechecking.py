"""The commands that look at a finished climb again without running anything: `verdict`, `verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from stepladder.domain.verdict import Outcome
from stepladder.interfaces.exit_codes import DATA, OK
from stepladder.service.show import OUTCOMES, ladder_lines
from stepladder.service.verdict import Assumptions, Derived, derive_verdict, derived_to_json
from stepladder.service.verify import TAKEN
from stepladder.service.verify import verify as verify_run
from stepladder.storage.records import to_json


def verdict(run: Path, assumptions: Assumptions, *, as_json: bool) -> int:
    """Derive a verdict again, show it, and return the exit code."""
    derived = derive_verdict(run, assumptions)
    if as_json:
        print(json.dumps(derived_to_json(derived), ensure_ascii=False, indent=2))
    else:
        _show(derived)
    return DATA if derived.verdict.outcome is Outcome.INVALID else OK


def _show(derived: Derived) -> None:
    if sys.stdout.isatty():
        Console().print(derived.climb)
    else:
        print(*ladder_lines(derived.climb.record), sep="\n")
    print()
    if derived.changed:
        print(f"Derived from the recorded rows with {'; '.join(derived.changed)}. Nothing was run or written.")
    before, now = derived.before, derived.verdict
    same = (before.outcome, before.rung) == (now.outcome, now.rung)
    print(f"{'As' if same else 'Otherwise than'} recorded: {OUTCOMES[before.outcome]}, {before.rung or 'no rung'}.")
    for note in derived.notes:
        print(note)


def verify(run: Path, *, as_json: bool) -> int:
    """Check a run, show what differs, and return the exit code."""
    found = verify_run(run)
    if as_json:
        print(json.dumps({"agrees": found.agrees, **to_json(found), "taken_as_recorded": TAKEN}, ensure_ascii=False, indent=2))
        return OK if found.agrees else DATA
    for difference in found.differences:
        print(difference)
    for note in found.notes:
        print(f"Note: {note}")
    if found.agrees:
        print(f"{found.run}: {found.files} files are as written; {found.rows:,} grades and the verdict follow from the rows.")
        print(TAKEN)
    else:
        count = len(found.differences)
        print(
            f"{found.run}: {count} {'difference' if count == 1 else 'differences'}. Find out why before you act on this verdict."
        )
    return OK if found.agrees else DATA
