"""Requests that another program makes up from OpenAI's own description: none of them is our fault, whatever it holds.

Schemathesis runs in an environment of its own (`make clients`) and seeded. Nothing trains behind the server, so every job that it
makes only waits.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from live_server import LiveServer, fake_house, live_server, put_model
from openai_spec import write_document
from stepladder.domain.jobs import LOCAL_PROJECT

PROGRAM = Path(__file__).resolve().parents[2] / ".clients" / "schemathesis" / "bin" / "st"
ELSEWHERE = r"^/(evals|responses)"
"""Operations of OpenAI's that this server does not offer."""
SEED = 4711

pytestmark = pytest.mark.clients


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(fake_house(tmp_path / "service")) as running:
        put_model(running.house.store, LOCAL_PROJECT, "ft:fake:x::a")
        yield running


def ask_oddly(server: LiveServer, folder: Path, *, examples: int, seconds: int) -> tuple[int, set[int]]:
    """How many requests were made and which statuses they got.

    Args:
        examples: Requests made up for each operation, at most, beside those that try out each limit of the description once.
    """
    assert PROGRAM.exists(), f"{PROGRAM} is missing. Run: make clients"
    write_document(folder / "openai.json")
    (folder / "schemathesis.toml").write_text("", encoding="utf-8")
    command = [
        PROGRAM,
        *("--config-file", folder / "schemathesis.toml"),
        *("run", folder / "openai.json", "--url", server.url, "-H", "Authorization: Bearer anything"),
        *("--exclude-path-regex", ELSEWHERE, "--checks", "not_a_server_error", "--phases", "examples,fuzzing"),
        *("--max-examples", str(examples), "--seed", str(SEED), "--generation-deterministic", "--continue-on-failure"),
        *("--suppress-health-check", "all", "--warnings", "off", "--workers", "2", "--no-color"),
        *("--report", "ndjson", "--report-ndjson-path", folder / "events.ndjson"),
    ]
    environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=seconds
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    codes = re.findall(r'"status_code":\s*(\d+)', (folder / "events.ndjson").read_text(encoding="utf-8"))
    return len(codes), set(map(int, codes))


def test_no_made_up_request_of_two_thousand_is_our_fault(server: LiveServer, tmp_path: Path) -> None:
    asked, statuses = ask_oddly(server, tmp_path, examples=100, seconds=240)
    assert asked >= 2_000
    assert 200 in statuses
    assert max(statuses) < 500


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_made_up_request_of_many_is_our_fault(server: LiveServer, tmp_path: Path) -> None:
    asked, statuses = ask_oddly(server, tmp_path, examples=600, seconds=840)
    assert asked >= 10_000
    assert max(statuses) < 500
