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

import openai

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
LONGEST_ASKED_SECONDS = 120.0
"""A server that wants more patience than this is not waited for."""
ANSWER_LOST = frozenset({502, 504, 520, 522, 524})
"""A gateway's words for "it was asked, but the answer did not come through"."""


def may_be_billed(error: openai.APIError) -> bool:
    """Whether the model may have answered although no answer arrived."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in ANSWER_LOST
    # The HTTP library's class is known by name only: it is the SDK's choice, not ours.
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


def pause_before_retry(error: openai.APIError, attempt: int) -> float | None:
    """Seconds to wait before the attempt after `attempt` (from 1); None when the error will not go away by itself."""
    headers: Mapping[str, str] = {}
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        said = headers.get("x-should-retry")
        if said == "false" or (said != "true" and not _passes(error.status_code)):
            return None
    elif not isinstance(error, openai.APIConnectionError):
        return None
    asked = retry_after_seconds(headers)
    if asked is not None and asked > LONGEST_ASKED_SECONDS:
        return None
    if asked is not None and asked > 0:
        return asked
    pause = min(FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(0.75, 1.0)  # so that calls refused together do not come back together


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says, as seconds or as a date; None when it is absent or unreadable."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        return None if math.isnan(seconds) else seconds
    try:
        return email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
    except (KeyError, ValueError, OverflowError):
        return None


def _passes(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500
