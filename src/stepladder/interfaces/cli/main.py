"""The command line. Everything heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stepladder import __version__
from stepladder.interfaces.cli import service_commands
from stepladder.interfaces.cli.options import Budget, Device, Fresh, Json, NoCache, RunArgument, Seed, TaskFolder, TuneAnyway

app = typer.Typer(
    name="stepladder",
    help="Measure before you tune: which is the cheapest technique, from a prompt to a LoRA fine-tune, that suffices?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


OF_THE_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
    | {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
)
"""What may keep us from writing a file: no room, no right, a broken disk, something else in its place."""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"stepladder {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def demo(
    name: Annotated[str, typer.Argument(help="Bundled task: tickets, handbook, voice, clinic or repairs.")] = "tickets",
    folder: Annotated[Path | None, typer.Option(help="Where to put the task's copy; ./demo/NAME by default.")] = None,
    budget_minutes: Annotated[float, typer.Option(min=0.1, help="Minutes for the climb.")] = 5.5,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Climb a bundled task on the starter model with quick settings; exits 0 on any verdict."""
    from stepladder.interfaces.cli import climbing

    climbing.demo(name, folder or Path("demo") / name, budget_minutes=budget_minutes, device=device, as_json=as_json)


@app.command()
def check(
    task: TaskFolder,
    fix: Annotated[bool, typer.Option("--fix", help="Write corrected copies (NAME.fixed.jsonl) beside the files.")] = False,
    with_model: Annotated[bool, typer.Option("--with-model", help="Also ask the base model; takes minutes.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check the data: faults by row with what to do, the rows to repair first; exits 3 when something blocks."""
    from stepladder.interfaces.cli import checking

    raise typer.Exit(checking.check(task, fix=fix, with_model=with_model, device=device, as_json=as_json))


@app.command()
def label(
    folder: Annotated[
        Path, typer.Argument(help="Task folder; without a task.toml you are asked what is wanted.", show_default=False)
    ],
    file: Annotated[Path | None, typer.Argument(help="Inputs: JSONL, CSV, TSV or text. Needed once.", show_default=False)] = None,
    teacher: Annotated[str | None, typer.Option(help="Model that drafts the answers, instead of `[model] base`.")] = None,
    count: Annotated[int, typer.Option(min=0, help="Labelled rows wanted in all.")] = 50,
    again: Annotated[int, typer.Option(min=0, help="Rows asked once more, blind, to see how sure the labels are.")] = 20,
    teacher_rows: Annotated[
        int, typer.Option("--teacher-rows", min=0, help="Further rows that the teacher answers alone; they only ever teach.")
    ] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make the first good examples: a model drafts, you accept, edit or skip. Run it again to continue."""
    from stepladder.interfaces.cli import labelling

    labelling.label(
        folder,
        file,
        teacher=teacher,
        count=count,
        again=again,
        teacher_rows=teacher_rows,
        device=device,
        as_json=as_json,
    )


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Task folder to make.", show_default=False)],
    file: Annotated[
        Path, typer.Argument(help="Examples: JSONL, JSON, CSV, TSV, Parquet, or a `datasets` folder.", show_default=False)
    ],
    input: Annotated[str | None, typer.Option(help="Column of the input, where the guess would be wrong.")] = None,
    reference: Annotated[str | None, typer.Option(help="Column of the expected answer.")] = None,
    test: Annotated[Path | None, typer.Option(help="Your own test file; FILE then teaches and chooses only.")] = None,
    model: Annotated[str | None, typer.Option(help="What `[model] base` shall be.")] = None,
    as_json: Json = False,
) -> None:
    """Make a task folder from a file of examples: shape, columns, kind of answer, instruction and graders are guessed."""
    from stepladder.interfaces.cli import starting

    starting.init(folder, file, input=input, reference=reference, test=test, model=model, as_json=as_json)


@app.command()
def plan(
    task: TaskFolder,
    budget_minutes: Budget = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Say what a climb can show, how long it takes and what it leaves out, before anything runs."""
    from stepladder.interfaces.cli import climbing

    climbing.plan(task, budget_minutes=budget_minutes, device=device, seed=seed, as_json=as_json)


@app.command()
def climb(
    task: TaskFolder,
    budget_minutes: Budget = None,
    device: Device = "auto",
    seed: Seed = 0,
    tune_anyway: TuneAnyway = False,
    fresh: Fresh = False,
    no_cache: NoCache = False,
    as_json: Json = False,
) -> None:
    """Climb the ladder: rungs, scores, verdict, report. Run it again to continue a climb that was broken off."""
    from stepladder.interfaces.cli import climbing

    raise typer.Exit(
        climbing.climb(
            task,
            budget_minutes=budget_minutes,
            device=device,
            seed=seed,
            tune_anyway=tune_anyway,
            fresh=fresh,
            cache=not no_cache,
            as_json=as_json,
        )
    )


@app.command()
def tune(
    task: TaskFolder,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the adapter; DIR/tuned/METHOD by default.", show_default=False),
    ] = None,
    method: Annotated[str, typer.Option(help="sft, or dpo: preference tuning that goes on from the fine-tune.")] = "sft",
    start: Annotated[
        Path | None, typer.Option(help="With dpo: the adapter to go on from; DIR/tuned/sft by default.", show_default=False)
    ] = None,
    four_bit: Annotated[bool, typer.Option("--four-bit", help="Hold the base model's weights in 4 bits (QLoRA).")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Only the fine-tune: a PEFT adapter with a model card, measured on held-out rows. Run it again to continue."""
    from stepladder.interfaces.cli import tuning

    tuning.tune(task, output=output, method=method, start=start, four_bit=four_bit, device=device, seed=seed, as_json=as_json)


@app.command()
def predict(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(help="New inputs: JSONL, JSON, CSV, TSV or Parquet.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL to write; FILE.answers.jsonl by default.")] = None,
    rung: Annotated[str | None, typer.Option(help="Another rung than the verdict's.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Let the winning rung (or another) answer new inputs in bulk. Run it again to continue."""
    from stepladder.interfaces.cli import using

    using.predict(run, file, output=output, rung=rung, device=device, as_json=as_json)


@app.command()
def chat(
    run: RunArgument,
    rung: Annotated[str | None, typer.Option(help="Another rung than the verdict's.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Talk to the winning rung (or another), the bare base model beside it. In a pipe every line is a turn."""
    from stepladder.interfaces.cli import talking

    talking.chat(run, rung=rung, device=device, as_json=as_json)


@app.command()
def score(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or TSV of labelled rows.", show_default=False)],
    rung: Annotated[str | None, typer.Option(help="Another rung than the verdict's.")] = None,
    against: Annotated[Path | None, typer.Option(help="Run whose recorded test scores count, instead of RUN's own.")] = None,
    target: Annotated[float | None, typer.Option(help="Instead of the task's `target`.")] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write, one test case a row.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask every row again although its answer is there.")] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Grade a rung on labelled rows; exits 1 below the target or when it is worse than recorded. Run it again to continue."""
    from stepladder.interfaces.cli import using

    raise typer.Exit(
        using.score(
            run,
            file,
            rung=rung,
            against=against,
            target=target,
            junit=junit,
            fresh=fresh,
            device=device,
            as_json=as_json,
        )
    )


@app.command()
def report(run: RunArgument, as_json: Json = False) -> None:
    """Show a finished climb and write its report.html anew."""
    from stepladder.interfaces.cli import using

    using.report(run, as_json=as_json)


@app.command()
def verdict(
    run: RunArgument,
    target: Annotated[float | None, typer.Option(help="Good enough, instead of `target`: 0.85 is 85 %.")] = None,
    no_target: Annotated[bool, typer.Option("--no-target", help="Ask for the best value instead of a target.")] = False,
    minimum_gain: Annotated[float | None, typer.Option(help="Smallest gain worth paying for: 0.03 is three points.")] = None,
    calls_per_month: Annotated[float | None, typer.Option(help="Expected calls a month.")] = None,
    calls_total: Annotated[float | None, typer.Option(help="Calls in all, for a one-off job.")] = None,
    horizon_months: Annotated[float | None, typer.Option(help="Months over which costs are added up.")] = None,
    facts_change: Annotated[str | None, typer.Option(help="never, yearly, monthly, weekly or daily.")] = None,
    machine_usd_per_hour: Annotated[float | None, typer.Option(help="Price of the machine.")] = None,
    label_usd_each: Annotated[float | None, typer.Option(help="Price of one more labelled example.")] = None,
    max_latency_seconds: Annotated[float | None, typer.Option(help="Slowest acceptable answer (95th percentile).")] = None,
    data_may_leave: Annotated[
        bool | None, typer.Option("--data-may-leave/--data-stays", help="Whether hosted models may be recommended.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Derive the verdict again from the recorded rows under other assumptions; nothing is run or written."""
    from stepladder.interfaces.cli import rechecking
    from stepladder.service.verdict import Assumptions

    assumptions = Assumptions(
        target=target,
        no_target=no_target,
        minimum_gain=minimum_gain,
        calls_per_month=calls_per_month,
        calls_total=calls_total,
        horizon_months=horizon_months,
        facts_change=facts_change,
        machine_usd_per_hour=machine_usd_per_hour,
        label_usd_each=label_usd_each,
        max_latency_seconds=max_latency_seconds,
        data_may_leave=data_may_leave,
    )
    raise typer.Exit(rechecking.verdict(run, assumptions, as_json=as_json))


@app.command()
def verify(run: RunArgument, as_json: Json = False) -> None:
    """Check a run folder: hashes of its files, grades and verdict reckoned again from the rows; exits 3 on a difference."""
    from stepladder.interfaces.cli import rechecking

    raise typer.Exit(rechecking.verify(run, as_json=as_json))


@app.command()
def review(
    run: RunArgument,
    rows: Annotated[int, typer.Option(min=1, help="Test rows to compare.")] = 30,
    against: Annotated[str, typer.Option(help="`reference`, or another rung that answered the test rows.")] = "reference",
    as_json: Json = False,
) -> None:
    """Blind A/B by a person: the winner's answers against the references or another rung. Run it again to continue."""
    from stepladder.interfaces.cli import reviewing

    reviewing.review(run, against=against, rows=rows, as_json=as_json)


models = typer.Typer(help="Pull and list models.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")


@models.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(help="Starter name, Hugging Face id, folder or GGUF file.")] = "smollm2-135m-instruct",
    as_json: Json = False,
) -> None:
    """Put a model into the cache, checked by its hash."""
    from stepladder.interfaces.cli import environment

    environment.pull_model(name, as_json=as_json)


@models.command("list")
def models_list(as_json: Json = False) -> None:
    """List the models in the cache."""
    from stepladder.interfaces.cli import environment

    environment.show_models(as_json=as_json)


app.add_typer(service_commands.jobs, name="jobs")
app.command()(service_commands.serve)
app.add_typer(service_commands.keys, name="keys")
app.command("migrate-openai")(service_commands.migrate_openai)


@app.command()
def doctor(
    openai: Annotated[
        bool, typer.Option("--openai", help="Ask OpenAI (OPENAI_API_KEY) which models of the account end, and when.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check this machine: versions, devices, number formats, cache, disk; and what of OpenAI's fine-tuning ends when."""
    from stepladder.interfaces.cli import environment

    raise typer.Exit(environment.doctor(openai=openai, as_json=as_json))


def run() -> None:
    """Entry point: run a command and turn whatever goes wrong into one clear line and the right exit code."""
    debug = bool(os.environ.get("STEPLADDER_DEBUG"))
    try:
        code = app(standalone_mode=False)  # the code of typer.Exit comes back as the result
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(_explain(error, debug=debug))
    if code == 130:  # typer's way to say Ctrl-C
        sys.exit(_explain(KeyboardInterrupt(), debug=debug))
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException, *, debug: bool) -> int:
    from stepladder.domain.errors import StepladderError
    from stepladder.interfaces.exit_codes import DATA, INTERRUPTED, OUR_FAULT, USAGE, exit_code

    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        print("\nInterrupted; nothing is lost. Run the same command again to continue.", file=sys.stderr)
        return INTERRUPTED
    if debug:
        raise error
    if isinstance(error, StepladderError):
        print(f"stepladder: {error}", file=sys.stderr)
        return exit_code(error)
    usage: Any = getattr(error, "format_message", None)
    if usage is not None:
        said = usage()  # of a call without arguments: the whole help
        print(said if said.startswith("Usage:") else f"stepladder: {said} Try: stepladder --help", file=sys.stderr)
        return USAGE
    if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
        path = error.filename2 or error.filename  # of a rename, where it should have led
        print(
            f"stepladder: {f'{path}: ' if path else ''}{error.strerror}. Put that right and run the same command again.",
            file=sys.stderr,
        )
        return DATA
    print(f"stepladder: an error of ours: {type(error).__name__}: {error}", file=sys.stderr)
    print("Set STEPLADDER_DEBUG=1 for the details, and please report them.", file=sys.stderr)
    return OUR_FAULT


if __name__ == "__main__":
    run()
