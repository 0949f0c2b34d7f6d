"""`PeakMemory`: the most memory that a run took, as the system or the GPU counted it."""

from __future__ import annotations

from pathlib import Path

from lacos_st.recipe.machine import training_device

STATUS = Path("/proc/self/status")
"""Of Linux, which keeps the resident peak of a process exactly (VmHWM)."""
KIB = 1024


class PeakMemory:
    """Begins to count where it is made; asked at the end of a run.

    Args:
        cpu: count the memory of this process; otherwise, where there is a GPU, what torch allocates on it.
    """

    def __init__(self, *, cpu: bool) -> None:
        self._on_gpu = training_device(cpu=cpu) == "cuda"
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before: int | None = torch.cuda.memory_allocated()
        else:
            self._before, self._highest = _status("VmRSS"), _status("VmHWM")

    def figures(self) -> dict[str, int | str]:
        """`measured` (what is counted), `peak_bytes`, and `before_bytes` that stood when counting began.

        In this process's memory Python, its libraries, and what the heap holds for reuse are counted too. Nothing where
        the system does not say, or where something before the run took more: its own peak is then not known.
        """
        if self._on_gpu:
            import torch

            return _figures("allocated on the GPU", torch.cuda.max_memory_allocated(), self._before)
        peak = _status("VmHWM")
        if peak is None or self._highest is None or peak <= self._highest:
            return {}
        return _figures("resident", peak, self._before)


def _figures(measured: str, peak: int, before: int | None) -> dict[str, int | str]:
    return {"measured": measured, "peak_bytes": peak, **({} if before is None else {"before_bytes": before})}


def _status(name: str) -> int | None:
    """Bytes of a line of `STATUS`; None where it is not there."""
    try:
        lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines())
        return int(lines[name].split()[0]) * KIB
    except (OSError, ValueError, KeyError, IndexError):
        return None
