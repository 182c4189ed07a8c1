"""`stepladder serve` as a process of its own, for the length of a block."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

SERVER_LOG = "server.log"
"""What the server says beside its answers, in its home."""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]


def run(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STEPLADDER_HOME": str(home)}
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=environment, timeout=120)


@dataclass
class Served:
    process: subprocess.Popen[str]
    ready: dict[str, Any]

    @property
    def url(self) -> str:
        return str(self.ready["url"])

    def client(self, key: str = "anything", *, strict: bool = True) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=key, max_retries=0, _strict_response_validation=strict)


@contextmanager
def serving(home: Path, *arguments: str | Path, number: int = signal.SIGTERM) -> Iterator[Served]:
    environment = {**os.environ, "STEPLADDER_HOME": str(home), "STEPLADDER_CACHE": str(home / "cache")}
    home.mkdir(exist_ok=True)
    with (home / SERVER_LOG).open("ab") as log:
        process = subprocess.Popen(
            command("serve", "--port", "0", "--json", "--device", "cpu", *arguments),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    try:
        assert process.stdout is not None
        yield Served(process, json.loads(process.stdout.readline()))
    finally:
        process.send_signal(number)
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
