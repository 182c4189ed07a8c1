from __future__ import annotations

import json
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import json, resource, torch
from stepladder.training.memory import reused_memory

def faults_of_twenty_large_tensors():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults_of_twenty_large_tensors()
with reused_memory():
    inside = faults_of_twenty_large_tensors()
print(json.dumps([before, inside, faults_of_twenty_large_tensors()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library is Linux's")
def test_large_tensors_take_their_pages_once_inside_and_anew_outside() -> None:
    # In a process of its own: what earlier tests left on the heap decides where a tensor goes.
    child = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    before, inside, after = json.loads(child.stdout)
    assert inside < before / 2
    assert after > 2 * inside
