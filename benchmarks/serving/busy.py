"""What needs a model: event streams beside a running training, and chats with several adapters at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from serving.client import Ask, Client, hang_up, read_head, upload
from serving.promises import Load
from serving.quiet import JOBS, Figures
from serving.server import serving
from stepladder.domain.errors import EngineError

LOOK_SECONDS = 0.02
MOST_EPOCHS = 50
SMALL_ROWS, LONG_ROWS = 10, 400
SECONDS_FOR_A_JOB = 900.0
TEXT = "the parcel left our depot this morning and reaches you on Friday between nine and noon at the address you gave us"


def rows_text(count: int, shift: int = 0) -> bytes:
    """Rows whose answers are long enough that answers after training are too; `shift` makes other rows."""
    words, rows = TEXT.split(), []
    for number in range(count):
        turn = (number + shift) % len(words)
        answer = " ".join([*words[turn:], *words[:turn]] * 2)
        question = f"Where is parcel number {number + 1000 * shift}?"
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


async def with_a_model(folder: Path, model: str, load: Load, wanted: set[str]) -> dict[str, Figures]:
    """Both measurements on one server: the adapters are trained by it, one job each."""
    found: dict[str, Figures] = {}
    with serving(folder, model) as served:
        client = Client(served)
        try:
            if "streams" in wanted:
                found["streams"] = await streams(client, load)
            if "chats" in wanted:
                found["chats"] = await chats(client, load)
        finally:
            await client.close()
    return found


async def streams(client: Client, load: Load) -> Figures:
    """By which share a training is slower while its events are followed by many. The followers run on this machine too."""
    job = await _start(client, rows_text(LONG_ROWS), MOST_EPOCHS)
    await _until(client, job, lambda step, status: step >= 3)
    alone: list[float] = []
    followed: list[float] = []
    heard = 0
    for turn in range(load.windows):
        for with_streams in (False, True) if turn % 2 == 0 else (True, False):  # so that a drift hits both alike
            if not with_streams:
                alone.append(await _rate(client, job, load.window_seconds))
                continue
            async with _followers(client, job, load.streams) as counts:
                followed.append(await _rate(client, job, load.window_seconds))
            heard += sum(counts)
    await client.json(Ask("POST", f"{JOBS}/{job}/cancel"))
    slowed = 1 - median(followed) / median(alone)
    return slowed, {
        "streams": load.streams,
        "steps_per_second_alone": [round(rate, 3) for rate in alone],
        "steps_per_second_followed": [round(rate, 3) for rate in followed],
        "events_delivered": heard,
    }


async def chats(client: Client, load: Load) -> Figures:
    """Tokens a second of chats asked at once, to those of the same chats asked one after the other."""
    jobs = [await _start(client, rows_text(SMALL_ROWS, shift + 1), 1) for shift in range(load.adapters)]
    for job in jobs:
        await _until(client, job, lambda step, status: status == "succeeded")
    names = [(await client.json(Ask("GET", f"{JOBS}/{job}")))["fine_tuned_model"] for job in jobs]
    asks = [_chat(names[number % len(names)], number, load) for number in range(load.chats)]
    await _tokens_per_second(client, asks[: len(names)], at_once=False)  # every adapter is in memory now
    single: list[float] = []
    together: list[float] = []
    for _ in range(load.rounds):
        single.append(await _tokens_per_second(client, asks, at_once=False))
        together.append(await _tokens_per_second(client, asks, at_once=True))
    return median(together) / median(single), {
        "chats": load.chats,
        "adapters": load.adapters,
        "tokens_per_second_single": [round(rate, 2) for rate in single],
        "tokens_per_second_together": [round(rate, 2) for rate in together],
    }


def _chat(model: str, number: int, load: Load) -> Ask:
    turns = [{"role": "user", "content": f"Where is parcel number {number}, and when does it come?"}]
    body = {"model": model, "messages": turns, "temperature": 0, "max_tokens": load.answer_tokens}
    return Ask("POST", "/v1/chat/completions", body)


async def _tokens_per_second(client: Client, asks: Sequence[Ask], *, at_once: bool) -> float:
    began = time.perf_counter()
    replies = await asyncio.gather(*map(client.json, asks)) if at_once else [await client.json(ask) for ask in asks]
    return float(sum(reply["usage"]["completion_tokens"] for reply in replies) / (time.perf_counter() - began))


async def _start(client: Client, rows: bytes, epochs: int) -> str:
    file = (await client.json(upload("rows.jsonl", rows)))["id"]
    wanted = {"n_epochs": epochs, "batch_size": 1}
    job = await client.json(Ask("POST", JOBS, {"model": "measured", "training_file": file, "hyperparameters": wanted}))
    return str(job["id"])


async def _until(client: Client, job: str, holds: Any) -> None:
    """Wait until `holds(last step, status)`.

    Raises:
        EngineError: The job ended otherwise, or takes too long.
    """
    until = time.monotonic() + SECONDS_FOR_A_JOB
    while not holds(step := await _step(client, job), status := await _status(client, job)):
        if status in ("failed", "cancelled", "succeeded") or time.monotonic() > until:
            raise EngineError(f"the job {job} is {status} at step {step}.", "See its events.")
        await asyncio.sleep(0.2)


async def _status(client: Client, job: str) -> str:
    return str((await client.json(Ask("GET", f"{JOBS}/{job}")))["status"])


async def _step(client: Client, job: str) -> int:
    """The last step that the job has told of; 0 before the first."""
    events = (await client.json(Ask("GET", f"{JOBS}/{job}/events?limit=5")))["data"]
    return max((int(event["data"]["step"]) for event in events if event["type"] == "metrics"), default=0)


async def _rate(client: Client, job: str, seconds: float) -> float:
    """Steps a second over a window that begins and ends when steps are told of."""
    first, began = await _news(client, job)
    await asyncio.sleep(seconds)
    last, ended = await _news(client, job)
    return (last - first) / (ended - began)


async def _news(client: Client, job: str) -> tuple[int, float]:
    """The next step that is told of, and when."""
    before = await _step(client, job)
    until = time.monotonic() + SECONDS_FOR_A_JOB
    while (step := await _step(client, job)) == before:
        if time.monotonic() > until:
            raise EngineError(f"the job {job} does not come forward.", "See its events.")
        await asyncio.sleep(LOOK_SECONDS)
    return step, time.perf_counter()


@asynccontextmanager
async def _followers(client: Client, job: str, count: int) -> AsyncIterator[list[int]]:
    """So many open streams of a job's events, from its first; the list holds how many events each has brought."""
    counts = [0] * count

    async def follow(number: int) -> None:
        reader, writer = await client.line()
        try:
            writer.write(Ask("GET", f"{JOBS}/{job}/events?stream=true").as_bytes("127.0.0.1"))
            status, _ = await read_head(reader)
            if status != 200:
                raise EngineError(f"a stream was answered with {status}.", "See the server's log.")
            while line := await reader.readline():
                counts[number] += line.startswith(b"id:")
        finally:
            await hang_up(writer)

    following = [asyncio.create_task(follow(number)) for number in range(count)]
    try:
        while not all(counts):
            for task in following:
                if task.done():
                    task.result()
            await asyncio.sleep(LOOK_SECONDS)
        await asyncio.sleep(1.0)  # what was told before has been sent
        yield counts
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
