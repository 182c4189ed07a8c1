"""What healthy and overcooked tunes do to general abilities: the figures behind the limits of the retention gate.

    .venv/bin/python benchmarks/retention/calibrate.py [--work FOLDER] [--minutes 12]

Three healthy tunes of the starter model (presets, 40 rows of a bundled task, stopped by held-out rows) and three overcooked
ones (ten times the learning rate, or 25 epochs that nothing stops); then every overcooked adapter scaled down, and two of them
trained again with replay, and with replay at a quarter of their rate. A tune that diverges is said and left out. Prints a line
and writes benchmarks/results/retention.json after every step. What stands there is not done again, and a training that was
broken off goes on in the work folder; no step begins after `--minutes`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "benchmarks" / "real")]

from climb_result import describe_machine  # noqa: E402

from stepladder.data.bundled import copy_bundled  # noqa: E402
from stepladder.data.probes import load_probes  # noqa: E402
from stepladder.data.readers import read_examples  # noqa: E402
from stepladder.domain.protocols import Conversation, Prompt, SilentProgress  # noqa: E402
from stepladder.domain.retention import RetentionMeasure  # noqa: E402
from stepladder.domain.task import LoraSettings, Task  # noqa: E402
from stepladder.engines.cache import RecordedEngine  # noqa: E402
from stepladder.engines.transformers.engine import TransformersEngine  # noqa: E402
from stepladder.evaluation.retention import retention_measures  # noqa: E402
from stepladder.models.adapter_scale import write_scaled  # noqa: E402
from stepladder.models.loading import load  # noqa: E402
from stepladder.service.probing import Prober  # noqa: E402
from stepladder.service.remedies import LOWER_RATE, SCALES, GentlerTuner  # noqa: E402
from stepladder.service.wiring import set_threads  # noqa: E402
from stepladder.techniques.forms import PLAIN, reference_turn  # noqa: E402
from stepladder.training.loop import Diverged  # noqa: E402
from stepladder.training.presets import default_learning_rate  # noqa: E402
from stepladder.training.tuner import LoraTuner  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "retention.json"
MODEL = "smollm2-135m-instruct"
ROWS = 40
HELD_OUT = 8
TASK_INPUTS = 6


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one tune is made; `rate_times` multiplies the preset's learning rate."""

    name: str
    task: str
    healthy: bool
    epochs: int
    rate_times: float = 1.0
    stopped: bool = True


TUNES = (
    Recipe("healthy tickets", "tickets", True, 5),
    Recipe("healthy voice", "voice", True, 6),
    Recipe("healthy repairs", "repairs", True, 6),
    Recipe("rate x10, tickets", "tickets", False, 6, 10.0, False),
    Recipe("rate x10, voice", "voice", False, 6, 10.0, False),
    Recipe("25 epochs, voice", "voice", False, 25, 1.0, False),
)
TRAINED_AGAIN = TUNES[-2:]
"""One that no scale restores, and one that half of its effect does."""


class Bench:
    """The starter model with everything that asks and trains it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        loaded = load(MODEL)
        self.tuner = LoraTuner(loaded)
        config = loaded.model.config
        self.preset_rate = default_learning_rate(config.hidden_size, config.model_type)
        engine = TransformersEngine(loaded)
        probes = load_probes(self.task("tickets"))
        self.prober = Prober(probes, RecordedEngine(engine, work / "answers.jsonl"), engine)

    def task(self, name: str) -> Task:
        return Task.load(copy_bundled(name, self.work / "tasks" / name))

    def rows(self, name: str) -> tuple[list[Conversation], list[Prompt]]:
        """The first rows of a bundled task as they are trained on, and the prompts alone."""
        task = self.task(name)
        examples = read_examples(task).examples[:ROWS]
        prompts = [PLAIN.render(task, example.input) for example in examples]
        learned = [replace(reference_turn(task, example), weight=1.0) for example in examples]
        rows = [Conversation(p.id, (*p.messages, turn)) for p, turn in zip(prompts, learned, strict=True)]
        return rows, prompts

    def tune(self, recipe: Recipe, tuner: Any = None) -> Path:
        rows, _ = self.rows(recipe.task)
        settings = LoraSettings(epochs=recipe.epochs, learning_rate=recipe.rate_times * self.preset_rate)
        held_out = rows[-HELD_OUT:] if recipe.stopped else []
        folder = self.work / "adapters" / recipe.name.replace(" ", "-").replace(",", "")
        tuned = (tuner or self.tuner).tune(rows[:-HELD_OUT], held_out, settings, folder=folder, seed=0, progress=SilentProgress())
        return Path(tuned.folder)

    def measure(self, recipe: Recipe, adapter: Path) -> tuple[RetentionMeasure, ...]:
        _, prompts = self.rows(recipe.task)
        task_prompts = prompts[-HELD_OUT:][:TASK_INPUTS]
        return retention_measures(self.prober.observe(None, task_prompts), self.prober.observe(adapter, task_prompts))

    def scaled(self, recipe: Recipe, scale: float) -> tuple[RetentionMeasure, ...]:
        """What takes no answers, of the tune made weaker."""
        source = self.tune(recipe)
        target = source.with_name(f"{source.name}-scaled-{scale:g}")
        write_scaled(source, target, scale)
        return self.likely(target)

    def again(self, recipe: Recipe, *, slower: bool) -> tuple[RetentionMeasure, ...]:
        """The same, trained again with the base's own answers among its rows, and at a lower rate when `slower`."""
        rate = LOWER_RATE * recipe.rate_times * self.preset_rate if slower else None
        tuner = GentlerTuner(self.tuner, "slower" if slower else "replay", self.prober.replay_rows(), rate)
        return self.measure(recipe, self.tune(recipe, tuner))

    def likely(self, adapter: Path) -> tuple[RetentionMeasure, ...]:
        return retention_measures(self.prober.likelihoods(None), self.prober.likelihoods(adapter))


Measures = tuple[RetentionMeasure, ...]


def steps(bench: Bench) -> Iterator[tuple[str, bool | None, Callable[[], Measures]]]:
    """Name, whether it is a healthy tune (None for a remedy), and what makes it and measures it."""
    for recipe in TUNES:
        yield recipe.name, recipe.healthy, lambda recipe=recipe: bench.measure(recipe, bench.tune(recipe))
    for recipe in TUNES:
        for scale in () if recipe.healthy else SCALES:
            yield f"{recipe.name}, scale {scale:g}", None, lambda recipe=recipe, scale=scale: bench.scaled(recipe, scale)
    for recipe in TRAINED_AGAIN:
        yield f"{recipe.name}, replay", None, lambda recipe=recipe: bench.again(recipe, slower=False)
        yield f"{recipe.name}, replay, lower rate", None, lambda recipe=recipe: bench.again(recipe, slower=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("retention-work"))
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--fresh", action="store_true", help="forget what benchmarks/results/retention.json holds")
    options = parser.parse_args()
    set_threads()
    started, machine = time.monotonic(), describe_machine(REPOSITORY)
    bench = Bench(options.work.resolve())
    known = [] if options.fresh or not RESULT.exists() else json.loads(RESULT.read_text(encoding="utf-8"))["tunes"]
    found: list[dict[str, Any]] = list(known)
    for name, healthy, work in steps(bench):
        if any(one["name"] == name for one in found):
            continue
        before = time.monotonic()
        if before - started > 60 * options.minutes:
            print("The time is used up; run again to go on.")
            break
        try:
            measures = [asdict(one) for one in work()]
        except Diverged as error:
            print(f"{name}: {error}", flush=True)
            continue
        seconds = round(time.monotonic() - before, 1)
        entry = {"name": name, "healthy": healthy, "seconds": seconds, "machine": machine, "measures": measures}
        found.append(entry)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({"model": MODEL, "tunes": found}, indent=1) + "\n", encoding="utf-8")
        print(_line(entry), flush=True)


def _line(entry: dict[str, Any]) -> str:
    shown = "; ".join(f"{one['name']} {one['loss']['value']:+.4f} [{one['loss']['high']:+.4f}]" for one in entry["measures"])
    return f"{entry['name']} ({entry['seconds']:.0f} s): {shown}"


if __name__ == "__main__":
    main()
