"""What the machine has left: memory that a run may take."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
"""Version 2, as containers see it: the limit of the container, which the system's own figures do not show."""


def training_device(*, cpu: bool) -> str:
    """Where a run trains: "cuda" where there is a GPU and the CPU is not asked for, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() and not cpu else "cpu"


def available_bytes(device: str) -> int | None:
    """Memory that is free for a run; None where the system does not say.

    Args:
        device: "cuda" for the current GPU; anything else for the machine's memory, within a container's limit.
    """
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    found = [free for free in (_free(), _left_in_container()) if free is not None]
    return min(found, default=None)


def _free() -> int | None:
    try:
        lines = dict(line.split(":") for line in MEMINFO.read_text(encoding="utf-8").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return None


def _left_in_container() -> int | None:
    """Limit less use, where there is a limit; pages of files count as free, as the system takes them back."""
    try:
        limit = int((CGROUP / "memory.max").read_text(encoding="utf-8"))  # "max" is no number, and no limit
        used = int((CGROUP / "memory.current").read_text(encoding="utf-8"))
        pages = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        return max(0, limit - used + int(pages.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None
