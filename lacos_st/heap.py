"""Keep the memory that a training step frees for the next: on a CPU fresh pages can cost more than the work on them.

glibc hands large blocks back to the system as soon as they are freed, and the next step gets new, zeroed pages, one
fault for each 4 KiB: a tenth of a training step's time. Other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEEP = 2**31 - 1  # the largest value that mallopt takes
GLIBC_LARGEST = 32 * 2**20  # where glibc's own, adapting threshold ends; the trim threshold is twice it


def keep_freed_memory() -> None:
    """Have this process keep what it frees, until `return_freed_memory`."""
    _set(mmap_threshold=KEEP, trim_threshold=KEEP)


def return_freed_memory() -> None:
    """Give back what is free, and from now on large blocks as soon as they are freed, as glibc does by itself."""
    _set(mmap_threshold=GLIBC_LARGEST, trim_threshold=2 * GLIBC_LARGEST)
    trim()


def trim() -> None:
    """Give back the pages that are free now, those in holes between live blocks too."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _set(*, mmap_threshold: int, trim_threshold: int) -> None:
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, mmap_threshold)
        library.mallopt(M_TRIM_THRESHOLD, trim_threshold)
