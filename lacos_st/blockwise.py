"""Block-wise 8-bit storage of a tensor: one absmax and B one-byte codes for every B neighbouring values of a row.

A code points into a table of 256 values in [-1, 1]; a value is `table[code] · absmax`. Storage only: products are
done in 16- or 32-bit floats on the de-quantised tensor. Source: Dettmers et al., "8-bit Optimizers via Block-wise
Quantization" (ICLR 2022), sections 2.1 and 2.2; the kernels and the dynamic table are bitsandbytes'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch

from lacos_st.upstream import code_map, dequantize_blockwise, quantize_blockwise

BLOCK_SIZE = 256
"""Default block: it divides the width of every published BLOOM, so that no block straddles two rows."""

CODES = ("dynamic", "linear")
"""Known tables. "dynamic" spends its codes near zero (0 and seven decades), which survives outlier columns; "linear",
k/127 (absmax int8), is more accurate where a block has no outlier."""

LEVELS = 65536
"""Into how many steps bitsandbytes' CPU kernel rounds [-1, 1] before it looks the code up."""

CHUNK_VALUES = 2**15
"""Values that one thread quantises at a time: they stay in its cache, and torch does not split so few any further."""


@dataclass(frozen=True)
class BlockwiseError:
    """How far a stored tensor is from the original.

    Attributes:
        relative_rms: root mean square of the difference over that of the original (the Frobenius norms' ratio), 0 for a
            zero tensor.
        max_abs: largest difference, in the tensor's own unit.
        relative_max: `max_abs` over the largest magnitude of the original, 0 for a zero tensor.
    """

    relative_rms: float
    max_abs: float
    relative_max: float


@cache
def code_table(code: str, device: torch.device | str = "cpu") -> torch.Tensor:
    """The 256 values that codes stand for, float32 (256,), ascending.

    Raises:
        ValueError: `code` is not one of `CODES`.
    """
    if code not in CODES:
        raise ValueError(f"code={code!r} is unknown: choose one of {', '.join(CODES)}")
    return code_map(code).to(device)


def fitting_block(widths: Iterable[int], *, at_most: int = BLOCK_SIZE) -> int:
    """The largest block of at most `at_most` values that divides every width.

    >>> fitting_block([576, 1536])  # SmolLM2-135M
    192
    """
    common = math.gcd(*widths)
    return max(size for size in range(1, min(max(1, at_most), common) + 1) if common % size == 0)


def check_block(columns: int, block_size: int, *, name: str = "tensor", widths: Iterable[int] = ()) -> None:
    """Blocks may not straddle rows.

    Args:
        columns: of the tensor.
        block_size: values that share an absmax.
        name: of the tensor, for the message.
        widths: of all tensors that are to be stored in these blocks, for the message: which block fits them all.

    Raises:
        ValueError: `columns` is not a multiple of `block_size`.
    """
    if block_size < 1 or columns % block_size:
        fitting = fitting_block([columns, *widths], at_most=block_size)
        raise ValueError(
            f"the width {columns} of {name} is not a multiple of block size {block_size}: choose a divisor of "
            f"{columns} (the next smaller block that fits {'every layer' if widths else 'it'} is {fitting}), or leave "
            "this layer out with skip=..."
        )


def quantize(
    tensor: torch.Tensor, *, block_size: int = BLOCK_SIZE, code: str = "dynamic", name: str = "tensor"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Store a matrix in 8 bits.

    Args:
        tensor: float32, bfloat16 or float16, (rows, columns), `columns` a multiple of `block_size`.
        block_size: values that share an absmax.
        code: "dynamic" or "linear", see `CODES`.
        name: of the tensor, for error messages.

    Returns:
        codes: uint8 (rows, columns); absmax: float32 (rows, columns / block_size).

    Raises:
        ValueError: a width that the block does not divide, inf or nan among the values, an unknown code, no matrix.
    """
    if tensor.ndim != 2 or not tensor.is_floating_point():
        raise ValueError(f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}: expected a float matrix")
    rows, columns = tensor.shape
    check_block(columns, block_size, name=name)
    table = code_table(code, tensor.device)
    tensor = tensor.detach().contiguous()
    if tensor.device.type == "cpu":
        codes, absmax, finite = _quantize_cpu(tensor, block_size=block_size, code=code)
    else:
        codes, absmax = quantize_blockwise(tensor, table, block_size)
        finite = bool(absmax.isfinite().all()) and not bool(tensor.amax().isnan())
    if not finite:
        raise ValueError(f"{name} holds inf or nan, which 8-bit blocks cannot store: the checkpoint is damaged")
    return codes, absmax.view(rows, columns // block_size)


@cache
def _nearest_codes(code: str) -> torch.Tensor:
    """The code nearest to each of `LEVELS` values from -1 to 1, uint8 (LEVELS,)."""
    table = code_table(code)
    values = -1.0 + 2.0 * torch.arange(LEVELS, dtype=torch.float32) / (LEVELS - 1)
    return torch.bucketize(values, 0.5 * (table[:-1] + table[1:])).to(torch.uint8)


def _quantize_cpu(tensor: torch.Tensor, *, block_size: int, code: str) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Codes (rows, columns), absmax (blocks,), and whether all values are finite (if not, the rest is unfinished).

    The results are those of bitsandbytes' CPU kernel, bit for bit, in a third of its processor time: that one starts
    a thread for each block. Here each of torch's threads takes its share of the blocks in pieces that fit its cache.
    """
    with torch.inference_mode(False):  # the caller may be in it, the threads below are not
        codes = torch.empty(tensor.shape, dtype=torch.uint8)
        absmax = torch.empty(tensor.numel() // block_size, dtype=torch.float32)
    share = max(-(-len(absmax) // torch.get_num_threads()), -(-CHUNK_VALUES // block_size))
    values = tensor.view(-1, block_size).split(share)
    parts = [
        (_nearest_codes(code),) * len(values),
        values,
        codes.view(-1, block_size).split(share),
        absmax.split(share),
    ]
    if len(values) == 1:
        return codes, absmax, all(map(_quantize_blocks, *parts))
    with ThreadPoolExecutor(len(values)) as pool:
        return codes, absmax, all(pool.map(_quantize_blocks, *parts))


def _quantize_blocks(nearest: torch.Tensor, values: torch.Tensor, codes: torch.Tensor, absmax: torch.Tensor) -> bool:
    """Fill in codes (n, block_size) and absmax (n,) of `values` (n, block_size); False if one is inf or nan."""
    step = max(1, CHUNK_VALUES // values.shape[1])
    scaled_like = torch.empty(min(step, len(values)), values.shape[1], dtype=torch.float32)
    magnitude_like, level_like = torch.empty_like(scaled_like), torch.empty_like(scaled_like, dtype=torch.int32)
    for piece, found, largest in zip(values.split(step), codes.split(step), absmax.split(step), strict=True):
        scaled, level = scaled_like[: len(piece)], level_like[: len(piece)]
        scaled.copy_(piece)
        torch.amax(torch.abs(scaled, out=magnitude_like[: len(piece)]), 1, out=largest)
        if not bool(largest.isfinite().all()):
            return False
        inverse = largest.reciprocal()
        empty = inverse.isinf()  # all zero, or so small that 1 / absmax overflows: stored as zeros
        scaled.mul_(inverse.masked_fill_(empty, 0.0)[:, None])
        level.copy_(scaled.add_(1.0).mul_(0.5 * (LEVELS - 1)).add_(0.5))
        torch.index_select(nearest, 0, level.view(-1), out=found.view(-1))
        if bool(empty.any()):
            found[empty], largest[empty] = 0, 0.0  # bitsandbytes' code of a zero block
    return True


def dequantize(
    codes: torch.Tensor,
    absmax: torch.Tensor,
    *,
    block_size: int,
    code: str,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """The values that `quantize` stored.

    Args:
        codes: uint8 (rows, columns).
        absmax: float32 (rows, columns / block_size).
        block_size: as at `quantize`.
        code: as at `quantize`.
        dtype: of the result: float32, bfloat16 or float16.

    Returns:
        (rows, columns) in `dtype`.
    """
    table = code_table(code, codes.device)
    return dequantize_blockwise(codes.contiguous(), absmax.contiguous(), table, block_size, dtype)


def quantization_error(
    tensor: torch.Tensor, *, block_size: int = BLOCK_SIZE, code: str = "dynamic", name: str = "tensor"
) -> BlockwiseError:
    """What storing a float matrix (rows, columns) in 8 bits would lose; arguments and errors as at `quantize`."""
    codes, absmax = quantize(tensor, block_size=block_size, code=code, name=name)
    original = tensor.float()
    difference = dequantize(codes, absmax, block_size=block_size, code=code).sub_(original)
    scale, rms = (values.square().mean().sqrt().item() for values in (original, difference))
    largest, worst = (values.abs().max().item() for values in (original, difference))
    return BlockwiseError(rms / scale if scale else 0.0, worst, worst / largest if largest else 0.0)
