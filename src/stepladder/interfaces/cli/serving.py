"""The commands around the server: `serve`, `keys`."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from stepladder import files
from stepladder.domain.errors import MissingExtra, RunError, UsageError
from stepladder.domain.jobs import LOCAL_PROJECT
from stepladder.models.catalog import STARTER_MODEL
from stepladder.service.job_attempt import TrainerOptions
from stepladder.service.job_worker import WorkerOptions
from stepladder.service.serving.house import House, HouseSettings
from stepladder.service.serving.opening import Wishes, open_house
from stepladder.service.serving.serve_file import load_serve_settings
from stepladder.service.worker_process import WorkerProcess
from stepladder.storage.store import Store, home_folder

LOCK = ".server.lock"
WORKER_LOOKED_AFTER_SECONDS = 2.0
_NEEDS = ("fastapi", "uvicorn", "sse_starlette", "python_multipart")


def serve(
    *,
    host: str | None,
    port: int | None,
    allow_hosts: list[str],
    folder: Path | None,
    config: Path | None,
    models: list[str],
    aliases: list[str],
    runs: list[Path],
    device: str,
    memory_gigabytes: float | None,
    plain_results: bool,
    as_json: bool,
) -> None:
    """Serve until Ctrl-C or SIGTERM; jobs that run save themselves and go on at the next start.

    What is None or empty is as `serve.toml` has it.
    """
    missing = next((name for name in _NEEDS if find_spec(name) is None), None)
    if missing is not None:
        raise MissingExtra("serve", f"{missing}, which the server is built on,")
    place = folder or home_folder()
    file = load_serve_settings(config, place)
    memory = memory_gigabytes if memory_gigabytes is not None else file.memory_gigabytes
    wishes = Wishes(
        place,
        tuple(models) or file.models or (STARTER_MODEL.name,),
        tuple(aliases) or tuple(f"{pattern}={base}" for pattern, base in file.aliases.items()),
        tuple(_checked_runs(runs or [Path(run) for run in file.runs])),
        device,
        None if memory is None else int(memory * 1024**3),
        settings=HouseSettings(results_as_base64=not (plain_results or file.plain_results)),
    )
    address = file.host if host is None else host
    allowed = frozenset(allow_hosts or file.allow_hosts)
    with _alone(place), closing(open_house(wishes)) as house:
        _refuse_open_door(house, address)
        house.store.sweep()
        with _working(place, device):
            _run(house, address, file.port if port is None else port, allowed, as_json=as_json)


def _run(house: House, host: str, port: int, allowed: frozenset[str], *, as_json: bool) -> None:
    from stepladder.interfaces.server.app import build_app
    from stepladder.interfaces.server.guard import LOOPBACK_NAMES, Places
    from stepladder.interfaces.server.serve import make_server

    names = LOOPBACK_NAMES | {name.lower() for name in allowed} | ({host.lower()} if not _is_wildcard(host) else set())
    places = Places(names, any_address=not _is_loopback(host))
    _show_log()
    server = make_server(build_app(house, places=places), host=host, port=port)
    server.say_ready = lambda url: _say(house, url, as_json=as_json)
    server.run()
    if server.interrupted:
        raise KeyboardInterrupt


def _show_log() -> None:
    """The server's log on standard error: what was done and how long it took, never what was said."""
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("stepladder.server")
    log.addHandler(shown)
    log.setLevel(logging.DEBUG if os.environ.get("STEPLADDER_DEBUG") else logging.INFO)


def _say(house: House, url: str, *, as_json: bool) -> None:
    """Where it listens, and the two lines that lead a program here."""
    bases = house.names.bases
    locked = bool(house.store.keys.list())
    if as_json:
        aliases = {alias.pattern: alias.base for alias in bases.aliases}
        print(json.dumps({"url": url, "models": list(bases.models), "aliases": aliases, "needs_key": locked}), flush=True)
        return
    print(f"Serving {', '.join(bases.models)} at {url}. Stop with Ctrl-C.")
    for alias in bases.aliases:
        print(f"  '{alias.pattern}' stands for {alias.base}")
    print(f"\n  export OPENAI_BASE_URL={url}")
    print(f"  export OPENAI_API_KEY={'YOUR-KEY' if locked else 'anything'}\n", flush=True)


@contextmanager
def _working(folder: Path, device: str) -> Iterator[None]:
    """A worker beside the server, started again when it dies."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    worker = WorkerProcess(folder, WorkerOptions(TrainerOptions(device=device)))
    over = threading.Event()

    def look_after() -> None:
        while not over.is_set():
            worker.ensure()
            over.wait(WORKER_LOOKED_AFTER_SECONDS)

    keeper = threading.Thread(target=look_after, name="worker-keeper", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        worker.stop()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        with files.lock(folder / LOCK):
            yield
    except files.Locked as error:
        raise RunError(f"Another server works in {folder}.", "Stop it, or give another --folder.") from error


def _refuse_open_door(house: House, host: str) -> None:
    if not _is_loopback(host) and not house.store.keys.list():
        raise UsageError(
            f"listening on {host} without a key would let in everybody who can reach it.", "Run first: stepladder keys create"
        )


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_wildcard(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")


def _checked_runs(runs: list[Path]) -> list[Path]:
    for run in runs:
        if not (run / "climb.json").is_file() and not (run / "task.toml").is_file():
            raise UsageError(
                f"{run} is neither a run folder nor a task folder.", "Give --runs a folder that `climb` has worked in."
            )
    return [run.resolve() for run in runs]


def create_key(folder: Path | None, *, project: str | None, name: str, admin: bool, as_json: bool) -> None:
    """Make a key and show it, once."""
    with Store(folder or home_folder()) as store:
        known = {item.name: item.id for item in store.keys.projects()} | {item.id: item.id for item in store.keys.projects()}
        if project is None:
            owner = LOCAL_PROJECT
        else:
            owner = known[project] if project in known else store.keys.create_project(project).id
        key, text = store.keys.create(owner, name, admin=admin)
    if as_json:
        print(json.dumps({**asdict(key), "key": text}))
        return
    print(text)
    print(f"Key '{key.id}' of project {owner}. It is shown this once; keep it where you keep passwords.", file=sys.stderr)


def list_keys(folder: Path | None, *, as_json: bool) -> None:
    """Every key by its id; the secrets are nowhere."""
    with Store(folder or home_folder()) as store:
        keys = store.keys.list()
        names = {project.id: project.name for project in store.keys.projects()}
    if as_json:
        print(json.dumps([{**asdict(key), "project_name": names[key.project]} for key in keys]))
        return
    for key in keys:
        print(f"{key.id}  {key.project}  {names[key.project]}  {key.name}{'  admin' if key.admin else ''}")
    if not keys:
        print("No key: the server listens on this machine only and asks nobody for one. Make one with: stepladder keys create")


def revoke_key(folder: Path | None, key: str, *, as_json: bool) -> None:
    """Forget a key; a running server refuses it from the next request on."""
    with Store(folder or home_folder()) as store:
        if not store.keys.revoke(key):
            raise UsageError(f"there is no key '{key}'.", "List them with: stepladder keys list")
    print(json.dumps({"id": key, "revoked": True}) if as_json else f"Key '{key}' is revoked.")
