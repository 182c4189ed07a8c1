"""The how-to page of the server, as a newcomer follows it: every command and the script, as they stand there."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tiny_model import build_tiny_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "serve.md"
STARTER = "smollm2-135m-instruct"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@contextmanager
def served(line: str, folder: Path, *more: str) -> Iterator[dict[str, str]]:
    """The page's own server on a free port; yields the variables that it shows."""
    program, *arguments = shlex.split(line)
    assert program == "stepladder"
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *arguments, "--port", "0", "--device", "cpu", *more]
    environment = {**os.environ, "STEPLADDER_HOME": str(folder / "home")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder) as process:
        try:
            assert process.stdout is not None
            shown: dict[str, str] = {}
            while len(shown) < 2 and (said := process.stdout.readline()):
                shown |= dict(re.findall(r"^ *export (\w+)=(.*)$", said))
            yield shown
        finally:
            process.send_signal(signal.SIGTERM)


def follow(folder: Path, *more: str) -> tuple[str, dict[str, str]]:
    """What the page's script prints, and the variables it ran under, when all is done as the page says."""
    serve, variables, rows = blocks("sh")[:3]
    (script,) = blocks("python")
    with served(serve, folder, *more) as shown:
        exported = dict(re.findall(r"^export (\w+)=(.*)$", variables, flags=re.MULTILINE))
        assert exported.keys() == shown.keys() == {"OPENAI_BASE_URL", "OPENAI_API_KEY"}
        assert re.sub(r":\d+/", ":8000/", shown["OPENAI_BASE_URL"]) == exported["OPENAI_BASE_URL"]
        assert exported["OPENAI_API_KEY"] == shown["OPENAI_API_KEY"]
        environment = {**os.environ, **shown, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-c", rows], cwd=folder, env=environment, check=True)
        (folder / "finetune.py").write_text(script, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "finetune.py"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, shown


def test_whoever_follows_the_page_chats_with_a_model_of_their_own(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny", hidden=32)
    said, _ = follow(tmp_path, "--model", f"{STARTER}={model}")  # the only word that is not on the page
    _, succeeded, answer = said.partition("succeeded The job has successfully completed\n")
    assert succeeded
    assert answer  # it is what the new model said, at random and in any number of lines
    assert "The job has" not in answer


@pytest.mark.long
@pytest.mark.starter
@pytest.mark.timeout(3600)
def test_with_the_starter_model_it_takes_less_than_five_minutes_on_two_cores(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    said, _ = follow(tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert busy < 2 * 300.0  # of two cores, however many others want them
    assert said.splitlines()[-1] in ("delivery", "refund")
