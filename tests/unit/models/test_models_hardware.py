"""What the machine has, said once and remembered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stepladder.domain.errors import UsageError
from stepladder.models import hardware


def test_the_probe_describes_this_machine(own_cache):
    found = hardware.probe("cpu")
    assert found.device == "cpu"
    assert found.dtype in ("float32", "bfloat16")
    assert 1 <= found.cpus <= (os.cpu_count() or 1)
    assert found.cpu
    assert found.memory_available_bytes is None or 0 < found.memory_available_bytes < 2**50
    total = hardware.memory_total_bytes()
    assert total is None or (found.memory_available_bytes or 0) <= total < 2**50
    assert found.accelerator == ""


def test_auto_takes_the_best_device_that_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert hardware.choose_device("auto") == expected


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no 'cuda' that torch can use"):
        hardware.choose_device("cuda")
    with pytest.raises(UsageError, match="'npu' is no device"):
        hardware.choose_device("npu")


@pytest.mark.parametrize(("speedup", "dtype"), [(0.4, "float32"), (1.1, "float32"), (1.3, "bfloat16"), (4.0, "bfloat16")])
def test_bf16_is_taken_where_it_is_clearly_faster(own_cache, monkeypatch, speedup, dtype):
    monkeypatch.setattr(hardware, "bf16_speedup", lambda: speedup)
    assert hardware.choose_dtype("cpu") == dtype
    assert hardware.choose_dtype("mps") == "float32"


def test_the_number_format_asked_for_wins_over_the_environment_and_that_over_the_probe(own_cache, monkeypatch):
    monkeypatch.setattr(hardware, "bf16_speedup", lambda: 9.0)
    monkeypatch.setenv("STEPLADDER_DTYPE", "float16")
    assert hardware.choose_dtype("cpu") == "float16"
    assert hardware.choose_dtype("cpu", "float32") == "float32"
    with pytest.raises(UsageError, match="'int8' is no number format"):
        hardware.choose_dtype("cpu", "int8")


def test_the_speed_is_measured_once_for_a_processor_and_a_torch(own_cache, monkeypatch):
    answers = iter([2.5, 3.5])
    assert hardware.bf16_speedup(lambda: next(answers)) == 2.5
    assert hardware.bf16_speedup(lambda: next(answers)) == 2.5
    monkeypatch.setattr(hardware, "cpu_model", lambda: "another processor")
    assert hardware.bf16_speedup(lambda: next(answers)) == 3.5
    assert sorted(json.loads((own_cache / "machine.json").read_text()).values()) == [2.5, 3.5]


@pytest.mark.parametrize("content", ["", "[]", '{"x": "fast"}'])
def test_a_damaged_note_of_the_speed_is_measured_anew(own_cache, content):
    own_cache.mkdir()
    (own_cache / "machine.json").write_text(content, encoding="utf-8")
    assert hardware.bf16_speedup(lambda: 1.5) == 1.5


def test_the_measurement_is_a_positive_ratio():
    assert 0.01 < hardware._measure_bf16_speedup() < 100


def test_the_light_half_of_the_room_starts_without_torch():
    heavy = {"adapter", "dequantise", "four_bit", "hub", "loading"}
    light = [path.stem for path in Path(hardware.__file__).parent.glob("*.py") if path.stem not in {*heavy, "__init__"}]
    assert {"pull", "conversation", "embedder"} <= set(light)
    code = f"import sys\nfor name in {light}: __import__('stepladder.models.' + name)\n"
    code += "print(sorted({'torch', 'transformers', 'peft', 'huggingface_hub'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
