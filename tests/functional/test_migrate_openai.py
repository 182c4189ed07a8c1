"""A job comes home from OpenAI, which our own server plays: data, settings, a job here, and both models on the same rows."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from chat_server import Reply, chat_server
from live_server import LiveServer, fake_house, live_server, put_model
from made_up_worker import work_once
from service_jobs import chat_rows, pair_rows, rows_text
from stepladder.domain.errors import DataError, EngineError, UsageError
from stepladder.domain.jobs import LOCAL_PROJECT, Job
from stepladder.domain.protocols import Decoding, Prompt
from stepladder.domain.task import Task
from stepladder.engines.closing import closing_dates, no_new_jobs, says_when
from stepladder.engines.fake import FakeEngine
from stepladder.interfaces.cli import environment, migrating
from stepladder.service.migrate import RECORDED, Migration, attach_recorded, bring_home, make_job, row_names
from stepladder.service.openai_account import ending_lines, ending_models
from stepladder.service.openai_job import OldJob, build_job, fetch_job, last_metrics, nearest_hyperparameters
from stepladder.storage.store import Store
from tiny_model import build_tiny_model

RESULT = b"step,train_loss,valid_loss\n1,2.50000,\n2,1.25000,1.50000\n"


def says_refund(prompt: Prompt, decoding: Decoding, adapter: Path | None) -> str:
    return "refund"


@pytest.fixture
def openai_like(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(fake_house(tmp_path / "far", engine=FakeEngine(says_refund))) as running:
        yield running


def finished_job(server: LiveServer, *, validation: bool = True) -> Any:
    """A job there, done, and what the API says of it."""
    client = OpenAI(base_url=server.url, api_key="anything")
    rows = client.files.create(file=("rows.jsonl", rows_text(chat_rows(16))), purpose="fine-tune")
    held = client.files.create(file=("held.jsonl", rows_text(chat_rows(12, first=100))), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18",
        training_file=rows.id,
        validation_file=held.id if validation else None,
        seed=5,
        suffix="desk",
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 3.6}}},
    )
    work_once(server.house.store)
    return client.fine_tuning.jobs.retrieve(job.id)


def run_cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stepladder.interfaces.cli.main", *map(str, arguments)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, check=False, env={**kept, "NO_COLOR": "1", **environment}
    )


def lead_to(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "anything")


def local_job(store: Store, id: str) -> Job:
    found = store.jobs(LOCAL_PROJECT).get(id)
    assert found is not None
    return found


def test_a_job_is_fetched_trained_here_and_laid_beside_the_retiring_model(
    openai_like: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = finished_job(openai_like)
    tiny = build_tiny_model(tmp_path / "tiny")
    lead_to(openai_like, monkeypatch)
    given: dict[str, Any] = {"recorded": None, "model": str(tiny), "queue": False, "service": tmp_path / "home", "device": "cpu"}
    source = migrating.Source(old.id, None, None, None, None)
    migrating.migrate(tmp_path / "task", source, record=True, as_json=True, **given)
    told = json.loads(capsys.readouterr().out)
    scores = told["scores"]
    assert scores["rows"] == 12
    assert scores["retiring"]["value"] == pytest.approx(0.5)  # it says refund to everything, and half of it is
    assert scores["retiring_model"] == old.fine_tuned_model
    assert 0 <= scores["new"]["value"] <= 1
    assert scores["gain"] is not None
    task = Task.load(tmp_path / "task").settings
    assert (task.data.train, task.data.test) == ("training.jsonl", "validation.jsonl")
    assert (task.model.base, task.rungs.lora.epochs) == (str(tiny), 2)
    assert (tmp_path / "task" / "training.jsonl").read_bytes() == rows_text(chat_rows(16))
    with Store(tmp_path / "home") as store:
        job = local_job(store, told["job"]["id"])
        assert dict(job.request.hyperparameters) == {"n_epochs": 2, "learning_rate_multiplier": 3.6}
        assert (job.request.seed, job.request.suffix, job.request.requested_model) == (5, "desk", old.model)
        assert len(store.jobs(LOCAL_PROJECT).list(limit=10)) == 1
    nothing = migrating.Source(None, None, None, None, None)  # nothing is fetched or trained again
    migrating.migrate(tmp_path / "task", nothing, record=False, as_json=False, **given)
    said = capsys.readouterr().out
    assert "retiring  50 %" in said
    assert told["job"]["fine_tuned_model"] in said


def test_without_a_key_a_job_is_not_fetched_and_an_unknown_one_is_said_to_be(
    openai_like: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        fetch_job("ftjob-x")
    lead_to(openai_like, monkeypatch)
    with pytest.raises(EngineError, match="The job ftjob-x cannot be fetched: .*Could not find fine tune"):
        fetch_job("ftjob-x")
    old = finished_job(openai_like)
    openai_like.house.store.files(LOCAL_PROJECT).delete(old.training_file)
    with pytest.raises(EngineError, match="training file .* is not there any more"):
        fetch_job(old.id)


def test_the_accounts_key_is_read_without_its_lines_end_and_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-planted-secret"
    with chat_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", f"{key}\r")
        server.script = [Reply(401, {"error": {"message": f"Incorrect API key provided: {key}"}})] * 2
        for ask in (lambda: fetch_job("ftjob-x"), lambda: ending_models(date(2026, 7, 1))):
            with pytest.raises(EngineError, match="Incorrect API key") as caught:
                ask()
            assert key not in str(caught.value)
        assert {headers["authorization"] for headers in server.headers_seen} == {f"Bearer {key}"}
        monkeypatch.setenv("OPENAI_API_KEY", f"{key}\u00e4")
        for ask in (lambda: fetch_job("ftjob-x"), lambda: ending_models(date(2026, 7, 1))):
            with pytest.raises(EngineError, match="OPENAI_API_KEY holds a character"):
                ask()


def test_exported_files_become_a_task_and_a_queued_job(openai_like: LiveServer, tmp_path: Path) -> None:
    old = finished_job(openai_like, validation=False)
    (tmp_path / "job.json").write_text(old.model_dump_json(), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_bytes(rows_text(chat_rows(16)))
    (tmp_path / "result.csv").write_bytes(base64.b64encode(RESULT))
    answers = "".join(json.dumps({"answer": "refund"}) + "\n" for _ in range(16))
    (tmp_path / "said.jsonl").write_text(answers, encoding="utf-8")
    files = ("--job-file", tmp_path / "job.json", "--train", tmp_path / "rows.jsonl", "--result", tmp_path / "result.csv")
    home = {"STEPLADDER_HOME": str(tmp_path / "home")}
    done = run_cli("migrate-openai", tmp_path / "task", *files, "--recorded", tmp_path / "said.jsonl", "--queue", **home)
    assert done.returncode == 0, done.stderr
    assert "It is validating_files" in done.stdout
    assert f"stepladder climb {tmp_path / 'task'}" in done.stdout
    task = Task.load(tmp_path / "task").settings
    assert (task.data.examples, task.data.recorded) == ("training.jsonl", RECORDED)
    brought = Migration.find(tmp_path / "task")
    assert brought is not None
    assert brought.old_metrics == {"step": 2.0, "train_loss": 1.25, "valid_loss": 1.5}
    assert (brought.source, brought.retiring) == (old.id, old.fine_tuned_model)
    with Store(tmp_path / "home") as store:
        assert local_job(store, str(brought.job)).request.model == "smollm2-135m-instruct"


def test_a_folder_holds_one_job_and_a_job_comes_from_one_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring_home(tmp_path / "task", old_job(training=rows_text(chat_rows(16))))

    def call(folder: str, *source: Any, **more: Any) -> None:
        given: dict[str, Any] = {"recorded": None, "record": False, "model": "fake", "queue": True, "as_json": False, **more}
        service = tmp_path / "home"
        migrating.migrate(tmp_path / folder, migrating.Source(*source), service=service, device="cpu", **given)

    with pytest.raises(UsageError, match="holds the job ftjob-1"):
        call("task", "ftjob-other", None, None, None, None)
    file = tmp_path / "job.json"
    with pytest.raises(UsageError, match="say which job"):
        call("other", "ftjob-2", file, file, None, None)
    with pytest.raises(UsageError, match="--job-file needs --train"):
        call("other", None, file, None, None, None)
    with pytest.raises(UsageError, match="--recorded and --record"):
        call("task", None, None, None, None, None, recorded=file, record=True)
    call("task", None, None, None, None, None)
    assert "It is validating_files" in capsys.readouterr().out


def old_job(**more: Any) -> OldJob:
    return OldJob(**{"id": "ftjob-1", "model": "gpt-4o-mini", "tuned": None, "method": "supervised", **more})


def test_a_preference_job_comes_home_as_one(tmp_path: Path) -> None:
    old = old_job(
        method="dpo", training=rows_text(pair_rows()), hyperparameters={"beta": 0.2, "n_epochs": 1, "batch_size": 400}, seed=7
    )
    brought, started = bring_home(tmp_path / "task", old)
    assert started.rows == 12
    assert Task.load(tmp_path / "task").settings.rungs.dpo.beta == 0.2
    with Store(tmp_path / "home") as store:
        brought, job = make_job(tmp_path / "task", brought, store)
        again, same = make_job(tmp_path / "task", brought, store)
    assert (job.request.method, dict(job.request.hyperparameters)) == ("dpo", {"beta": 0.2, "n_epochs": 1, "batch_size": 256})
    assert (again, same.id) == (brought, job.id)
    with pytest.raises(UsageError, match="exists already"):
        bring_home(tmp_path / "task", old)


def test_answers_of_the_retiring_model_go_by_id_or_by_order(tmp_path: Path) -> None:
    folder = tmp_path / "task"
    rows, held = rows_text(chat_rows(16)), rows_text(chat_rows(12, first=100))
    bring_home(folder, old_job(training=rows, validation=held))
    names, tested = row_names(folder)
    assert (len(names), len(tested), len(set(names))) == (28, 12, 28)

    def attach(lines: list[dict[str, Any]]) -> bool:
        (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return attach_recorded(folder, tmp_path / "said.jsonl")

    assert attach([{"answer": f"a{number}"} for number in range(12)]) is False
    kept = [json.loads(line) for line in (folder / RECORDED).read_text(encoding="utf-8").splitlines()]
    assert kept == [{"id": name, "answer": f"a{number}"} for number, name in enumerate(tested)]
    assert Task.load(folder).settings.data.recorded is None  # a climb needs one for every row
    assert attach([{"id": name, "answer": "b"} for name in names]) is True
    assert Task.load(folder).settings.data.recorded == RECORDED
    with pytest.raises(DataError, match="13 answers, but 28 rows"):
        attach([{"answer": "a"}] * 13)
    with pytest.raises(DataError, match="no row has the id 'nobody'"):
        attach([{"id": "nobody", "answer": "a"}])
    with pytest.raises(DataError, match="needs 'answer'"):
        attach([{"id": names[0]}])


def test_settings_become_the_nearest_ones_here() -> None:
    def nearest(model: str, **hyperparameters: Any) -> dict[str, Any]:
        return nearest_hyperparameters(old_job(model=model, training=b"", hyperparameters=hyperparameters))

    assert nearest("gpt-4o-mini-2024-07-18", learning_rate_multiplier=1.8) == {"learning_rate_multiplier": 1.0}
    assert nearest("ft:gpt-3.5-turbo-0125:org::abc", learning_rate_multiplier=1) == {"learning_rate_multiplier": 0.5}
    assert nearest("another", learning_rate_multiplier=0.3, n_epochs=99) == {"learning_rate_multiplier": 0.3, "n_epochs": 50}


def test_a_job_object_is_read_whatever_place_its_settings_stand_in() -> None:
    top = {"id": "ftjob-1", "model": "gpt-4o", "hyperparameters": {"n_epochs": 3, "batch_size": "auto"}}
    assert build_job(top, b"", None, RESULT).hyperparameters == {"n_epochs": 3}
    below = {**top, "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 4}}}}
    assert build_job(below, b"", None, None).hyperparameters == {"n_epochs": 4, "beta": 0.1}
    assert build_job({**top, "fine_tuned_model": "ft:gpt-4o:org:desk:12345678"}, b"", None, None).suffix == "desk"
    with pytest.raises(UsageError, match="reinforcement"):
        build_job({**top, "method": {"type": "reinforcement"}}, b"", None, None)
    assert last_metrics(RESULT) == last_metrics(base64.b64encode(RESULT))
    assert last_metrics(b"no,step here\n1,2\n") == {}


def test_doctor_tells_the_closing_dates_and_asks_about_models_only_when_asked_to(
    openai_like: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = finished_job(openai_like)
    monkeypatch.setenv("OPENAI_API_KEY", "anything")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")  # where nobody answers
    environment.doctor(openai=False, as_json=True)
    told = json.loads(capsys.readouterr().out)
    (line,) = [check["says"] for check in told["checks"] if check["name"] == "openai"]
    assert str(closing_dates().last_new_jobs) in line
    assert "doctor --openai" in line
    assert told["ending"] == []
    lead_to(openai_like, monkeypatch)
    environment.doctor(openai=True, as_json=False)
    asked = capsys.readouterr().out
    assert f"{old.fine_tuned_model}: no last day is known" in asked
    assert f"stepladder migrate-openai DIR {old.id} --record" in asked
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        environment.doctor(openai=True, as_json=False)


def test_closing_days_follow_the_base_of_a_fine_tune() -> None:
    dates = closing_dates()
    assert dates.of("ft:gpt-4o-mini-2024-07-18:org:desk:12345678") == date(2027, 1, 14)
    assert dates.of("gpt-3.5-turbo-0125") == date(2026, 10, 23)
    assert dates.of("smollm2-135m-instruct") is None
    assert no_new_jobs(dates.last_new_jobs) is None
    assert "no new fine-tuning jobs" in str(no_new_jobs(date(2027, 1, 7)))
    day = date(2027, 1, 14)
    assert says_when(day, date(2027, 1, 13), past="ended", future="ends") == "ends 2027-01-14 (in 1 day)"
    assert says_when(day, day, past="ended", future="ends") == "ends 2027-01-14 (today)"
    assert says_when(day, date(2027, 1, 16), past="ended", future="ends") == "ended 2027-01-14 (2 days ago)"


def test_models_that_end_first_stand_first(openai_like: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ft:gpt-4o:org::11111111", "ft:gpt-3.5-turbo-0125:org::22222222", "ft:fake:org::33333333"):
        put_model(openai_like.house.store, LOCAL_PROJECT, name)
    lead_to(openai_like, monkeypatch)
    today = date(2026, 11, 22)
    found = ending_models(today)
    assert [one.name.split(":")[1] for one in found] == ["gpt-3.5-turbo-0125", "gpt-4o", "fake"]
    lines = "\n".join(ending_lines(found, today))
    assert "stopped answering on 2026-10-23 (30 days ago)" in lines
    assert "answers until 2027-01-14 (in 53 days)" in lines
    assert list(ending_lines([], today)) == ["The account has no fine-tuned models."]
