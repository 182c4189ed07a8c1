from __future__ import annotations

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, resource, torch
from pathlib import Path
from stepladder.training.memory import reused_memory

def faults_of_twenty_large_tensors():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])

before = faults_of_twenty_large_tensors()
resident_before = resident_pages()
with reused_memory():
    faults_of_twenty_large_tensors()  # until the free blocks lie where the next ones go
    inside = faults_of_twenty_large_tensors()
    kept = resident_pages() - resident_before
print(json.dumps({"faults": [before, inside], "kept": kept, "left": resident_pages() - resident_before}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library is Linux's")
def test_large_tensors_take_their_pages_once_inside_and_give_them_back_outside() -> None:
    # In a process of its own: what earlier tests left on the heap decides where a tensor goes.
    child = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    measured = json.loads(child.stdout)
    before, inside = measured["faults"]
    assert inside < before / 100
    assert measured["kept"] > 10 * measured["left"]
