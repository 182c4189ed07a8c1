"""What is measured on a GPU, and how: random models of a given shape, one child process a measurement, hours for a real job."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from real.climb_result import describe_machine
from stepladder.data.bundled import copy_bundled
from stepladder.domain.errors import EngineError
from stepladder.files import write_text
from stepladder.models.pull import pull_manifest
from training.compare import BENCHMARKS, run_child
from training.environments import interpreter, prepare
from training.flops import Shape, useful_flops, work_of_rows
from training.results import Results
from training.systems import Setting
from training.workloads import uniform

JOB_ROWS, JOB_TOKENS, JOB_EPOCHS = 10_000, 512, 3  # the job whose hours are printed
ROWS_A_STEP = 8
PATIENCE_SECONDS = 1200
STARTER = "smollm2-135m-instruct"
MODULES = {"stepladder": "training.ours_child", "trl": "training.rival_child", "unsloth": "training.rival_child"}


@dataclass(frozen=True, slots=True)
class Plan:
    """A model's shape, the lengths and seconds of the measurements, and the base and minutes of the climb."""

    name: str
    shape: Shape
    lengths: tuple[int, ...]
    seconds: tuple[float, float]
    ceiling_rows: int
    climb_minutes: float


REAL = Plan("7B-shaped", Shape(32, 4096, 11_008, 32, 32, 128, 49_152), (2048, 4096), (30.0, 120.0), 8192, 10.0)
DRY = Plan("tiny", Shape(2, 128, 256, 4, 2, 32, 49_152), (64, 128), (0.1, 5.0), 256, 3.0)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One cell: a system trains LoRA on bf16 or NF4 weights, on rows of one length, one row at a time."""

    system: str
    quantised: bool
    length: int

    def words(self) -> str:
        return f"{self.system}, {'QLoRA NF4' if self.quantised else 'LoRA bf16'}, {self.length} tokens a row"


def measurements(plan: Plan, systems: Sequence[str]) -> Iterator[Measurement]:
    """In the order of measuring: systems side by side in every cell."""
    for quantised in (False, True):
        for length in plan.lengths:
            for system in systems:
                yield Measurement(system, quantised, length)


def job_hours(tokens_per_second: float) -> float:
    """Hours for 10,000 rows of 512 tokens over 3 epochs."""
    return JOB_ROWS * JOB_TOKENS * JOB_EPOCHS / tokens_per_second / 3600


class GpuBench:
    """Measures into a results file and remembers what it did not run, and why."""

    def __init__(self, plan: Plan, device: str, results: Path, scratch: Path) -> None:
        self.plan, self.device, self.scratch = plan, device, scratch
        self.results = Results(results)
        self.model = scratch / plan.name
        self.not_run: list[str] = []
        if device != "cuda":
            self.not_run += [f"{REAL.name}, {one.words()}: no GPU" for one in measurements(REAL, tuple(MODULES))] + [
                "a whole climb on a GPU: no GPU"
            ]

    def prepare(self, systems: Sequence[str]) -> None:
        """Environments and the model's folder: random weights of the usual spread, and the starter model's tokenizer."""
        for system in systems:
            if system != "stepladder":
                prepare(system, gpu=self.device == "cuda")
        starter = pull_manifest(STARTER).folder
        order = {"task": "random", "shape": asdict(self.plan.shape), "tokenizer": str(starter), "target": str(self.model)}
        self._child("stepladder", order, what=f"a {self.plan.name} model of random weights")
        found = self._child(
            "stepladder", {"task": "ceiling", "ceiling_rows": self.plan.ceiling_rows, "dtype": "bfloat16"}, what="GEMM ceiling"
        )
        self.ceiling = float(found["flops_per_second"])
        print(f"Products alone reach {self.ceiling / 1e12:.3g} TFLOP/s in bf16.", flush=True)

    def measure(self, one: Measurement) -> None:
        """One row, unless it is there; a system that cannot is written down with its reason."""
        keys = {"model": self.plan.name, "system": one.system, "quantised": one.quantised, "length": one.length}
        if self.results.find("gpu", **keys):
            return
        workload = uniform(one.length, ROWS_A_STEP)
        order = {
            "task": "measure", "system": one.system, "quantised": one.quantised, "adapter": None, "seconds": self.plan.seconds,
            "workload": asdict(workload), "tokens_per_pass": one.length, "dtype": "bfloat16",
            "setting": asdict(Setting(checkpointing=False)), "folder": str(self.scratch / "trainer"),
        }  # fmt: skip
        try:
            found = self._child(one.system, order, what=one.words())
        except EngineError as error:
            self.not_run.append(f"{one.words()}: {error}")
            print(f"{one.words()}: {error}", flush=True)
            return
        row = {**keys, **self._figures(one, found)}
        self.results.add("gpu", row)
        print(
            f"{one.words()}: {row['tokens_per_second']:,.0f} tokens/s, {row['fraction_of_gemm_ceiling']:.0%} of the ceiling, "
            f"{row['peak_bytes'] / 2**30:.1f} GiB, {row['job_hours']:.2f} h for {JOB_ROWS:,} × {JOB_TOKENS} "
            f"tokens × {JOB_EPOCHS} epochs",
            flush=True,
        )

    def climb(self) -> None:
        """A bundled task from prompt to LoRA on this device, through the command a user would type."""
        name = "tickets"
        task = copy_bundled(name, self.scratch / "climb")
        if self.device != "cuda":
            settings = (task / "task.toml").read_text(encoding="utf-8")
            write_text(task / "task.toml", f'{settings}\n[model]\nbase = "{self.model}"\n')
        command = [
            *(sys.executable, "-m", "stepladder.interfaces.cli.main", "climb", str(task), "--json"),
            *("--device", self.device, "--budget-minutes", f"{self.plan.climb_minutes:g}"),
        ]
        began = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            self.not_run.append(
                f"the climb of {name}: exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
            )
            return
        seconds = time.monotonic() - began
        sentence = json.loads(done.stdout)["verdict"]["sentence"]
        print(f"Climbed {name} in {seconds:.0f} s: {sentence}", flush=True)
        if self.device == "cuda":
            self.results.add("gpu", {"climb": name, "seconds": seconds, **describe_machine(BENCHMARKS.parent)})

    def summary(self) -> str:
        return "\n".join(f"Not run: {line}" for line in self.not_run)

    def _figures(self, one: Measurement, found: dict[str, Any]) -> dict[str, Any]:
        tokens = found["tokens"] / found["seconds"]
        step = work_of_rows([(one.length, one.length // 4)])
        flops = useful_flops(self.plan.shape, step) / step.tokens * tokens
        return {
            "tokens_per_second": tokens,
            "useful_tflops": flops / 1e12,
            "fraction_of_gemm_ceiling": flops / self.ceiling,
            "peak_bytes": found.get("gpu_allocated_bytes", found["peak_memory_bytes"]),
            "reserved_bytes": found.get("gpu_reserved_bytes"),
            "warm_up_seconds": found["warm_up_seconds"],
            "job_hours": job_hours(tokens),
            "weights": "random, of the usual spread: speed and memory only",
            "versions": found["versions"],
            "machine": describe_machine(BENCHMARKS.parent),
        }

    def _child(self, system: str, order: dict[str, Any], *, what: str) -> dict[str, Any]:
        order_file, answer_file = self.scratch / "order.json", self.scratch / "answer.json"
        answer_file.unlink(missing_ok=True)
        common = {
            "system": system,
            "device": self.device,
            "model": str(self.model),
            "quantised": False,
            "answer": str(answer_file),
        }
        order_file.write_text(json.dumps({**common, **order}), encoding="utf-8")
        command = [str(interpreter("main" if system == "stepladder" else system)), "-m", MODULES[system], str(order_file)]
        return run_child(command, answer_file, PATIENCE_SECONDS, what=what)


def write_random_model(order: dict[str, Any]) -> dict[str, Any]:
    """A llama of the order's shape with weights drawn as for a fresh training (never zeros: products of zeros run faster)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, target = Shape(**order["shape"]), Path(order["target"])
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head_size,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(order["device"]):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(target, safe_serialization=True)
    for path in Path(order["tokenizer"]).glob("*token*.json"):
        shutil.copyfile(path, target / path.name)
    for path in Path(order["tokenizer"]).glob("*.jinja"):
        shutil.copyfile(path, target / path.name)
    return {"weights": sum(parameter.numel() for parameter in model.parameters())}
