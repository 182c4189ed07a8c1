"""When a call is sent again; the SDK's own rules are the oracle."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepladder.engines.failures import CallFailure
from stepladder.engines.retries import Patience, pause_before_retry, retry_after_seconds

http = openai._base_client.httpx2  # the library the SDK speaks HTTP with, whichever it is


@pytest.fixture(scope="module")
def sdk() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url="http://localhost/v1") as client:
        yield client


def refused(status: int, **headers: str) -> CallFailure:
    return CallFailure("status", "no", status, {name.replace("_", "-"): value for name, value in headers.items()})


@given(
    st.sampled_from([400, 401, 404, 408, 409, 422, 429, 500, 502, 503, 504, 529]),
    st.sampled_from([None, "true", "false", "maybe"]),
    st.sampled_from([None, "0", "3", "0.5", "119", "121", "soon", "nan", "-1"]),
)
def test_a_call_is_sent_again_when_the_sdk_would_send_it_again(
    sdk: openai.OpenAI, status: int, said: str | None, after: str | None
) -> None:
    headers = {name: value for name, value in (("x_should_retry", said), ("retry_after", after)) if value is not None}
    failure = refused(status, **headers)
    response = http.Response(status, headers=failure.headers, request=http.Request("POST", "http://localhost/v1"))
    assert (pause_before_retry(failure, 1) is not None) == sdk._should_retry(response)


@pytest.mark.parametrize(("headers", "seconds"), [({"retry_after": "3"}, 3.0), ({"retry_after_ms": "250"}, 0.25)])
def test_the_pause_is_what_the_server_asks_for(headers: dict[str, str], seconds: float) -> None:
    assert pause_before_retry(refused(429, **headers), 1) == seconds


def test_a_date_is_understood_too() -> None:
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert retry_after_seconds({"retry-after": later}) == pytest.approx(30, abs=2)
    assert retry_after_seconds({"retry-after": "next week"}) is None
    assert retry_after_seconds({"retry-after": "inf"}) is None


def test_pauses_grow_up_to_eight_seconds() -> None:
    for attempt, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (50, 8.0)):
        pause = pause_before_retry(refused(500), attempt)
        assert pause is not None
        assert 0.75 * longest <= pause <= longest


@pytest.mark.parametrize(("status", "billed"), [(400, False), (429, False), (500, False), (503, False), (502, True), (504, True)])
def test_only_an_answer_lost_on_its_way_may_be_billed(status: int, billed: bool) -> None:
    assert refused(status).may_be_billed is billed


def test_a_call_that_was_turned_away_may_come_back_more_often_than_one_that_failed() -> None:
    patience = Patience(2)
    assert [patience.pause_seconds(refused(429)) is not None for _ in range(9)] == [True] * 8 + [False]
    assert [patience.pause_seconds(refused(500)) is not None for _ in range(3)] == [True, True, False]


def test_a_reply_in_another_shape_is_asked_for_once_more_and_a_withheld_one_never() -> None:
    patience = Patience(4)
    assert [patience.pause_seconds(CallFailure("shape", "")) is not None for _ in range(2)] == [True, False]
    assert Patience(4).pause_seconds(CallFailure("withheld", "")) is None
