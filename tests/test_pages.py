"""Giving back pages changes no value, and does give them back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lacos_st.pages import release_pages


def mapped_bytes() -> int:
    """Resident pages of files, of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile"))


def test_values_stay() -> None:
    for tensor in (torch.randn(300, 1000), torch.randn(3), torch.randn(40, 50).T, torch.zeros(0)):
        before = tensor.clone()
        release_pages(tensor)
        assert torch.equal(tensor, before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the advice is Linux's")
def test_a_read_file_leaves_memory(tmp_path: Path) -> None:
    size = 64 * 2**20
    values = torch.arange(size // 4, dtype=torch.int32)
    save_file({"a": values}, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        tensor = file.get_tensor("a")
        assert torch.equal(tensor, values)
        read = mapped_bytes()
        release_pages(tensor)
        assert mapped_bytes() < read - 0.9 * size
        assert torch.equal(tensor, values)
