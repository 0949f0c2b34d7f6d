from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from lacos_st.heap import keep_freed_memory, return_freed_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(48 * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

stock = faults(4)
keep_freed_memory()
faults(1)
kept = faults(4)
return_freed_memory()
print(stock, kept, faults(4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_pages_are_kept_between_blocks_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    stock, kept, after = (int(count) for count in done.stdout.split())
    if stock < 4 * 48 * 2**20 // 4096 // 2:
        pytest.skip("this system faults in huge pages, or has another C library")
    assert kept < stock / 10
    assert after > stock / 2
