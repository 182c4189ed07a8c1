"""Fine-tuning at an endpoint, here our own server: submitted once, watched, paid for, cancelled, and scored in a climb."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from live_server import LiveServer, fake_house, live_server
from made_up_worker import TOKENS, work_once, working
from small_tasks import World, write_task
from stepladder.domain.climb import RungResult, RungStatus
from stepladder.domain.errors import BudgetError, DataError, EngineError, ModelError, NotOffered, PrivacyError, UsageError
from stepladder.domain.hosted import HostedSettings
from stepladder.domain.jobs import LOCAL_PROJECT, Job, JobError, JobStatus
from stepladder.domain.messages import Message
from stepladder.domain.protocols import Conversation, Decoding, Prompt, SilentProgress
from stepladder.domain.task import Task
from stepladder.engines.address import Address
from stepladder.engines.fake import FakeEngine
from stepladder.engines.purse import Purse
from stepladder.engines.tuning_endpoint import EndpointTuner
from stepladder.engines.tuning_ticket import SUBMITTED
from stepladder.service import wiring
from stepladder.service.climb import Climb, climb
from stepladder.service.planning import plan
from stepladder.service.setup import Watcher
from stepladder.storage.run_folder import RunFolder

PRICES = {
    "usd_per_million_training_tokens": 20.0,
    "usd_per_million_prompt_tokens": 1.0,
    "usd_per_million_completion_tokens": 2.0,
}
SKIP = 'skip = ["classifier", "few-shot", "nearest", "constrained", "lora", "lora+constrained", "lora+nearest"]'
ROWS = tuple(
    Conversation(f"r{number}", (Message("user", f"number {number}"), Message("assistant", "even" if number % 2 else "odd")))
    for number in range(12)
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    world = write_task(tmp_path / "unused", 4)
    with live_server(fake_house(tmp_path / "service", engine=FakeEngine(world.answer))) as running:
        yield running


def jobs(server: LiveServer) -> list[Job]:
    return server.house.store.jobs(LOCAL_PROJECT).list(limit=100)


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def tuner(
    server: LiveServer, *, pause: Callable[[float], None] | None = None, purse: Purse | None = None, **settings: Any
) -> Any:
    wanted = HostedSettings(**{"poll_seconds": 0.02, "wait_minutes": 1, **settings})
    made = EndpointTuner(Address(server.url, "fake"), wanted, purse=purse)
    return made if pause is None else replace(made, pause=pause)


def tune(tuner: Any, folder: Path) -> Any:
    return tuner.tune(ROWS[:10], ROWS[10:], folder=folder, seed=3, progress=SilentProgress())


def test_a_job_is_made_of_the_rows_and_settings_and_its_model_answers(server: LiveServer, tmp_path: Path) -> None:
    hosted = tuner(server, batch_size=2, learning_rate_multiplier=0.5, suffix="desk")
    with working(server.house.store):
        done = tune(hosted, tmp_path)
    (job,) = jobs(server)
    assert (done.job, done.model, done.trained_tokens, done.usd) == (job.id, job.fine_tuned_model, TOKENS, None)
    asked = job.request
    assert (asked.seed, asked.suffix, asked.method) == (3, "desk", "supervised")
    assert dict(asked.hyperparameters) == {"n_epochs": 10, "batch_size": 2, "learning_rate_multiplier": 0.5}
    stored = server.house.store.files(LOCAL_PROJECT)
    found = stored.get(asked.training_file)
    assert found is not None
    with stored.open(found) as source:
        lines = [json.loads(line) for line in source.read().splitlines()]
    assert lines[0] == {"messages": [{"role": "user", "content": "number 0"}, {"role": "assistant", "content": "odd"}]}
    (answer,) = hosted.answering(done.model).generate([Prompt("a", (Message("user", "a heron there"),))], Decoding(4))
    assert answer.text == "bird"
    assert hosted.answering(done.model).identity.name == hosted.spoken_name(done.model)


def test_after_ctrl_c_the_same_job_is_waited_for(server: LiveServer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(tuner(server, pause=interrupt), tmp_path)
    (job,) = jobs(server)
    assert not job.status.final
    with working(server.house.store):
        assert tune(tuner(server), tmp_path).job == job.id
    assert tune(tuner(server), tmp_path).job == job.id  # and once more, when it is long over
    assert len(jobs(server)) == 1


def test_a_job_whose_id_was_never_written_down_is_found_by_its_tag(server: LiveServer, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        tune(tuner(server, pause=interrupt), tmp_path)
    ticket = json.loads((tmp_path / SUBMITTED).read_text(encoding="utf-8"))
    (tmp_path / SUBMITTED).write_text(json.dumps({key: value for key, value in ticket.items() if key != "job"}), encoding="utf-8")
    work_once(server.house.store)
    assert tune(tuner(server), tmp_path).job == ticket["job"]
    assert len(jobs(server)) == 1


def test_other_rows_or_settings_are_another_job(server: LiveServer, tmp_path: Path) -> None:
    with working(server.house.store):
        first = tune(tuner(server), tmp_path)
        second = tune(tuner(server, epochs=2), tmp_path)
    assert first.job != second.job


def test_money_is_set_aside_before_and_the_bill_is_booked_even_after_a_restart(server: LiveServer, tmp_path: Path) -> None:
    purse = Purse(1.0)
    purse.keep_in(tmp_path / "money.jsonl")
    with pytest.raises(KeyboardInterrupt):
        tune(tuner(server, pause=interrupt, purse=purse, **PRICES), tmp_path)
    later = Purse(1.0)
    later.keep_in(tmp_path / "money.jsonl")
    assert later.spent_usd > TOKENS * 20 / 1e6  # all that was set aside, until the bill is known
    with working(server.house.store):
        done = tune(tuner(server, purse=later, **PRICES), tmp_path)
    assert done.usd == pytest.approx(TOKENS * 20 / 1e6)
    assert later.spent_usd == pytest.approx(TOKENS * 20 / 1e6)
    again = Purse(1.0)
    again.keep_in(tmp_path / "money.jsonl")
    assert again.spent_usd == pytest.approx(TOKENS * 20 / 1e6)


@pytest.mark.parametrize("counted", [0, 10**12])
def test_a_bill_beyond_what_was_set_aside_is_not_believed(
    server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    monkeypatch.setattr("made_up_worker.TOKENS", counted)
    purse = Purse(1.0)
    with working(server.house.store):
        done = tune(tuner(server, purse=purse, **PRICES), tmp_path)
    assert done.trained_tokens == counted
    assert 0 < done.usd == purse.spent_usd < purse.budget_usd


def test_nothing_is_sent_where_the_budget_does_not_hold_the_training(server: LiveServer, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="may cost"):
        tune(tuner(server, purse=Purse(0.0001), **PRICES), tmp_path)
    assert jobs(server) == []
    assert server.house.store.files(LOCAL_PROJECT).list(limit=10) == []


def test_a_job_that_takes_too_long_is_cancelled_and_charged_in_full(server: LiveServer, tmp_path: Path) -> None:
    purse = Purse(1.0)
    with pytest.raises(BudgetError, match="was cancelled"):
        tune(tuner(server, wait_minutes=0.001, purse=purse, **PRICES), tmp_path)
    assert [job.status for job in jobs(server)] == [JobStatus.CANCELLED]
    assert purse.spent_usd > 0
    assert not (tmp_path / SUBMITTED).exists()


def test_a_failed_job_costs_nothing_says_why_and_is_not_waited_for_again(server: LiveServer, tmp_path: Path) -> None:
    purse = Purse(1.0)
    fault = JobError("invalid_n_examples", "too few of them", "training_file")
    sees = {"count": 0}

    def fail(seconds: float) -> None:
        sees["count"] += 1
        work_once(server.house.store, fault=fault)

    with pytest.raises(ModelError, match=r"ended as 'failed': too few of them\. Climb again"):
        tune(tuner(server, pause=fail, purse=purse, **PRICES), tmp_path)
    assert (purse.spent_usd, sees["count"]) == (0.0, 1)
    with working(server.house.store):
        tune(tuner(server), tmp_path)
    assert len(jobs(server)) == 2


def test_a_refusal_costs_nothing_and_an_endpoint_without_the_api_is_sent_nothing(server: LiveServer, tmp_path: Path) -> None:
    purse = Purse(1.0)
    unknown = replace(tuner(server, purse=purse, **PRICES), address=Address(server.url, "nobody"))
    with pytest.raises(EngineError, match="status 404.*nobody"):
        tune(unknown, tmp_path)
    assert purse.spent_usd == 0.0
    with pytest.raises(NotOffered, match="no fine-tuning API"):
        tune(replace(tuner(server), address=Address(f"{server.root}/elsewhere", "fake")), tmp_path / "other")
    with pytest.raises(EngineError, match="cannot be reached"):
        tune(replace(tuner(server), address=Address("http://127.0.0.1:9/v1", "fake"), timeout_seconds=1.0), tmp_path / "third")


class Repeating(BaseHTTPRequestHandler):
    """Refuses everything, and repeats the key it was given."""

    def do_GET(self) -> None:
        body = json.dumps({"error": {"message": f"no use of {self.headers['Authorization']}"}}).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


def test_a_key_that_the_endpoint_repeats_is_not_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPLADDER_API_KEY", "sk-planted-secret-4321")
    with ThreadingHTTPServer(("127.0.0.1", 0), Repeating) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = Address(f"http://127.0.0.1:{endpoint.server_address[1]}/v1", "m")
        with pytest.raises(EngineError, match="no use of Bearer") as caught:
            tune(EndpointTuner(address, HostedSettings()), tmp_path)
        endpoint.shutdown()
        thread.join()
    assert "sk-planted" not in str(caught.value)


def task_of(folder: Path, server: LiveServer, rows: int = 140, more: str = "", **settings: str) -> World:
    hosted = f'[rungs.hosted]\nmodel = "{server.url} fake"\npoll_seconds = 0.02\n{more}'
    return write_task(folder, rows, **{"rungs": f"{SKIP}\n{hosted}", **settings})


def rung(done: Climb) -> RungResult:
    return next(one for one in done.rungs if one.name == "hosted")


def test_a_climb_scores_the_endpoints_model_beside_the_other_rungs(server: LiveServer, tmp_path: Path) -> None:
    prices = "\n".join(f"{key} = {value}" for key, value in PRICES.items())
    world = task_of(tmp_path / "task", server, more=prices)
    said = str(plan(tmp_path / "task", tools=world.tools))
    assert f"Endpoint: 1 job at {server.url} fake, 3 passes over" in said
    with working(server.house.store):
        done = climb(tmp_path / "task", tools=world.tools)
    found = rung(done)
    assert found.status is RungStatus.RAN, found.reason
    assert found.model.startswith(f"{server.url} ft:fake:here::")
    assert found.test is not None
    assert found.test.value > 0.85
    assert found.cost.usd_once == pytest.approx(TOKENS * 20 / 1e6)
    assert found.cost.by_token
    assert done.verdict.rung == "hosted"
    assert len(jobs(server)) == 1
    continued = RunFolder.open(done.folder).read_result("hosted", None)
    assert continued is not None
    assert continued["recipe"]["model"] == found.model.removeprefix(f"{server.url} ")


class Breaking(SilentProgress):
    """Progress that ends the work as soon as it hears of a job at the endpoint."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def advance(self, count: int = 1, detail: str = "") -> None:
        if detail.startswith(("validating_files:", "queued:", "running:")):
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineError("The endpoint cannot be reached.")], ids=["Ctrl-C", "lost"])
def test_a_climb_that_broke_off_goes_on_waiting_for_the_job_it_submitted(
    server: LiveServer, tmp_path: Path, error: BaseException
) -> None:
    world = task_of(tmp_path / "task", server)
    with pytest.raises(type(error)):
        climb(tmp_path / "task", tools=world.tools, watcher=Watcher(Breaking(error)))
    with working(server.house.store):
        done = climb(tmp_path / "task", tools=world.tools)
    assert rung(done).status is RungStatus.RAN
    assert len(jobs(server)) == 1


def test_a_job_that_takes_too_long_leaves_the_rung_out(server: LiveServer, tmp_path: Path) -> None:
    world = task_of(tmp_path / "task", server, more="wait_minutes = 0.002")
    first = climb(tmp_path / "task", tools=world.tools)
    assert rung(first).status is RungStatus.OVER_BUDGET
    assert "was cancelled" in rung(first).reason
    assert [job.status for job in jobs(server)] == [JobStatus.CANCELLED]


def test_a_task_whose_data_may_not_leave_or_has_no_prices_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    def loaded(**settings: str) -> Task:
        write_task(tmp_path / "task", 20, **settings)
        return Task.load(tmp_path / "task")

    away = '[rungs.hosted]\nmodel = "https://tuning.example/v1 big"\n'
    with pytest.raises(PrivacyError, match="data_may_leave"):
        wiring.check_hosted_tuning(loaded(rungs=away))
    with pytest.raises(DataError, match="has no known prices"):
        wiring.check_hosted_tuning(loaded(rungs=away, use="data_may_leave = true"))
    assert wiring.check_hosted_tuning(loaded(rungs=away, use="data_may_leave = true", budget="usd = inf")) is not None
    assert wiring.check_hosted_tuning(loaded(rungs='skip = ["hosted"]\n' + away)) is None
    with pytest.raises(UsageError, match="no fine-tuning API"):
        wiring.check_hosted_tuning(loaded(rungs='[rungs.hosted]\nmodel = "anthropic:claude"\n'))
    with pytest.raises(DataError, match="the three prices come together"):
        loaded(rungs=away + "usd_per_million_prompt_tokens = 1\n")


@pytest.mark.parametrize(("rows", "epochs"), [(10, 10), (3, 25), (33, 3), (34, 3), (9_000, 2), (50_000, 1)])
def test_epochs_follow_openais_own_rule_where_none_are_given(rows: int, epochs: int) -> None:
    assert HostedSettings().epochs_for(rows) == epochs
    assert HostedSettings(epochs=7).epochs_for(rows) == 7
