"""The pytest plugin: a fixture `stepladder` that grades a rung inside a test.

pytest loads this file at every start, so it imports nothing of ours until a test asks for a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from stepladder.service.score import Scored


@dataclass(frozen=True)
class Scoring:
    """What the fixture `stepladder` offers. Files and runs may be paths or texts."""

    def score(
        self,
        run: Path | str,
        file: Path | str,
        *,
        rung: str | None = None,
        against: Path | str | None = None,
        target: float | None = None,
        fresh: bool = False,
        device: str = "auto",
    ) -> Scored:
        """As `stepladder.score`: grades a rung on labelled rows, and asserts nothing."""
        from stepladder.service.score import score

        return score(run, file, rung=rung, against=against, target=target, fresh=fresh, device=device)

    def assert_reaches(
        self,
        run: Path | str,
        file: Path | str,
        target: float | None = None,
        *,
        rung: str | None = None,
        against: Path | str | None = None,
        fresh: bool = False,
        device: str = "auto",
    ) -> Scored:
        """Fail the test below the target (the task's by default) or when P(worse than recorded) ≥ .95, with the table as reason.

        Raises:
            UsageError: There is no target and nothing recorded, so that no score could fail.
        """
        __tracebackhide__ = True
        from stepladder.domain.errors import UsageError
        from stepladder.service.score_lines import score_lines

        scored = self.score(run, file, rung=rung, against=against, target=target, fresh=fresh, device=device)
        if scored.target is None and scored.against is None:
            raise UsageError("there is nothing to reach: the task has no target.", "Give `target`, or `against` a run.")
        if not scored.passed:
            pytest.fail("\n".join(score_lines(scored)), pytrace=False)
        return scored


@pytest.fixture(scope="session")
def stepladder() -> Scoring:
    """Grade rungs of finished climbs: `stepladder.score(run, file)`, `stepladder.assert_reaches(run, file, 0.8)`."""
    return Scoring()
