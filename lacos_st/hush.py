"""Imported before bitsandbytes is: leaves out its line about a 4-bit kernel that it did not find.

Nothing here uses that kernel, and every command would begin with the line. Until `speak`; no other line is touched.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("bitsandbytes.backends.cpu.ops")
"""Of the module that looks for the kernel when it is imported, on CPUs with AVX512-BF16."""


def _other(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in str(record.msg)


def speak() -> None:
    """Leave nothing out any more."""
    LOGGER.removeFilter(_other)


LOGGER.addFilter(_other)
