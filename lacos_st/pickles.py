"""The stock trainer's own files in a checkpoint: pickles, of which only plain tensors and numbers are let through."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from lacos_st.errors import UserError

NEEDED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")
OPTIONAL = ("scaler.pt",)
OF_PROCESSES = "rng_state_*.pth"
"""What resuming opens, with `torch.load(weights_only=True)`; of several processes each its own random numbers.
training_args.bin is written and never opened."""

NUMPY = {"numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "numpy.dtypes.UInt32DType"}
"""What rng_state.pth holds besides, numpy's generator state: transformers lets torch load these too."""


def check_pickles(folder: Path) -> None:
    """That the pickles which resuming opens are whole, plain and no larger in memory than on disk.

    torch would refuse to run what such a pickle asks for (`weights_only=True`); here it is refused unopened, by name.

    Args:
        folder: A checkpoint of the trainer's.

    Raises:
        UserError: One is damaged, compressed (torch writes none so), or names anything that would be called.
    """
    for file in (*(folder / name for name in (*NEEDED, *OPTIONAL)), *sorted(folder.glob(OF_PROCESSES))):
        if not file.is_file():
            continue
        try:
            with zipfile.ZipFile(file) as archive:
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is damaged")
                if packed := [entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]:
                    raise ValueError(f"{packed[0].filename} is compressed, which torch does not write")
            unsafe = {*torch.serialization.get_unsafe_globals_in_checkpoint(str(file))} - NUMPY
        except Exception as error:  # damaged archives and pickles raise what they like
            raise UserError(
                f"{file} is broken ({' '.join(str(error).split())[:200]}): delete the checkpoint's folder to resume "
                "from the one before it, or train anew with --overwrite"
            ) from error
        if unsafe:
            raise UserError(
                f"{file} is a pickle that asks for {', '.join(sorted(unsafe))[:200]} to be called, which the trainer's "
                "own never does: it is not opened. Do not use this checkpoint"
            )
