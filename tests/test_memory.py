"""Loading in 8 bits never holds the float model: measured on a checkpoint of more than 1 GB, in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.loading import MARGIN, write_checkpoint
from benchmarks.rows import ROOT
from lacos_st.quantizer import SLAB_BYTES


@pytest.mark.slow
def test_peak_while_loading_a_sharded_bf16_checkpoint(tmp_path: Path) -> None:
    """Both the process's own memory and that with the checkpoint's memory-mapped pages."""
    sizes = write_checkpoint(tmp_path)
    assert sizes["checkpoint_bytes"] > 1e9
    command = [sys.executable, "-m", "benchmarks.loading", "--child", "8bit", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["model_bytes"] < sizes["checkpoint_bytes"] * 0.51
    assert 0.9 * loaded["model_bytes"] < loaded["peak_anonymous_bytes"]  # the measurement sees the model at all
    # beside the model a slab of a tensor, not the whole of it (the embedding's 490 MiB)
    assert sizes["largest_tensor_bytes"] > 4 * SLAB_BYTES
    assert loaded["peak_resident_bytes"] <= (loaded["model_bytes"] + SLAB_BYTES) * MARGIN
    # what stays is the model: holes that temporaries leave between its codes are given back
    assert loaded["anonymous_bytes"] <= loaded["model_bytes"] * 1.05
