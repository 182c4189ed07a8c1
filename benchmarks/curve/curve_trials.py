"""Do learning curves forecast what twice the training rows bring? Many trials on real data, where those rows are at hand.

    .venv/bin/python benchmarks/curve/curve_trials.py [--trials 200] [--datasets FOLDER]

A trial draws 2n training rows and other validation rows from a data set, fits a rung to nested parts of n of them (at most
seven eighths), forecasts, and then fits it to all 2n: does the 80 % interval hold that score? Rungs: `classifier` (embedding and
logistic regression, as it climbs), and for `nearest` its retrieval without the language model: the answer of the most similar
row, found by the same embedder and graded by the task's grader (the rung `baseline` calls it "nearest neighbour"). A language
model would have to answer hundreds of thousands of prompts. Prints a table and writes benchmarks/results/curve.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "benchmarks" / "real")]

import clinc150  # noqa: E402
import snips  # noqa: E402
from climb_result import describe_machine  # noqa: E402
from task_folder import DATASETS, WORK, json_lines, write_task_folder  # noqa: E402

import stepladder  # noqa: E402
from stepladder.domain.messages import Example  # noqa: E402
from stepladder.domain.prediction import Score  # noqa: E402
from stepladder.domain.protocols import Embedder, FitContext, Predictor  # noqa: E402
from stepladder.domain.task import Task  # noqa: E402
from stepladder.engines.fake import FakeEngine  # noqa: E402
from stepladder.evaluation.graders import build_graders  # noqa: E402
from stepladder.evaluation.learning_curve import doubling  # noqa: E402
from stepladder.files import write_text  # noqa: E402
from stepladder.service import wiring  # noqa: E402
from stepladder.service.curve import DRAWS, SHARES, nested_parts  # noqa: E402
from stepladder.service.rung_run import Marker  # noqa: E402
from stepladder.service.task_data import load_task_data  # noqa: E402
from stepladder.techniques.baseline import TrivialPredictor  # noqa: E402
from stepladder.techniques.classifier import Classifier  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "curve.json"
ROWS = {"repairs": (40, 70), "tickets": (40, 75), "clinc150": (150, 200), "snips": (100, 150), "snips-intents": (100, 150)}
"""Training rows n, of which twice as many are drawn, and validation rows of a trial."""
TRIED = {"classifier": ("repairs", "clinc150", "snips-intents"), "nearest": ("repairs", "tickets", "clinc150", "snips")}
POOL = 450  # rows of SNIPS; the folder that is climbed has fewer


@dataclass(frozen=True)
class Pool:
    """A data set's rows, all in one heap, and everything a rung needs to fit some of them."""

    name: str
    context: FitContext
    marker: Marker
    rows: tuple[Example, ...]


@dataclass(frozen=True)
class Trial:
    """One forecast and what came of it. Scores in [0, 1]."""

    low: float
    high: float
    seen: float
    before: float  # with n rows
    forecast_gain: float
    probability_minimum: float

    @property
    def held(self) -> bool:
        return self.low - 1e-9 <= self.seen <= self.high + 1e-9


class RememberingEmbedder:
    """Every text is embedded once in a benchmark."""

    def __init__(self, inner: Embedder) -> None:
        self.inner, self.known = inner, dict[str, NDArray[np.float32]]()
        self.name = inner.name

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            self.known |= dict(zip(new, self.inner.embed(new), strict=True))
        return np.stack([self.known[text] for text in texts])


def load_pool(name: str, folder: Path, embedder: Embedder) -> Pool:
    task = Task.load(folder)
    data = load_task_data(task, embedder, write=False)
    rows = tuple(data.examples)
    marker = Marker(build_graders(task, examples=rows))
    context = FitContext(
        task=task,
        train=rows,
        validation=rows,
        tune_rows=rows,
        held_out=(),
        clusters=data.clusters,
        chunks=(),
        engine=FakeEngine(),
        embedder=embedder,
        score=marker.scorer(rows),
        folder=WORK,
    )
    return Pool(name, context, marker, rows)


def build_pools(datasets: Path, embedder: Embedder) -> dict[str, Pool]:
    """The bundled tasks and the public sets, those built where they are missing."""
    bundled = Path(stepladder.__file__).parent / "data" / "bundled"
    folders = {name: bundled / name for name in ("repairs", "tickets")}
    folders["clinc150"] = WORK / "clinc150"
    folders["snips"] = WORK / "snips-curve"
    folders["snips-intents"] = WORK / "snips-intents"
    if not (folders["clinc150"] / "task.toml").is_file():
        clinc150.build(datasets, folders["clinc150"])
    if not (folders["snips"] / "task.toml").is_file():
        snips.build(datasets, folders["snips"], train_rows=POOL - 105, test_rows=105)
    if not (folders["snips-intents"] / "task.toml").is_file():
        _build_intents(folders["snips"], folders["snips-intents"])
    return {name: load_pool(name, folder, embedder) for name, folder in folders.items()}


def _build_intents(source: Path, folder: Path) -> None:
    """The same sentences with the intent alone as their label."""
    rows = [
        json.loads(line) for path in sorted(source.glob("t*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()
    ]
    labelled = [{**row, "completion": json.loads(row["completion"])["intent"]} for row in rows]
    labels = sorted({row["completion"] for row in labelled})
    head = 'name = "snips-intents"\ninstruction = "Name the intent."\n'
    toml = f'{head}[data]\nexamples = "examples.jsonl"\n[output]\nlabels = {json.dumps(labels)}\n'
    write_task_folder(folder, toml, {"examples.jsonl": json_lines(labelled)})


def run_trial(pool: Pool, rung: str, seed: int) -> Trial:
    """Forecast from n rows, then look at 2n; all on the same validation rows."""
    rows, scored = ROWS[pool.name]
    order = np.random.default_rng((seed, len(pool.rows))).permutation(len(pool.rows))
    drawn = [pool.rows[index] for index in order[: 2 * rows + scored]]
    learned, validation = tuple(drawn[: 2 * rows]), tuple(drawn[2 * rows :])
    context = replace(pool.context, train=learned[:rows], validation=validation, seed=seed)
    recipe = dict(Classifier().fit(context).recipe) if rung == "classifier" else {"kind": "nearest neighbour"}

    def score(train: Sequence[Example]) -> float:
        smaller = replace(context, train=tuple(train))
        predictor: Predictor = (
            Classifier().restore(recipe, smaller) if rung == "classifier" else TrivialPredictor(smaller, recipe)
        )
        grades = context.score(predictor.predict([row.input for row in validation]))
        return float(np.mean([grade.value for grade in grades if isinstance(grade, Score)]))

    parts = nested_parts(learned[:rows], context.clusters, shares=SHARES, draws=DRAWS, seed=seed)
    minimum = context.task.settings.minimum_gain
    forecast = doubling(
        [len(part.train) for part in parts],
        [score(part.train) for part in parts],
        [part.draw for part in parts],
        all_rows=rows,
        scored_rows=scored,
        minimum_gain=minimum,
    )
    return Trial(
        forecast.score.low,
        forecast.score.high,
        score(learned),
        score(learned[:rows]),
        forecast.gain.value,
        forecast.probability_minimum,
    )


def summarise(trials: Sequence[Trial], minimum_gain: float) -> dict[str, Any]:
    """Coverage, width, and how often "unlikely to help" was wrong."""
    gains = np.array([trial.seen - trial.before for trial in trials])
    unlikely = np.array([trial.probability_minimum <= 0.1 for trial in trials])
    return {
        "trials": len(trials),
        "held": sum(trial.held for trial in trials),
        "mean_width": float(np.mean([trial.high - trial.low for trial in trials])),
        "mean_gain": float(gains.mean()),
        "mean_forecast_gain": float(np.mean([trial.forecast_gain for trial in trials])),
        "said_unlikely_to_help": int(unlikely.sum()),
        "of_these_gained_the_minimum": int((gains[unlikely] >= minimum_gain).sum()),
    }


def measure(pools: Mapping[str, Pool], trials: int) -> Iterator[dict[str, Any]]:
    """One row a rung and data set; `trials` of each rung over all its sets."""
    for rung, names in TRIED.items():
        for place, name in enumerate(names):
            own = [run_trial(pools[name], rung, seed) for seed in range(place, trials, len(names))]
            rows, scored = ROWS[name]
            minimum = pools[name].context.task.settings.minimum_gain
            yield {"rung": rung, "set": name, "rows": rows, "validation_rows": scored, **summarise(own, minimum)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when a rung's intervals hold too seldom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="trials of each rung (%(default)s)")
    parser.add_argument("--datasets", type=Path, default=DATASETS, help="folder of the public data sets (%(default)s)")
    options = parser.parse_args(arguments)
    machine = describe_machine(REPOSITORY)
    pools = build_pools(options.datasets, RememberingEmbedder(wiring.build_embedder()))
    rows = []
    for row in measure(pools, options.trials):
        rows.append(row)
        print(
            f"{row['rung']:<11} {row['set']:<14} held {row['held']:>3} of {row['trials']:<3}  width {row['mean_width']:.3f}  "
            f"gain {row['mean_gain']:+.3f} (forecast {row['mean_forecast_gain']:+.3f})  unlikely {row['said_unlikely_to_help']} "
            f"(wrong {row['of_these_gained_the_minimum']})",
            flush=True,
        )
    totals = {}
    for rung in TRIED:
        own = [row for row in rows if row["rung"] == rung]
        totals[rung] = sum(row["held"] for row in own) / sum(row["trials"] for row in own)
        print(f"{rung}: {totals[rung]:.1%} of the 80 % intervals held")
    write_text(RESULT, json.dumps({"trials": rows, "held": totals, "machine": machine}, indent=1) + "\n")
    return int(min(totals.values()) < 0.7)


if __name__ == "__main__":
    sys.exit(main())
