"""What needs no model: reads and pages over many jobs, and the creation of jobs."""

from __future__ import annotations

import json
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from serving.client import Ask, Client, Latencies, upload
from serving.promises import Load
from serving.server import Served, fill, job_id, serving

JOBS = "/v1/fine_tuning/jobs"
PAGE = 100
LARGEST_PAGE = 1000
FEW_ROWS = 3
"""Fewer than a job needs: its validation runs beside the measurement, as it does in life, and no training follows."""

Figures = tuple[float, dict[str, Any]]


async def reads(client: Client, load: Load) -> Figures:
    """The 99th percentile of reads of every kind, in seconds."""
    some = job_id(load.jobs // 2)
    kinds = ("/v1/models", "/v1/files", JOBS, f"{JOBS}/{some}", f"{JOBS}/{some}/events", f"{JOBS}/{some}/checkpoints")
    asks = [Ask("GET", path) for path in islice(cycle(kinds), round(load.seconds * load.reads_per_second))]
    for ask in asks[: 2 * len(kinds)]:  # what is only done once is not measured
        await client.json(ask)
    found = await client.at_rate(asks, load.reads_per_second)
    return found.quantile(0.99), _details(found, load.reads_per_second)


async def listing(client: Client, load: Load) -> Figures:
    """The slowest page of 100 jobs, at any place of the list, in seconds."""
    step = max(1, (load.jobs - PAGE) // load.pages)
    slowest = 0.0
    for page in range(load.pages):
        behind = "" if page == 0 else f"&after={job_id(load.jobs - 1 - page * step)}"
        began = time.perf_counter()
        found = await client.json(Ask("GET", f"{JOBS}?limit={PAGE}{behind}"))
        slowest = max(slowest, time.perf_counter() - began)
        assert len(found["data"]) == min(PAGE, load.jobs)
    began = time.perf_counter()
    seen, last, more = 0, "", True
    while more:
        found = await client.json(Ask("GET", f"{JOBS}?limit={LARGEST_PAGE}{last}"))
        seen, more, last = seen + len(found["data"]), found["has_more"], f"&after={found['data'][-1]['id']}"
    assert seen == load.jobs
    return slowest, {"pages": load.pages, "jobs": load.jobs, "all_jobs_seconds": round(time.perf_counter() - began, 3)}


async def creation(client: Client, load: Load) -> Figures:
    """The 99th percentile of the creation of jobs, in seconds, while the worker validates those that are there."""
    rows = "".join(json.dumps({"messages": [{"role": "user", "content": "?"}]}) + "\n" for _ in range(FEW_ROWS))
    file = (await client.json(upload("rows.jsonl", rows.encode())))["id"]
    ask = Ask("POST", JOBS, {"model": "measured", "training_file": file})
    await client.json(ask)
    found = await client.at_rate([ask] * round(load.seconds * load.creations_per_second), load.creations_per_second)
    return found.quantile(0.99), _details(found, load.creations_per_second)


def _details(found: Latencies, per_second: float) -> dict[str, Any]:
    return {
        "requests": len(found.seconds),
        "per_second": per_second,
        "refused": found.refused,
        "median_seconds": round(found.quantile(0.5), 5),
        "slowest_seconds": round(found.quantile(1.0), 5),
    }


async def over_many_jobs(folder: Path, model: str, load: Load, wanted: set[str]) -> dict[str, Figures]:
    """Reads and pages on one server whose store is full."""
    fill(folder, load.jobs)
    with serving(folder, model) as served:
        return await _each(served, load, wanted, {"reads": reads, "listing": listing})


async def creating_jobs(folder: Path, model: str, load: Load, wanted: set[str]) -> dict[str, Figures]:
    """Creation on a server of its own, whose worker is then left with many jobs."""
    with serving(folder, model) as served:
        return await _each(served, load, wanted, {"creation": creation})


async def _each(served: Served, load: Load, wanted: set[str], ways: dict[str, Any]) -> dict[str, Figures]:
    client = Client(served)
    try:
        return {name: await way(client, load) for name, way in ways.items() if name in wanted}
    finally:
        await client.close()
