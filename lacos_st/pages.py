"""Give back the memory-mapped pages of a checkpoint once they have been read."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch

MADV_PAGEOUT = 21
"""Linux 5.4's advice to reclaim pages now. What is mapped stays readable and keeps its values: a page of a file is
read again if it is touched, one of anonymous memory is swapped or left alone."""


def release_pages(tensor: torch.Tensor) -> None:
    """Advise the system that a CPU tensor will not be read again soon; nothing happens where it takes no such advice.

    Args:
        tensor: contiguous; only the pages that lie wholly within it are given back.
    """
    if not sys.platform.startswith("linux") or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(MADV_PAGEOUT))
