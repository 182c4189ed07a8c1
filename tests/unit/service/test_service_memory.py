from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from stepladder.domain.protocols import Choices, ModelIdentity
from stepladder.domain.task import LoraSettings
from stepladder.engines.transformers.engine import BatchLimits
from stepladder.models.shape import ModelShape, shape_of
from stepladder.service.memory import Memory, memory_lines, predict_memory
from stepladder.service.workload import Workload
from stepladder.training.adapters import adapted, adapter_tensors
from stepladder.training.presets import TrainSettings, choose_settings

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, vocab_size=300
)
WORK = Workload(96, 19, 77, 64, 1, 213, 45, 42, 88, 5, 4, longest_input_tokens=90, longest_answer_tokens=60)
RUNGS = ("prompt", "few-shot", "lora")
STARTER = ModelShape(134_515_008, 2, 30, 576, 1536, 9, 3, 64, 49_152)


def tiny() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        return LlamaForCausalLM(CONFIG)


def settings_of(shape: ModelShape, **wanted: int) -> TrainSettings:
    return choose_settings(
        LoraSettings(**wanted), rows=77, hidden=shape.hidden, layers=shape.layers, model_type="llama", context_tokens=2048, seed=0
    )


def test_a_shape_counts_keys_values_and_adapter_parameters_as_transformers_and_peft_do() -> None:
    model = tiny()
    shape = shape_of(model.config, parameters=model.num_parameters(), bytes_per_number=4, device="cpu")
    cache = model(torch.arange(7)[None], use_cache=True).past_key_values
    assert 7 * shape.token_bytes == sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    with adapted(model, settings_of(shape, rank=5)) as wrapped:
        trained = sum(tensor.numel() for tensor in adapter_tensors(wrapped).values())
    assert shape.adapter_parameters(5) == trained


@given(st.sampled_from(["layers", "hidden", "vocabulary", "heads"]), st.integers(2, 8))
def test_a_larger_model_needs_more(name: str, times: int) -> None:
    larger = replace(STARTER, **{name: times * getattr(STARTER, name)})
    small, large = (
        predict_memory(shape, BatchLimits(), WORK, Choices(), RUNGS, replace(settings_of(STARTER), tokens_per_pass=4096))
        for shape in (STARTER, larger)
    )
    assert large.answering >= small.answering
    assert large.training >= small.training
    assert large.peak - large.weights >= small.peak - small.weights


def test_a_small_model_answers_from_a_copy_of_its_weights_and_a_large_one_only_its_output_layer_does() -> None:
    output = 2 * STARTER.vocabulary * STARTER.hidden
    norms = (2 * STARTER.layers + 1) * STARTER.hidden
    assert STARTER.laid_out_bytes == 2 * (STARTER.parameters - norms)  # its input layer is its output layer
    assert replace(STARTER, layers=300).laid_out_bytes == output


def test_what_is_not_planned_needs_no_memory() -> None:
    def need(rungs: tuple[str, ...], *, tuned: bool = True) -> Memory:
        return predict_memory(STARTER, BatchLimits(), WORK, Choices(), rungs, settings_of(STARTER) if tuned else None)

    assert need(("prompt",), tuned=False).training == 0
    assert (
        need(("prompt",)).answering <= need(("prompt", "few-shot")).answering < need(("prompt", "few-shot", "nearest")).answering
    )
    assert need(("lora",)).training < need(("lora", "lora+nearest")).training < need(("lora", "lora+rag")).training
    alone = need(("prompt",))
    assert alone.peak == alone.process + 2 * 134_515_008 + STARTER.laid_out_bytes + max(alone.answering, alone.training)


def test_tokens_that_have_no_room_need_less_memory_since_their_layers_are_computed_twice() -> None:
    def need(room: int | None) -> int:
        return predict_memory(STARTER, BatchLimits(), WORK, Choices(), RUNGS, settings_of(STARTER), room).training

    assert need(None) == need(10_000) > 2 * need(0)
    shared, passed = WORK.shared_tokens, 4 * (WORK.longest_input_tokens + WORK.longest_answer_tokens)
    some = need(int(passed + shared / 4) + 1)  # the shared beginning gives way, the passes below it do not
    assert need(0) == need(passed) < some < need(None) == need(int(passed + shared))


def test_an_accelerator_holds_no_process_and_says_so() -> None:
    memory = predict_memory(replace(STARTER, device="cuda"), BatchLimits(), WORK, Choices(), RUNGS, settings_of(STARTER))
    assert memory.process == 0
    assert "of the accelerator's at the peak" in next(memory_lines(memory, ModelIdentity("m", "transformers"), 10))


def test_memory_that_is_not_there_is_said_beforehand_and_an_unknown_one_too() -> None:
    memory = Memory(process=2**29, weights=2**28, answering=2**30, training=3 * 2**30)
    identity = ModelIdentity("some-model", "endpoint")
    assert list(memory_lines(memory, identity, 4 * 2**30)) == [
        "Memory: about 3.8 GiB at the peak (256 MiB weights; answering takes 1.0 GiB, training 3.0 GiB more)."
    ]
    assert "only 2.0 GiB are free beside the model" in list(memory_lines(memory, identity, 2 * 2**30))[1]
    assert len(list(memory_lines(memory, identity, None))) == 1
    assert list(memory_lines(None, identity, None)) == ["Memory: not known; 'some-model' does not run in this process."]


STEP = """
import json, random, sys
from dataclasses import replace
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from stepladder.domain.protocols import Choices
from stepladder.domain.task import LoraSettings
from stepladder.engines.transformers.engine import BatchLimits
from stepladder.models.prefix.paths import FusedPath
from stepladder.models.prefix.rows import EncodedRow
from stepladder.models.shape import shape_of
from stepladder.service.memory import predict_memory
from stepladder.service.workload import Workload
from stepladder.training.adapters import adapted
from stepladder.training.loop import build_optimizer
from stepladder.training.presets import choose_settings
room = None if sys.argv[1] == "None" else int(sys.argv[1])
config = LlamaConfig(hidden_size=512, intermediate_size=1408, num_hidden_layers=16, num_attention_heads=8, num_key_value_heads=8,
                     vocab_size=1000)
model = LlamaForCausalLM(config).eval()
draw = random.Random(0)
shared = tuple(draw.randrange(3, 900) for _ in range(600))
rows = [EncodedRow(f"row-{number}", shared + tuple(draw.randrange(3, 900) for _ in range(100)), (0.0,) * 690 + (1.0,) * 10)
        for number in range(16)]
wanted = LoraSettings(tokens_per_pass=800, batch_size=16, rank=8)
settings = choose_settings(wanted, rows=16, hidden=512, layers=16, model_type="llama", context_tokens=4096, seed=0)
work = Workload(16, 4, 16, 4, 1, 600, 90, 10, 10, 1, 16, longest_input_tokens=90, longest_answer_tokens=10)
shape = shape_of(config, parameters=model.num_parameters(), bytes_per_number=4, device="cpu")
predicted = predict_memory(shape, BatchLimits(), work, Choices(), ("lora",), settings, room).training
now = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = now()
with adapted(model, settings) as wrapped:
    path, optimizer = FusedPath(wrapped.get_base_model(), room=room), build_optimizer(wrapped, settings)
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(2):
        path.backward_loss(rows, tokens_per_pass=800)
        optimizer.step()
        optimizer.zero_grad()
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"predicted": predicted, "grown": int(peak.split()[1]) * 1024 - before}))
"""


MEASURE = """
import json, resource, sys
from pathlib import Path
from small_tasks import write_task
from stepladder.domain.task import Task
from stepladder.engines.transformers.engine import TransformersEngine
from stepladder.models.loading import load
from stepladder.service.climb import climb
from stepladder.service.setup import Tools
from stepladder.techniques.fake import FakeEmbedder
from stepladder.training.tuner import LoraTuner
from tiny_model import build_tiny_model
folder = Path(sys.argv[1])
model = load(str(build_tiny_model(folder / "model", hidden=512, layers=8)), device="cpu", dtype="float32")
write_task(folder / "task", 130, rungs='skip = ["classifier", "lora+constrained", "lora+nearest", "nearest"]')
finished = climb(folder / "task", tools=Tools(TransformersEngine(model), LoraTuner(model), FakeEmbedder()), budget_minutes=2)
plan = json.loads((finished.folder / "climb.json").read_text())["plan"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"memory": plan["memory"], "peak": peak}))
"""


@pytest.mark.long
def test_the_predicted_peak_is_near_the_real_one(tmp_path: Path) -> None:
    """Loosely: from half to twice of what a climb in a process of its own took."""
    helpers = str(Path(__file__).parents[2] / "helpers")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])}
    environment["STEPLADDER_CACHE"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    memory = Memory(**found["memory"])
    assert found["peak"] / 2 <= memory.peak <= 2 * found["peak"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("room", [None, 900, 0])
def test_the_predicted_memory_of_a_training_is_that_of_a_real_step(room: int | None) -> None:
    """Rows of 600 shared tokens and 100 own ones, in passes of 800, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", STEP, str(room)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 <= found["predicted"] / found["grown"] <= 1.35, found
