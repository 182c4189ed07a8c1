"""Programs of others against `stepladder serve`, none of them ours, each in an environment of its own (`make clients`).

All begin at once on one server with a tiny model, since most of them spend their time waiting; each test looks at one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from openai_spec import faults, reply_faults
from served_process import serving
from service_jobs import chat_rows, rows_text
from tiny_model import build_tiny_model

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / ".clients"
SCRIPTS = ROOT / "tests" / "clients"
DEADLINE_SECONDS = 600  # on a machine that does much else; a minute on one that does not

pytestmark = [pytest.mark.clients, pytest.mark.timeout(DEADLINE_SECONDS + 60)]


@dataclass
class Bench:
    """A served tiny model, and what leads a client there."""

    url: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """That of a stranger: nothing of ours but the two variables."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        leads = {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": "anything"}
        own_places = {"DSPY_CACHEDIR": str(self.folder / "dspy"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # nothing is fetched
        return {**kept, **leads, **own_places}

    @property
    def training(self) -> Path:
        return self.folder / "rows.jsonl"

    @property
    def validation(self) -> Path:
        return self.folder / "validation.jsonl"

    def start(self, *command: str | Path, cwd: Path | None = None) -> Running:
        program = Path(command[0])
        assert program.exists() or not program.is_absolute(), f"{program} is missing. Run: make clients"
        place = self.folder / f"client-{len(list(self.folder.glob('client-*')))}"
        place.mkdir()
        with (place / "out").open("wb") as out, (place / "err").open("wb") as err:  # files: a full pipe would hold a client up
            process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=err, env=self.environment, cwd=cwd)
        return Running(process, place)


@dataclass
class Running:
    """A client at work. What it printed is waited for once."""

    process: subprocess.Popen[bytes]
    place: Path

    @cached_property
    def printed(self) -> str:
        code = self.process.wait(DEADLINE_SECONDS)
        assert code == 0, self._end_of("err") + self._end_of("out")
        return (self.place / "out").read_text(encoding="utf-8")

    def _end_of(self, name: str) -> str:
        return (self.place / name).read_text(encoding="utf-8", errors="replace")[-3000:]

    @property
    def told(self) -> dict[str, Any]:
        """The JSON object in its last line."""
        found: dict[str, Any] = json.loads(self.printed.strip().splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("clients")
    tiny = build_tiny_model(folder / "tiny")
    with serving(folder / "home", "--model", tiny, "--alias", "gpt-4o-mini*=tiny") as server:
        made = Bench(server.url, folder)
        made.training.write_bytes(rows_text(chat_rows(16)))
        made.validation.write_bytes(rows_text(chat_rows(12, first=100)))
        yield made


@pytest.fixture(scope="module")
def running(bench: Bench, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Running]]:
    """Every client whose test was asked for, started together."""
    commands: dict[str, tuple[str | Path, ...]] = {
        "sdk": (CLIENTS / "sdk" / "bin" / "python", SCRIPTS / "sdk_life.py", bench.training, bench.validation),
        "dspy": (CLIENTS / "dspy" / "bin" / "python", SCRIPTS / "dspy_finetune.py", bench.training),
        "litellm": (CLIENTS / "litellm" / "bin" / "python", SCRIPTS / "litellm_jobs.py", bench.training),
        "node": (
            "node",
            "--input-type=module",
            "--eval",
            (SCRIPTS / "node_life.mjs").read_text(encoding="utf-8"),
            "--",
            bench.training,
        ),
    }
    wanted = {item.originalname for item in request.session.items if item.path == Path(__file__)}  # type: ignore[attr-defined]
    started: dict[str, Running] = {}
    for name in ("dspy", "sdk", "litellm", "node"):
        if any(f"_{name}_" in test for test in wanted):
            cwd = CLIENTS / "node" if name == "node" else bench.folder
            started[name] = bench.start(*commands[name], cwd=cwd)
    yield lambda name: started[name]
    for one in started.values():
        one.process.kill()
        one.process.wait()


def test_the_sdk_lives_a_jobs_whole_life_with_strict_types(running: Callable[[str], Running]) -> None:
    told = running("sdk").told
    assert told["paused"] == "paused"
    assert told["model"].startswith("ft:tiny:stepladder:desk:")
    assert told["events"][0] == "The job has successfully completed"
    assert 1 <= len(told["checkpoints"]) <= 3
    assert told["checkpoints"] == sorted(told["checkpoints"], reverse=True)
    assert told["streamed"] == told["answer"]
    assert json.loads(told["formed"])["word"] in ("refund", "delivery")
    assert told["newest_checkpoint"].startswith(told["model"])
    assert told["of_checkpoint"] == told["oldest_checkpoint"]
    assert told["result_bytes"] > 0
    assert all(told[name] for name in ("listed", "listed_model", "usage", "gone"))
    assert told["missing"] == "model_not_found"


def test_every_reply_to_the_sdk_is_as_openais_description_has_it(running: Callable[[str], Running]) -> None:
    """The replies of the test before, `sdk_life.py`'s, against the schemas of their own operations."""
    replies = running("sdk").told["replies"]
    assert len(replies) > 20
    checked = set()
    for method, path, status, body in replies:
        if status >= 400:
            assert faults("ErrorResponse", body) == []
            continue
        operation, found = reply_faults(method, path.removeprefix("/v1"), body)
        assert found == [], (method, path, body)
        checked.add(operation)
    assert {"createFile", "createFineTuningJob", "listFineTuningEvents", "createChatCompletion", "deleteModel"} <= checked


def test_litellm_makes_watches_and_cancels_jobs(running: Callable[[str], Running]) -> None:
    told = running("litellm").told
    assert (told["status"], told["cancelled"], told["listed"]) == ("succeeded", "cancelled", True)
    assert told["model"].startswith("ft:tiny:")
    assert told["streamed"] == told["answer"]


def test_dspy_bootstraps_a_finetune_and_asks_its_model(running: Callable[[str], Running]) -> None:
    told = running("dspy").told
    assert told["model"].removeprefix("openai/").startswith("ft:tiny:")
    assert len(told["answers"]) == 1


@pytest.mark.node
def test_node_lives_a_jobs_life(running: Callable[[str], Running]) -> None:
    told = running("node").told
    assert told["status"] == "succeeded"
    assert "The job has successfully completed" in told["events"]
    assert len(told["events"]) > 3  # more than a page
    assert told["checkpoints"] == sorted(told["checkpoints"], reverse=True)
    assert told["streamed"] == told["answer"]
    assert (told["reward"], told["deleted"]) == (1, True)


def test_the_old_command_line_makes_and_watches_a_job(bench: Bench) -> None:
    """`openai api …` of the last SDK that had it."""

    def said(*arguments: str) -> str:
        program = CLIENTS / "cli" / "bin" / "openai"
        return bench.start(program, "-b", f"{bench.url}/", "-k", "anything", "api", *arguments).printed

    def openai(*arguments: str) -> Any:
        return json.loads(said(*arguments))

    file = openai("files.create", "-f", str(bench.training), "-p", "fine-tune")
    assert file["purpose"] == "fine-tune"
    wanted = '{"n_epochs": 1, "batch_size": 4}'
    job = openai("fine_tuning.jobs.create", "-m", "gpt-4o-mini", "-F", file["id"], "-H", wanted, "-s", "old")
    until = time.monotonic() + DEADLINE_SECONDS
    while (found := openai("fine_tuning.jobs.retrieve", "-i", job["id"]))["status"] != "succeeded":
        assert found["status"] in ("validating_files", "queued", "running")
        assert time.monotonic() < until
        time.sleep(0.5)
    assert found["fine_tuned_model"].startswith("ft:tiny:stepladder:old:")
    assert openai("fine_tuning.jobs.list", "-l", "1")["data"][0]["object"] == "fine_tuning.job"
    events = openai("fine_tuning.jobs.list_events", "-i", job["id"], "-l", "2")["data"]
    assert events[0]["message"] == "The job has successfully completed"
    asked = ("-m", found["fine_tuned_model"], "-g", "user", "Where is parcel number 4?", "-M", "8")
    said("chat.completions.create", *asked)
    assert found["fine_tuned_model"] in said("models.list")
