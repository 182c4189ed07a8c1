"""How one attempt at a call fails, whichever SDK sent it; and what may be said of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, Protocol

Kind = Literal["status", "timeout", "unreachable", "broken", "shape", "empty", "withheld", "resting"]
ANSWER_LOST = frozenset({502, 504, 520, 522, 524})
"""A gateway's words for "it was asked, but the answer did not come through"."""
PUSHES_BACK = frozenset({429, 503, 529})
"""A server's words for "not so many at once"."""
LONGEST_WORDS = 200
SHORTEST_ODD_SECRET = 8
"""Nobody says a key of so many letters by chance; a shorter one may be a word that means something else."""


class CallFailure(Exception):
    """One attempt that brought no answer. Never seen by a user: it ends as an `EngineError`, or as a generation's `fault`.

    `kind`: "status" (an HTTP error), "timeout", "unreachable" (never connected), "broken" (the connection ended first),
    "shape" (a reply, but not in the protocol's shape), "empty" (one that holds no answer), "withheld" (the provider keeps the
    answer back), "resting" (it was not sent: the server asked for a pause that is longer than a call waits).
    """

    def __init__(self, kind: Kind, words: str, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.words = " ".join(words.split())[:LONGEST_WORDS].rstrip(".")
        super().__init__(kind, self.words, status)
        self.kind = kind
        self.status = status
        self.headers = headers or {}

    def without(self, secret: str) -> CallFailure:
        """The same, with a key hidden that the server has repeated."""
        return CallFailure(self.kind, hidden(self.words, secret), self.status, self.headers)

    @property
    def may_be_billed(self) -> bool:
        """Whether the model may have answered although no answer arrived."""
        if self.kind == "status":
            return self.status in ANSWER_LOST
        return self.kind not in ("unreachable", "resting")

    @property
    def pushes_back(self) -> bool:
        """Whether the server wants fewer calls at once."""
        return self.status in PUSHES_BACK

    @property
    def of_the_call(self) -> bool:
        """Whether it may concern this one call alone, so that others may still be answered."""
        if self.kind == "status":
            return self.status is not None and (self.status in (408, 409, 429) or self.status >= 500)
        return self.kind not in ("unreachable", "resting")

    @property
    def reason(self) -> str:
        """What happened, in words that follow the model's name."""
        if self.kind == "status":
            return f"answered with status {self.status}: {self.words}"
        return {
            "timeout": "did not answer in time",
            "unreachable": "cannot be reached",
            "broken": f"broke the connection off before its answer was whole ({self.words})",
            "shape": f"did not answer in its protocol's shape: {self.words}",
            "empty": f"sent a reply without an answer: {self.words}",
            "withheld": f"withheld its answer: {self.words}",
            "resting": self.words,
        }[self.kind]


class StatusError(Protocol):
    """An SDK's error for an HTTP status."""

    status_code: int

    @property
    def response(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Sdk:
    """The classes one SDK raises; both SDKs name them alike."""

    status: type[Exception]
    timeout: type[Exception]
    connection: type[Exception]
    base: type[Exception]


def ask(sdk: Sdk, send: Callable[[], AbstractContextManager[Any]], *, timeout_seconds: float, secret: str = "") -> Any:
    """The JSON body of one reply, read to its end.

    A client's own timeout counts from byte to byte: a server that drips its answer would be waited for without end. So the
    whole reply has to be there in `timeout_seconds`, give or take one byte's wait.

    Nothing that leaves here holds `secret`: neither the body, whose words may end in an answer or a fault, nor a failure. What
    the SDK raised holds it still, so it is not shown as a failure's cause. A short one may be a word of an answer, so it stays
    in the body.

    Raises:
        CallFailure: Whatever went wrong on the way.
    """
    deadline = monotonic() + timeout_seconds
    try:
        with send() as reply:
            body = _whole(reply.iter_bytes(), deadline)
    except Exception as error:
        failure = _failure(error, sdk, secret)
        if failure is None:
            raise
        raise failure from None
    try:
        return _without(json.loads(body), secret if len(secret) >= SHORTEST_ODD_SECRET else "")
    except (ValueError, RecursionError) as error:
        said = hidden(body.decode("utf-8", "replace"), secret)  # before it is shortened: half a key is one, too
        raise CallFailure("shape", f"{error} in {said[:80]!r}") from None


def _whole(chunks: Iterable[bytes], deadline: float) -> bytes:
    body = b""
    for chunk in chunks:
        body += chunk
        if monotonic() > deadline:
            raise CallFailure("timeout", "its answer dripped")
    return body


def _failure(error: Exception, sdk: Sdk, secret: str) -> CallFailure | None:
    """The error in this project's terms; None for one that is no fault of the network or the server."""
    if isinstance(error, CallFailure):
        return error
    if isinstance(error, sdk.status):
        response: Any = getattr(error, "response", None)
        return CallFailure("status", hidden(str(error), secret), getattr(error, "status_code", 0), response.headers)
    if isinstance(error, sdk.timeout):
        return CallFailure("timeout", "")
    if isinstance(error, sdk.connection):
        cause = error.__cause__
        # The HTTP library is the SDK's choice, not ours: its classes are known by name only.
        kind: Kind = "unreachable" if type(cause).__name__ in ("ConnectError", "ConnectTimeout") else "broken"
        return CallFailure(kind, hidden(str(cause or error), secret))
    if isinstance(error, sdk.base):
        return CallFailure("shape", hidden(str(error), secret))
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0].startswith(("httpx", "httpcore")):
        return CallFailure("timeout" if "Timeout" in type(error).__name__ else "broken", hidden(str(error), secret))
    return None


def _without(value: Any, secret: str) -> Any:
    """JSON with the key hidden in every text of it."""
    if not secret:
        return value
    if isinstance(value, str):
        return hidden(value, secret)
    if isinstance(value, list):
        return [_without(one, secret) for one in value]
    if isinstance(value, dict):
        return {hidden(name, secret): _without(one, secret) for name, one in value.items()}
    return value


def hidden(words: str, secret: str) -> str:
    """A server or a library may repeat the key it was given, escaped too; nothing of ours shall write it down.

    A short one is hidden where it stands as a word of its own, so that other words stay whole.
    """
    if not secret:
        return words
    either = "|".join(re.escape(form) for form in (secret, repr(secret)[1:-1]))
    return re.sub(either if len(secret) >= SHORTEST_ODD_SECRET else rf"(?<!\w)(?:{either})(?!\w)", "…", words)
