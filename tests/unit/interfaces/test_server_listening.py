"""What of a growing answer is shown, and which tokens stand behind each piece of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stepladder.interfaces.server.answers import stopped_at
from stepladder.interfaces.server.chat_logprobs import pieces_of
from stepladder.interfaces.server.listening import Listening, UpToStop

LETTERS = st.text("abc", max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


@given(pieces=st.lists(LETTERS, max_size=8), stops=STOPS)
def test_nothing_is_shown_that_a_stop_sequence_takes_back(pieces: list[str], stops: list[str]) -> None:
    shown, said = UpToStop(stops), ""
    whole, _ = stopped_at("".join(pieces), stops)
    for piece in pieces:
        said += shown.add(piece)
        assert whole.startswith(said)
    assert said + shown.rest(whole) == whole


def test_without_stop_sequences_everything_is_shown_at_once() -> None:
    shown = UpToStop(())
    assert [shown.add(piece) for piece in ("a", "", "bc")] == ["a", "", "bc"]
    assert shown.rest("abc") == ""
    assert shown.rest("abcd") == "d"
    assert shown.rest("another") == ""  # what has been said cannot be taken back


@given(text=st.text(max_size=12), cuts=st.lists(st.integers(1, 5), min_size=1), kept=st.integers(0, 12))
def test_pieces_are_the_text_and_their_tokens_its_bytes(text: str, cuts: list[int], kept: int) -> None:
    raw, tokens = text.encode("utf-8"), list[dict[str, Any]]()
    while raw:
        size = cuts[len(tokens) % len(cuts)]
        tokens.append({"bytes": list(raw[:size])})
        raw = raw[size:]
    pieces = list(pieces_of(text, tokens))
    assert "".join(piece for piece, _ in pieces) == text
    assert [token for _, held in pieces for token in held] == tokens
    assert all(bytes(b for token in held for b in token["bytes"]).decode() == piece for piece, held in pieces)
    assert "".join(piece for piece, _ in pieces_of(text[:kept], tokens)) == text[:kept]


def test_tokens_that_are_not_the_text_come_with_its_end() -> None:
    tokens = [{"bytes": [97]}, {"bytes": None}, {"bytes": [120]}]
    assert list(pieces_of("abc", tokens)) == [("a", tokens[:1]), ("bc", tokens[1:])]


def test_pieces_from_other_threads_come_before_the_end_of_their_answer() -> None:
    async def listen() -> list[tuple[int, str | None]]:
        listening, loop = Listening(), asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(2)]

        def write(index: int) -> None:
            hear = listening.listener(index)
            for number in range(50):
                hear(str(number))
            loop.call_soon_threadsafe(futures[index].set_result, None)

        for index in range(2):
            threading.Thread(target=write, args=(index,)).start()
        return [one async for one in listening.pieces(futures)]

    heard = asyncio.run(listen())
    for index in range(2):
        assert [piece for place, piece in heard if place == index] == [*map(str, range(50)), None]
