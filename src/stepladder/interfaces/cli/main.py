"""The command line. Everything heavy is imported inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stepladder import __version__

app = typer.Typer(
    name="stepladder",
    help="Measure before you tune: which is the cheapest technique, from a prompt to a LoRA fine-tune, that suffices?",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TaskFolder = Annotated[Path, typer.Argument(help="Task folder with a task.toml.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="Run folder, or a task folder (its newest run).", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Budget = Annotated[float | None, typer.Option("--budget-minutes", min=0.1, help="Instead of `[budget] minutes`.")]
Seed = Annotated[int, typer.Option(help="Seed of the split, the choices and the training.")]
TuneAnyway = Annotated[bool, typer.Option("--tune-anyway", help="Tune even where tuning would be refused.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew instead of continuing an unfinished run.")]


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
    budget_minutes: Annotated[float, typer.Option(min=0.1, help="Minutes for the climb.")] = 8.0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Climb a bundled task on the starter model with quick settings; exits 0 on any verdict."""
    from stepladder.interfaces.cli import climbing

    climbing.demo(name, folder or Path("demo") / name, budget_minutes=budget_minutes, device=device, as_json=as_json)


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
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or TSV of new inputs.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL to write; FILE.answers.jsonl by default.")] = None,
    rung: Annotated[str | None, typer.Option(help="Another rung than the verdict's.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Let the winning rung (or another) answer new inputs in bulk. Run it again to continue."""
    from stepladder.interfaces.cli import using

    using.predict(run, file, output=output, rung=rung, device=device, as_json=as_json)


@app.command()
def report(run: RunArgument, as_json: Json = False) -> None:
    """Show a finished climb and write its report.html anew."""
    from stepladder.interfaces.cli import using

    using.report(run, as_json=as_json)


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


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: versions, devices, number formats, cache, disk."""
    from stepladder.interfaces.cli import environment

    raise typer.Exit(environment.doctor(as_json=as_json))


def run() -> None:
    """Entry point: run a command and turn whatever goes wrong into one clear line and the right exit code."""
    debug = bool(os.environ.get("STEPLADDER_DEBUG"))
    try:
        code = app(standalone_mode=False)  # the code of typer.Exit comes back as the result
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(_explain(error, debug=debug))
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException, *, debug: bool) -> int:
    from stepladder.domain.errors import StepladderError
    from stepladder.interfaces.exit_codes import INTERRUPTED, OUR_FAULT, USAGE, exit_code

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
        print(f"stepladder: {usage()} Try: stepladder --help", file=sys.stderr)
        return USAGE
    print(f"stepladder: an error of ours: {type(error).__name__}: {error}", file=sys.stderr)
    print("Set STEPLADDER_DEBUG=1 for the details, and please report them.", file=sys.stderr)
    return OUR_FAULT


if __name__ == "__main__":
    run()
