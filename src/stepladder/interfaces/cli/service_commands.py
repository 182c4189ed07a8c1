"""The commands around the service: jobs, the server, its keys, moving in from OpenAI. Heavy parts are imported inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stepladder.interfaces.cli.options import Device, Json, ServiceFolder

jobs = typer.Typer(
    help="Climbs, fine-tunes and the service's jobs on this machine; without a command, list them.",
    invoke_without_command=True,
    rich_markup_mode=None,
)


@jobs.callback()
def jobs_or_list(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        jobs_list(as_json=as_json)


@jobs.command("list")
def jobs_list(
    limit: Annotated[int, typer.Option(min=1, help="How many of each to show, newest first.")] = 20,
    folder: ServiceFolder = None,
    as_json: Json = False,
) -> None:
    """List climbs and fine-tunes of this machine, and the service's jobs; `stepladder jobs` alone does the same."""
    from stepladder.interfaces.cli import queue

    queue.show_jobs(folder, limit=limit, as_json=as_json)


@jobs.command("rebuild")
def jobs_rebuild(
    folder: Annotated[Path, typer.Argument(help="Where to look; folders that the index knows are looked through too.")] = Path(),
    as_json: Json = False,
) -> None:
    """Read the index of climbs and fine-tunes anew from their folders, which are the truth."""
    from stepladder.interfaces.cli import queue

    queue.rebuild(folder, as_json=as_json)


@jobs.command("backup")
def jobs_backup(
    file: Annotated[Path, typer.Argument(help="Where to write the copy of the database.", show_default=False)],
    folder: ServiceFolder = None,
    as_json: Json = False,
) -> None:
    """Copy the database of jobs, files, keys and events while it is used; files and adapters are copied as folders."""
    from stepladder.interfaces.cli import queue

    queue.backup(file, folder, as_json=as_json)


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Base model to serve: a name, a folder or a GGUF file, or NAME=LOCATION. Repeatable.", show_default=False
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=MODEL: another name for a base model, e.g. 'gpt-4o-mini*=smollm2-135m-instruct'. Repeatable."),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Run or task folder whose rungs every project may ask as `rung:RUN/NAME`. Repeatable."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on, 127.0.0.1 by default; any but this machine's own needs a key first.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on, 8000 by default; 0 for any that is free.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further host name under which the server may be addressed. Repeatable.")
    ] = None,
    folder: ServiceFolder = None,
    config: Annotated[
        Path | None, typer.Option(help="File with these options; by default serve.toml in the service's folder, if there is one.")
    ] = None,
    memory_gigabytes: Annotated[
        float | None, typer.Option(min=0.1, help="For the weights of loaded base models; by default most of what is free.")
    ] = None,
    plain_results: Annotated[
        bool, typer.Option("--plain-results", help="Give result files as plain CSV instead of base64, as OpenAI does.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Serve OpenAI's API on this machine: files, fine-tuning jobs, chat with base models, fine-tunes and rungs."""
    from stepladder.interfaces.cli import serving

    serving.serve(
        host=host,
        port=port,
        allow_hosts=allow_host or [],
        folder=folder,
        config=config,
        models=model or [],
        aliases=alias or [],
        runs=runs or [],
        device=device,
        memory_gigabytes=memory_gigabytes,
        plain_results=plain_results,
        as_json=as_json,
    )


keys = typer.Typer(help="Keys of the server.", no_args_is_help=True, rich_markup_mode=None)


@keys.command("create")
def keys_create(
    project: Annotated[
        str | None,
        typer.Option(help="Project that the key opens, by name or id; made where there is none. Else this machine's own."),
    ] = None,
    name: Annotated[str, typer.Option(help="What the key is for, to know it again.")] = "key",
    admin: Annotated[bool, typer.Option("--admin", help="May lend checkpoints to other projects.")] = False,
    folder: ServiceFolder = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once. From then on the server lets nobody in without one."""
    from stepladder.interfaces.cli import serving

    serving.create_key(folder, project=project, name=name, admin=admin, as_json=as_json)


@keys.command("list")
def keys_list(folder: ServiceFolder = None, as_json: Json = False) -> None:
    """List the keys by id and project; what they are is not kept."""
    from stepladder.interfaces.cli import serving

    serving.list_keys(folder, as_json=as_json)


@keys.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.", show_default=False)],
    folder: ServiceFolder = None,
    as_json: Json = False,
) -> None:
    """Make a key worthless, at once."""
    from stepladder.interfaces.cli import serving

    serving.revoke_key(folder, key, as_json=as_json)


def migrate_openai(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Task folder to make, or to go on with.", show_default=False)],
    job: Annotated[
        str | None, typer.Argument(help="Id of the job at OpenAI (`ftjob-…`), fetched with OPENAI_API_KEY.", show_default=False)
    ] = None,
    job_file: Annotated[Path | None, typer.Option(help="Instead of JOB: the job as JSON.")] = None,
    train: Annotated[Path | None, typer.Option(help="With --job-file: the training file.")] = None,
    validation: Annotated[Path | None, typer.Option(help="With --job-file: the validation file.")] = None,
    result: Annotated[Path | None, typer.Option(help="With --job-file: the result file (CSV).")] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Answers of the retiring model: JSONL of `answer`, with the rows' ids or in their order.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Let the retiring model answer the validation rows now; its account pays.")
    ] = False,
    model: Annotated[str, typer.Option(help="What is trained here.")] = "smollm2-135m-instruct",
    queue: Annotated[bool, typer.Option("--queue", help="Leave the training to `stepladder serve`.")] = False,
    service: Annotated[Path | None, typer.Option("--folder", help="The service's folder; STEPLADDER_HOME by default.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Bring an OpenAI fine-tuning job home: a task folder and a job here, scored beside the old model. Run it again to go on."""
    from stepladder.interfaces.cli import migrating

    migrating.migrate(
        folder,
        migrating.Source(job, job_file, train, validation, result),
        recorded=recorded,
        record=record,
        model=model,
        queue=queue,
        service=service,
        device=device,
        as_json=as_json,
    )
