"""The 8-bit block format against bitsandbytes' own functions, and its error bounds."""

from __future__ import annotations

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lacos_st.blockwise import CODES, code_table, dequantize, quantization_error, quantize


@pytest.mark.parametrize("block_size", [64, 256, 512])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bit_equal_to_bitsandbytes(block_size: int, code: str, dtype: torch.dtype) -> None:
    weight = torch.randn(48, 1024, generator=torch.Generator().manual_seed(0)).mul(0.02).to(dtype)
    table = bnb.create_dynamic_map() if code == "dynamic" else bnb.create_linear_map()
    theirs, state = bnb.quantize_blockwise(weight, code=table, blocksize=block_size)
    codes, absmax = quantize(weight, block_size=block_size, code=code)
    assert torch.equal(codes, theirs)
    assert torch.equal(absmax.flatten(), state.absmax)
    assert codes.dtype == torch.uint8
    assert absmax.dtype == torch.float32
    assert torch.equal(
        dequantize(codes, absmax, block_size=block_size, code=code, dtype=dtype),
        bnb.dequantize_blockwise(theirs, state),
    )


@pytest.mark.parametrize("code", CODES)
def test_bit_equal_wherever_the_code_changes(code: str) -> None:
    """Each step from one code to the next, 1,000 floats on either side of it: that fixes the function everywhere."""
    table = code_table(code)
    middles = (0.5 * (table[:-1] + table[1:])).clamp(-0.999, 0.999)
    grid = ((middles.double() + 1) * 32767.5).round() / 32767.5 - 1 + torch.tensor([[-0.5], [0.5], [1.5]]) / 32767.5
    near = grid.float().view(torch.int32).flatten()[:, None] + torch.arange(-1000, 1001, dtype=torch.int32)
    values = torch.cat([near.view(torch.float32).flatten().clamp(-1, 1), torch.ones(1)])[None]
    theirs, _ = torch.ops.bitsandbytes.quantize_blockwise.default(values, table, values.numel())
    codes, _ = quantize(values, block_size=values.numel(), code=code)
    assert len(codes.unique()) > 245  # the walk did cross the steps
    assert torch.equal(codes, theirs)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads: int) -> None:
    """More blocks than one thread takes at a time, shares that do not divide evenly, a zero block among them."""
    weight = torch.randn(501, 1024, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight[77] = 0
    theirs, state = bnb.quantize_blockwise(weight, code=bnb.create_dynamic_map(), blocksize=256)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            codes, absmax = quantize(weight)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(codes, theirs)
    assert torch.equal(absmax.flatten(), state.absmax)
    codes.zero_()  # an ordinary tensor, not one that only inference mode may change


def test_blocks_too_small_to_scale_become_zeros() -> None:
    weight = torch.tensor([[1e-40, 0.0, -1e-41, 0.0], [1e-30, 0.0, -1e-31, 0.0]])
    stored = dequantize(*quantize(weight, block_size=4), block_size=4, code="dynamic")
    assert torch.all(stored[0] == 0)
    assert torch.allclose(stored[1], weight[1], rtol=0.02, atol=1e-34)


def test_relative_rms_on_gaussian_weights() -> None:
    weight = torch.randn(512, 4096, generator=torch.Generator().manual_seed(0)) * 0.02
    assert quantization_error(weight, block_size=256).relative_rms <= 0.011
    assert quantization_error(weight, block_size=256, code="linear").relative_rms <= 0.0072  # stack.md: 0.70 %


def test_outlier_columns_favour_the_dynamic_code() -> None:
    weight = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    weight[:, ::256] *= 20
    assert quantization_error(weight).relative_rms < quantization_error(weight, code="linear").relative_rms


def test_bytes_per_weight() -> None:
    codes, absmax = quantize(torch.randn(64, 4096), block_size=256)
    assert (codes.nbytes + absmax.nbytes) / codes.numel() <= 1.02


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    blocks=st.integers(1, 4),
    block_size=st.sampled_from([1, 2, 16, 64, 256]),
    scale=st.floats(1e-6, 1e4),
    code=st.sampled_from(CODES),
    seed=st.integers(0, 2**31),
)
def test_error_bound_per_block(rows: int, blocks: int, block_size: int, scale: float, code: str, seed: int) -> None:
    """A value is off by at most half the widest gap of the table, or by the table's short end, times absmax.

    bitsandbytes' CPU kernel misses the nearest code of about one value in a thousand, by up to 3e-5 of absmax.
    """
    weight = torch.randn(rows, blocks * block_size, generator=torch.Generator().manual_seed(seed)) * scale
    codes, absmax = quantize(weight, block_size=block_size, code=code)
    difference = dequantize(codes, absmax, block_size=block_size, code=code) - weight
    table = code_table(code)
    bound = max(table.diff().max().item() / 2, 1 + table.min().item()) + 5e-5
    worst = difference.abs().view(rows, blocks, block_size).amax(-1)
    assert torch.all(worst <= bound * absmax + 1e-30)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), block_size=st.sampled_from([1, 16, 256]))
def test_linear_code_is_idempotent(seed: int, block_size: int) -> None:
    """Values, not codes: bitsandbytes' linear table holds zero twice."""
    weight = torch.randn(4, 512, generator=torch.Generator().manual_seed(seed))
    options = {"block_size": block_size, "code": "linear"}
    codes, absmax = quantize(weight, **options)
    once = dequantize(codes, absmax, **options)
    codes, absmax_again = quantize(once, **options)
    assert torch.equal(absmax, absmax_again)
    assert torch.allclose(dequantize(codes, absmax, **options), once, rtol=0, atol=1e-6)


def test_zero_block_stays_zero() -> None:
    weight = torch.zeros(2, 512)
    weight[0, 300] = 1.0
    stored = dequantize(*quantize(weight), block_size=256, code="dynamic")
    assert torch.all(stored[1] == 0) and torch.all(stored[0, :256] == 0)
    assert stored[0, 300] == 1
    assert (stored - weight).abs().max() < 3e-5  # bitsandbytes' CPU kernel gives a lone zero a code beside zero's
    assert quantization_error(torch.zeros(1, 256)).relative_rms == 0


@pytest.mark.parametrize("rows", [2, 400])  # in one thread's piece, and in the last piece of many
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inf_and_nan_are_refused(bad: float, dtype: torch.dtype, rows: int) -> None:
    weight = torch.ones(rows, 256, dtype=dtype)
    weight[-1, 17] = bad
    with pytest.raises(ValueError, match=r"mlp.weight holds inf or nan"):
        quantize(weight, name="mlp.weight")


def test_bad_arguments_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="770 of layer is not a multiple of block size 256: choose a divisor of 770"):
        quantize(torch.zeros(2, 770), name="layer")
    with pytest.raises(ValueError, match="choose one of dynamic, linear"):
        quantize(torch.zeros(2, 256), code="nf4")
    with pytest.raises(ValueError, match="expected a float matrix"):
        quantize(torch.zeros(256))
