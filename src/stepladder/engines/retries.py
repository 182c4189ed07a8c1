"""When a call to a server is sent again, and after how long: the rules of OpenAI's SDK.

The SDK itself would repeat a call unseen, and a call that broke off may have been billed. So it sends once, and each attempt
is paid for on its own.
"""

from __future__ import annotations

import email.utils
import math
import random
import time
from collections.abc import Mapping

from stepladder.engines.failures import CallFailure
from stepladder.engines.pace import LONGEST_ASKED_SECONDS

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
REFUSALS_PER_RETRY = 4
"""A call that was turned away at the door cost nothing: it may come back this many times as often as one that failed."""
SHAPE_RETRIES = 1
"""A page instead of a reply is rarely another thing the next time."""


class Patience:
    """How often one call may still be sent again.

    Args:
        max_retries: Attempts beyond the first.
        first_pause_seconds: Before the second attempt, where the server does not say; it doubles each time.
    """

    def __init__(self, max_retries: int, first_pause_seconds: float = FIRST_PAUSE_SECONDS) -> None:
        self._max_retries = max_retries
        self._first_pause_seconds = first_pause_seconds
        self._failed = 0
        self._turned_away = 0

    def pause_seconds(self, failure: CallFailure) -> float | None:
        """Seconds to wait before the next attempt; None when there shall be none."""
        if failure.pushes_back:
            self._turned_away += 1
            attempt, most = self._turned_away, self._max_retries * REFUSALS_PER_RETRY
        else:
            self._failed += 1
            attempt, most = self._failed, self._max_retries
        if failure.kind in ("shape", "empty"):
            most = min(most, SHAPE_RETRIES)
        return pause_before_retry(failure, attempt, self._first_pause_seconds) if attempt <= most else None


def pause_before_retry(failure: CallFailure, attempt: int, first_pause_seconds: float = FIRST_PAUSE_SECONDS) -> float | None:
    """Seconds to wait before the attempt after `attempt` (from 1); None when the failure will not go away by itself."""
    said = failure.headers.get("x-should-retry")
    if failure.kind == "withheld" or said == "false":
        return None
    if failure.kind == "status" and said != "true" and not failure.of_the_call:
        return None
    asked = retry_after_seconds(failure.headers)
    if asked is not None and asked > LONGEST_ASKED_SECONDS:
        return None
    if asked is not None and asked > 0:
        return asked
    pause = min(first_pause_seconds * 2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(0.75, 1.0)  # so that calls refused together do not come back together


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says, as seconds or as a date; None when it is absent or unreadable."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return seconds if math.isfinite(seconds) else None
    try:
        return email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    except (KeyError, ValueError, OverflowError):
        return None
