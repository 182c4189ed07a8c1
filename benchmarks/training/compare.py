"""The comparison itself: settings searched, parity shown, rows measured, each step in a child process and kept at once."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from real.climb_result import describe_machine
from stepladder.domain.errors import EngineError
from stepladder.models.hardware import cpu_count
from stepladder.models.pull import pull_manifest
from training.environments import interpreter, prepare
from training.flops import Shape, useful_flops, work_of_rows
from training.results import RATIO, Results, medians
from training.systems import (
    MEMORY_LIMIT_BYTES,
    MICRO_BATCHES,
    OURS,
    SYSTEMS,
    Setting,
    System,
    arithmetic_variants,
    further_variants,
    largest_fitting,
)
from training.workloads import WORKLOADS

BENCHMARKS = Path(__file__).resolve().parents[1]
LOSS_GAP, GRADIENT_GAP = 1e-4, 1e-4  # nats of a step's loss; ‖g - g'‖ / ‖g'‖ of every tensor
PARITY_STEPS, PARITY_MICRO_BATCH = 3, 2
TRIAL_MICRO_BATCH = 2
SWEEP_UP_TO = 16
UNSEARCHED_MICRO_BATCH = 4
PATIENCE_SECONDS = 900  # for a child, beyond what it is asked to measure


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: (least, most) of a row's measurement; of one trial in a search. Fewer rows, or no search, is a trial run."""

    row_seconds: tuple[float, float] = (60.0, 240.0)
    search_seconds: float = 40.0
    rows_per_step: int = 32
    search: bool = True


class Comparison:
    """Measures into a results file; whatever stands there already is not done again."""

    def __init__(self, results: Path, model: str, limits: Limits) -> None:
        """
        Raises:
            DataError: The file holds rows of another processor: medians over both would say nothing of either.
        """
        self.results = Results(results)
        self.folder = pull_manifest(model).folder
        self.limits = limits
        self.machine = describe_machine(BENCHMARKS.parent)
        self.results.refuse_other_processor(self.machine["cpu"])
        self.shape = Shape.of_config(json.loads((self.folder / "config.json").read_text(encoding="utf-8")))
        self.workloads = {name: workload.first(limits.rows_per_step) for name, workload in WORKLOADS.items()}
        self._scratch = tempfile.TemporaryDirectory(prefix="bench-train-")
        self.scratch = Path(self._scratch.name)

    def prepare(self, systems: Sequence[str]) -> None:
        """Environments, and the adapters that all systems start from."""
        for name in dict.fromkeys(SYSTEMS[system].environment for system in systems):
            prepare(name)
        for with_b in (False, True):
            self._child(OURS, "start", "A", adapter=str(self._start(with_b)), with_b=with_b)

    def row(self, number: int, workload: str, system: str) -> None:
        """Measure one row, unless it is there or cannot be: then the reason is kept."""
        keys = {"round": number, "workload": workload, "system": system}
        if self.results.find("rows", **keys) or self.results.find("left_out", workload=workload, system=system):
            return
        try:
            ceiling = self._ceiling(number)
            setting = None if system == OURS else self._proved(workload, SYSTEMS[system])
            measured = self._measure(workload, system, setting)
        except EngineError as error:
            self._say(f"{workload} {system}: left out. {error}")
            self.results.add("left_out", {"workload": workload, "system": system, "reason": str(error)})
            return
        timing = {name: round(measured[name], 2) for name in ("warm_up_seconds", "seconds")}
        self.results.add("timings", {**keys, **timing, "micro_batches": measured["batches"], "threads": measured["threads"]})
        self.results.add("rows", self._as_row(keys, measured, setting, ceiling))
        row = self.results.rows[-1]
        self._say(
            f"round {number} {workload} {system}: {row['examples_per_second']:.3g} examples/s, "
            f"{row['nominal_tokens_per_second']:.0f} tokens/s, {row['peak_memory_bytes'] / 2**30:.1f} GiB, "
            f"ours ÷ this {row[RATIO]}"
        )

    def summary(self) -> str:
        """Median ratios of what has been measured so far."""
        lines = []
        for workload in WORKLOADS:
            for system in SYSTEMS:
                row = medians(self.results.rows, workload, system)
                if row is not None:
                    lines.append(
                        f"{workload} {system:<17} {row['nominal_tokens_per_second']:>7.0f} tokens/s  "
                        f"{row['fraction_of_gemm_ceiling']:>5.0%} of the ceiling  {row['peak_memory_bytes'] / 2**30:>5.1f} GiB  "
                        f"ours ÷ this {row[RATIO]}"
                    )
        lines += [f"{one['workload']} {one['system']}: left out. {one['reason']}" for one in self.results.left_out]
        return "\n".join(lines)

    def _as_row(self, keys: dict[str, Any], measured: dict[str, Any], setting: Setting | None, ceiling: float) -> dict[str, Any]:
        workload = self.workloads[keys["workload"]]
        per_second = 1 / measured["seconds"]
        tokens = measured["tokens"] * per_second
        if "flops" in measured:
            flops = measured["flops"] * per_second
        else:  # every real token is computed by itself; the part of a step that was measured stands for the whole
            step = work_of_rows(zip(workload.lengths, workload.learned, strict=True))
            flops = useful_flops(self.shape, step) / step.tokens * tokens
        return {
            "workload": keys["workload"],
            "system": keys["system"],
            "setting": measured["setting"] if setting is None else setting.words(),
            "dtype": measured.get("dtype", "bfloat16"),
            "examples_per_second": tokens * len(workload.lengths) / sum(workload.lengths),
            "nominal_tokens_per_second": tokens,
            "computed_tokens_per_second": measured["computed_tokens"] * per_second,
            "useful_tflops": flops / 1e12,
            "fraction_of_gemm_ceiling": flops / ceiling,
            "peak_memory_bytes": measured["peak_memory_bytes"],
            RATIO: None,
            "round": keys["round"],
            "versions": measured["versions"],
            "machine": {key: self.machine[key] for key in ("cpu", "cores", "system", "date")},
            "commit": self.machine["commit"] + (" with local changes" if self.machine["dirty"] else ""),
        }

    def _ceiling(self, number: int) -> float:
        """FLOP a second of products alone, measured once a round."""
        known = self.results.find("ceilings", round=number)
        if known is None:
            known = {"round": number, **self._child(OURS, "ceiling", "A")}
            self.results.add("ceilings", known)
            self._say(f"round {number}: products alone reach {known['flops_per_second'] / 1e9:.0f} GFLOP/s in {known['dtype']}")
        return float(known["flops_per_second"])

    def _proved(self, workload: str, system: System) -> Setting:
        """The setting a rival runs with, once it has given our losses and gradients with it.

        Raises:
            EngineError: It did not.
        """
        known = self.results.find("settings", workload=workload, system=system.name)
        if known is None:
            known = {"workload": workload, "system": system.name, **self._choose(workload, system)}
            self.results.add("settings", known)
        setting = Setting(**known["setting"])
        parity = self.results.find("parity", workload=workload, system=system.name)
        if parity is None:
            parity = {"workload": workload, "system": system.name, **self._parity(workload, system.name, setting)}
            self.results.add("parity", parity)
        if parity["loss_gap_nats"] > LOSS_GAP or parity["gradient_gap"] > GRADIENT_GAP:
            raise EngineError(
                f"No parity: losses differ by {parity['loss_gap_nats']:.1e} nats, gradients by {parity['gradient_gap']:.1e}.",
                "A speed means nothing until both compute the same.",
            )
        return setting

    def _choose(self, workload: str, system: System) -> dict[str, Any]:
        """Defaults: the largest micro-batch that fits. Tuned: the fastest of a search, one choice after the other."""
        if not self.limits.search:
            return {"setting": asdict(replace(system.start, micro_batch=UNSEARCHED_MICRO_BATCH)), "tried": []}
        sizes = [size for size in MICRO_BATCHES if size <= SWEEP_UP_TO]
        if not system.tuned:
            tried = self._search(workload, system, system.start, sizes[:2], longest=True)
            peaks = {int(size): peak for size, peak in tried["peaks"].items()}
            return {"setting": asdict(replace(system.start, micro_batch=largest_fitting(peaks))), "tried": [tried]}
        best = replace(system.start, micro_batch=TRIAL_MICRO_BATCH)
        trials = [self._search(workload, system, best, [TRIAL_MICRO_BATCH])]
        for build in (arithmetic_variants, lambda setting: further_variants(system, setting, self.workloads[workload].lengths)):
            for candidate in build(best):
                trials.append(self._search(workload, system, candidate, [TRIAL_MICRO_BATCH]))
            fastest = min((trial for trial in trials if trial["seconds_per_row"]), key=_seconds_of_fastest)
            best = Setting(**fastest["setting"])
        sweep = self._search(workload, system, best, sizes)
        fitting = {
            int(size): took for size, took in sweep["seconds_per_row"].items() if sweep["peaks"][size] <= MEMORY_LIMIT_BYTES
        }
        chosen = replace(best, micro_batch=min(fitting, key=lambda size: fitting[size], default=1))
        return {"setting": asdict(chosen), "tried": [*trials, sweep]}

    def _search(
        self, workload: str, system: System, setting: Setting, sizes: Sequence[int], *, longest: bool = False
    ) -> dict[str, Any]:
        """Peaks and seconds a row at some micro-batches; empty where the child failed (a trial may run out of memory)."""
        try:
            found = self._child(
                system.name, "search", workload, setting=setting, micro_batches=list(sizes), of_longest_only=longest,
                memory_limit_bytes=MEMORY_LIMIT_BYTES, adapter=str(self._start(False)), seconds=(0.0, self.limits.search_seconds),
            )  # fmt: skip
        except EngineError as error:
            if not system.tuned:
                raise
            return {"setting": asdict(setting), "seconds_per_row": {}, "peaks": {}, "failed": str(error)}
        self._say(
            f"{workload} {system.name}, {setting.words().rpartition(', ')[0]}: "
            + "; ".join(
                f"{size} at once: {took:.2f} s a row, {found['peaks'][size] / 2**30:.1f} GiB"
                for size, took in found["seconds_per_row"].items()
            )
        )
        kept = {key: found[key] for key in ("seconds_per_row", "peaks", "ended_by")}
        return {"setting": asdict(setting), **kept}

    def _parity(self, workload: str, system: str, setting: Setting) -> dict[str, Any]:
        """A few fp32 steps of the rival on the small cut, then ours at the same parameters."""
        folder = self.scratch / f"parity-{workload}-{system}"
        folder.mkdir(exist_ok=True)
        small = replace(setting, micro_batch=PARITY_MICRO_BATCH)
        recorded = self._child(
            system, "parity", workload, setting=small, adapter=str(self._start(True)), folder=str(folder), steps=PARITY_STEPS
        )
        compared = self._child(OURS, "parity", workload, folder=str(folder), losses=recorded["losses"], dtype="float32")
        kept = {key: compared[key] for key in ("loss_gap_nats", "gradient_gap", "gradient_cosine", "path")}
        self._say(
            f"{workload} {system}: losses within {kept['loss_gap_nats']:.1e} nats, gradients within {kept['gradient_gap']:.1e}"
        )
        return {**kept, "steps": PARITY_STEPS, "setting": small.words()}

    def _measure(self, workload: str, system: str, setting: Setting | None) -> dict[str, Any]:
        return self._child(
            system, "measure", workload, setting=setting, adapter=str(self._start(False)), seconds=self.limits.row_seconds
        )

    def _start(self, with_b: bool) -> Path:
        return self.scratch / f"start-{'b' if with_b else 'zero'}.safetensors"

    def _child(self, system: str, task: str, workload: str, *, setting: Setting | None = None, **order: Any) -> dict[str, Any]:
        """Run one task in a process of its own.

        Raises:
            EngineError: It ended without an answer; the last line it said is in the message.
        """
        order_file, answer_file = self.scratch / "order.json", self.scratch / "answer.json"
        answer_file.unlink(missing_ok=True)
        order = {"folder": str(self.scratch / "trainer"), **order}
        order |= {
            "system": system,
            "task": task,
            "workload": asdict(self.workloads[workload]),
            "model": str(self.folder),
            "device": "cpu",
            "quantised": False,
        }
        order |= {"setting": None if setting is None else asdict(setting), "answer": str(answer_file)}
        order_file.write_text(json.dumps(order), encoding="utf-8")
        module = "training.ours_child" if system == OURS else "training.rival_child"
        python = interpreter(SYSTEMS[system].environment)
        patience = PATIENCE_SECONDS + order.get("seconds", (0, 0))[1]
        return run_child(
            [str(python), "-m", module, str(order_file)], answer_file, patience, what=f"{system}, {task} on {workload}"
        )

    def _say(self, line: str) -> None:
        print(line, flush=True)


def run_child(command: Sequence[str], answer_file: Path, patience_seconds: float, *, what: str) -> dict[str, Any]:
    """The answer of a child process, which has all cores, no network for models, and nobody's thread settings but ours.

    Raises:
        EngineError: It ended without an answer, or not at all.
    """
    environment = {"OMP_NUM_THREADS": str(cpu_count()), **os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH", "")))),
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{what}: no end after {patience_seconds:.0f} s.", "Give the machine to this alone.") from error
    if done.returncode != 0 or not answer_file.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise EngineError(
            f"{what}: ended with exit code {done.returncode}: {said[:300]}", "Run its command by hand for the whole message."
        )
    found = json.loads(answer_file.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def _seconds_of_fastest(trial: dict[str, Any]) -> float:
    return min(trial["seconds_per_row"].values())
