"""One line of bitsandbytes is left out while the package is imported, and nothing else."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging, sys
before = "bitsandbytes" in sys.modules
import lacos_st.hush
from lacos_st import hush
logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
assert not before and "bitsandbytes" in sys.modules
print("left:", logger.filters)
logger.addFilter(hush._other)
logger.warning("Failed to load CPU gemm_4bit_forward from %s", "somewhere")
logger.warning("something else")
hush.speak()
logger.warning("Failed to load CPU gemm_4bit_forward again")
"""


def test_importing_says_nothing_and_leaves_the_logger_as_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == "left: []\n"
    assert done.stderr.splitlines() == ["something else", "Failed to load CPU gemm_4bit_forward again"]
