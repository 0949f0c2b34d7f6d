from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
from pathlib import Path
import torch
from lacos_st.heap import keep_freed_memory, return_freed_memory

SIZE = 48 * 2**20

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

stock = faults(16)
keep_freed_memory()
faults(2)
kept = faults(16)
held = resident()
return_freed_memory()
print(stock, kept, held - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_pages_are_kept_between_blocks_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    stock, kept, returned = (int(count) for count in done.stdout.split())
    block = 48 * 2**20 // 4096
    if stock < 16 * block // 2:
        pytest.skip("this system faults in huge pages, or has another C library")
    assert kept < stock / 4  # none as a rule; a block or two where the heap has to move
    assert returned > block / 2
