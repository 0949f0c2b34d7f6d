"""The attention kernels for GPUs, as far as a machine without one can tell: what goes in, and which is chosen."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention

import lacos_st
from lacos_st import flex, kernels
from lacos_st.alibi import Alibi
from lacos_st.attention import attend
from lacos_st.kernels import CPU, FALLBACK, KERNELS, Request, choose, difference, try_out
from lacos_st.ragged import RaggedLayout, ragged_layout
from lacos_st.scoring import Scoring, with_all_heads
from lacos_st.sdpa import attend_by_autograd, attend_on_cpu
from lacos_st.varlen import attend_by_flash_attn, attend_by_torch_varlen, widened

CPU_DEVICE = torch.device("cpu")
REQUEST = Request(CPU_DEVICE, torch.float32, 4, 4, 16, 16, "exact", True, False)
LENGTHS = st.lists(st.sampled_from([0, 1, 2, 5, 127, 128, 129, 256, 300]), min_size=1, max_size=6).filter(sum)


def layout_of(lengths: list[int]) -> RaggedLayout:
    return ragged_layout(torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0))


def eager_flex(*args: Any) -> torch.Tensor:
    return flex.attend_by_flex(*args, kernel=flex_attention)


def dense_flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: RaggedLayout, scoring: Scoring
) -> torch.Tensor:
    """FlexAttention's definition, with the same score and mask functions, on all pairs: what its kernels compute.

    FlexAttention has no backward on a CPU; this has.
    """
    query, key, value = with_all_heads(query, key, value)
    head, q, k = torch.meshgrid(torch.arange(query.shape[1]), *[torch.arange(len(query))] * 2, indexing="ij")
    scores = scoring.scale * torch.einsum("qhd,khd->hqk", query, key)
    if scoring.bias is not None:
        scores = flex.bias_mod(layout, scoring.bias)(scores, 0, head, q, k)
    mask = flex.block_mask(layout, is_causal=scoring.causal).mask_mod(0, head, q, k)
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, -math.inf).softmax(-1), value)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(max_examples=15, deadline=None)
@given(lengths=LENGTHS, alibi=st.sampled_from(["exact", "reference", None]), causal=st.booleans(), shared=st.booleans())
def test_flex_is_the_reference(lengths: list[int], alibi: str | None, causal: bool, shared: bool) -> None:
    torch.manual_seed(0)
    layout = layout_of(lengths)
    key_heads = 2 if shared else 4
    query, key, value = (torch.randn(sum(lengths), heads, 16) for heads in (4, key_heads, key_heads))
    bias = None if alibi is None else Alibi(4, layout.max_length, alibi, torch.float32, CPU_DEVICE)
    scoring = Scoring(0.25, bias, causal)
    expected = attend_by_autograd(query, key, value, layout, scoring)
    assert torch.allclose(eager_flex(query, key, value, layout, scoring), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("alibi", ["exact", "reference", None])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_flex_score_and_mask_have_the_reference_gradients(alibi: str | None, key_heads: int, causal: bool) -> None:
    request = dataclasses.replace(REQUEST, alibi=alibi, key_heads=key_heads, is_causal=causal or alibi is not None)
    assert difference(dense_flex, request) < 1e-5


def test_flex_visits_the_tiles_it_must_and_no_others() -> None:
    layout = layout_of([5, 100, 130, 300])
    places = torch.arange(535)
    for causal in (True, False):
        mask = flex.block_mask(layout, is_causal=causal)
        pairs = mask.mask_mod(0, 0, places[:, None], places[None, :])
        padded = torch.nn.functional.pad(pairs, (0, 640 - 535, 0, 640 - 535))
        needed = padded.unflatten(0, (5, 128)).unflatten(2, (5, 128)).any(3).any(1)
        visited = mask.to_dense()[0, 0].bool()
        assert torch.equal(visited, needed)
        assert flex.block_mask(layout, is_causal=causal) is mask, "made once per batch"


def test_flex_compiles_for_all_batches_at_once() -> None:
    """Batches of any lengths: one graph for those of several tiles, one for those of a single tile."""
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    kernel = torch.compile(flex_attention, dynamic=True, backend=count)
    for lengths in ([3, 200], [40, 41, 300], [2] * 90, [700], [5, 6], [64, 64], [9, 500, 500]):
        layout = layout_of(lengths)
        query, key, value = torch.randn(3, sum(lengths), 4, 16).unbind(0)
        bias = Alibi(4, layout.max_length, "exact", torch.float32, CPU_DEVICE)
        scoring = Scoring(0.25, bias)
        for _ in range(2):  # layers
            mixed = flex.attend_by_flex(query, key, value, layout, scoring, kernel=kernel)
        assert torch.allclose(mixed, attend_by_autograd(query, key, value, layout, scoring), rtol=0, atol=1e-5)
    assert len(graphs) <= 2
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["exact", "reference"])
@pytest.mark.parametrize("width", [16, 80, 13])
def test_bias_columns_hold_alibi_to_float32(dtype: torch.dtype, kind: str, width: int) -> None:
    """Causal attention without a bias on the widened heads, against attention with it, both in float32."""
    torch.manual_seed(0)
    layout = layout_of([1, 7, 2048])
    query, key, value = (tensor.to(dtype) for tensor in torch.randn(3, 2056, 3, width))
    scale = width**-0.5
    bias = Alibi(3, 2048, kind, dtype, CPU_DEVICE)
    wide = widened(query, key, value, layout, Scoring(scale, bias))
    assert {tensor.shape[-1] % 8 for tensor in wide} == {0}
    assert {tensor.dtype for tensor in wide} == {dtype}
    ours = attend_by_autograd(*(t.double() for t in wide), layout, Scoring(scale, is_causal=True))
    assert torch.all(ours[..., width:] == 0)
    place = torch.arange(2048)
    weights = scale * torch.einsum("qhd,khd->hqk", query[8:].double(), key[8:].double())
    weights = (weights + bias.by_key[:, None].double()).masked_fill(place > place[:, None], -math.inf).softmax(-1)
    expected = torch.einsum("hqk,khd->qhd", weights, value[8:].double())
    assert torch.allclose(ours[8:, :, :width], expected, rtol=0, atol=1e-4)


def varlen_stand_in(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """torch's varlen_attn on a CPU: what is documented of it, with its demands on the arguments."""
    assert query.shape == key.shape == value.shape
    assert query.shape[-1] % 8 == 0
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    layout = ragged_layout(cu_seq_q)
    assert layout.order is None and layout.max_length == max_q == max_k
    causal = {(-1, 0): True, (-1, -1): False}[window_size]
    return attend_by_autograd(query, key, value, layout, Scoring(scale, is_causal=causal))


@pytest.mark.parametrize("alibi", ["exact", "reference", None])
@pytest.mark.parametrize(("key_heads", "width"), [(4, 16), (2, 16), (4, 12)])
@pytest.mark.parametrize("causal", [True, False])
def test_what_torch_varlen_is_given(
    monkeypatch: pytest.MonkeyPatch, alibi: str | None, key_heads: int, width: int, causal: bool
) -> None:
    """Forward and backward; empty sentences never reach the kernel."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_stand_in)
    if alibi is not None:
        key_heads = 4
    request = dataclasses.replace(
        REQUEST, alibi=alibi, key_heads=key_heads, head_dim=width, value_dim=width, is_causal=causal or bool(alibi)
    )
    assert difference(attend_by_torch_varlen, request) < 1e-5
    assert difference(attend_by_torch_varlen, request, (0, 0, 1, 1, 9)) < 1e-5


@pytest.mark.parametrize("alibi", ["exact", "reference", None])
def test_what_flash_attn_is_given(monkeypatch: pytest.MonkeyPatch, alibi: str | None) -> None:
    """The package's documented bias: -slope·|i - j|, with float32 slopes."""

    class Package:
        @staticmethod
        def flash_attn_varlen_func(
            query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *lengths: Any, **options: Any
        ) -> torch.Tensor:
            slopes = options.pop("alibi_slopes")
            causal, scale = options.pop("causal"), options.pop("softmax_scale")
            assert options == {"dropout_p": 0.0}
            if slopes is None:
                window = (-1, 0) if causal else (-1, -1)
                return varlen_stand_in(query, key, value, *lengths, scale=scale, window_size=window)
            assert slopes.dtype == torch.float32
            layout = ragged_layout(lengths[0])
            bias = Alibi(4, layout.max_length, "exact", query.dtype, CPU_DEVICE)
            assert causal and torch.equal(slopes, bias.slopes)
            return attend_by_autograd(query, key, value, layout, Scoring(scale, bias))

    monkeypatch.setitem(__import__("sys").modules, "flash_attn", Package)
    assert difference(attend_by_flash_attn, dataclasses.replace(REQUEST, alibi=alibi)) < 1e-5


def test_a_kernel_that_fails_or_errs_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(*args: Any) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\nfor this device")

    def forgets_the_bias(*args: Any) -> torch.Tensor:
        *tensors, scoring = args
        return attend_by_autograd(*tensors, dataclasses.replace(scoring, bias=None, is_causal=True))

    def not_a_number(*args: Any) -> torch.Tensor:
        return attend_by_autograd(*args) * math.nan

    assert try_out(attend_on_cpu, REQUEST) is None
    assert try_out(raises, REQUEST) == "failed: RuntimeError: no kernel image is available"
    assert "computes something else" in str(try_out(forgets_the_bias, REQUEST))
    assert "differs by nan" in str(try_out(not_a_number, REQUEST))

    elsewhere = dataclasses.replace(REQUEST, device=torch.device("meta"))
    bad = [kernel._replace(attend=raises, obstacle=lambda request: None) for kernel in KERNELS[:1]]
    good = [kernel._replace(obstacle=lambda request: None) for kernel in KERNELS[1:2]]
    monkeypatch.setattr(kernels, "try_out", lambda attend, request: "failed: so it did" if attend is raises else None)
    choose.cache_clear()
    with caplog.at_level("INFO", logger="lacos_st.kernels"):
        monkeypatch.setattr(kernels, "KERNELS", (*bad, *good))
        assert choose(elsewhere).name == "torch varlen"
        assert "attention by torch varlen; flash_attn failed: so it did" in caplog.text
        choose.cache_clear()
        monkeypatch.setattr(kernels, "KERNELS", tuple(bad))
        assert choose(elsewhere) is FALLBACK
        assert "slower on many lengths: flash_attn failed: so it did" in caplog.text
    choose.cache_clear()


def test_choices_on_a_cpu_and_obstacles_on_a_gpu() -> None:
    assert choose(REQUEST) is CPU
    assert choose(dataclasses.replace(REQUEST, dropout=True)) is FALLBACK
    assert choose(dataclasses.replace(REQUEST, value_dim=8)) is FALLBACK
    flash, varlen, flexible = KERNELS
    half = dataclasses.replace(REQUEST, device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=128)
    assert varlen.obstacle(half) is flexible.obstacle(half) is None
    assert varlen.obstacle(dataclasses.replace(half, dropout=True)) == "has no dropout"
    assert varlen.obstacle(dataclasses.replace(half, dtype=torch.float32)) == "has no torch.float32"
    assert varlen.obstacle(dataclasses.replace(half, head_dim=256)) == "has no heads of 264 columns"
    assert varlen.obstacle(dataclasses.replace(half, head_dim=256, alibi=None)) is None
    assert flash.obstacle(half) == "is not installed"
    assert flexible.obstacle(REQUEST) == "has no backward off CUDA"


def test_attend_hands_its_arguments_to_the_chosen_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    def chosen(request: Request) -> kernels.Kernel:
        asked.append(request)
        return FALLBACK

    monkeypatch.setattr("lacos_st.attention.choose", chosen)
    query, key = torch.randn(5, 4, 8), torch.randn(5, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend(query, key, key, layout_of([2, 3]), scale=1.0, is_causal=True, dropout=0.5)
    assert mixed.dtype == torch.bfloat16
    attend(query, query, query, layout_of([2, 3]), scale=1.0, bias=Alibi(4, 3, "exact", torch.float32, CPU_DEVICE))
    assert asked == [
        Request(CPU_DEVICE, torch.bfloat16, 4, 2, 8, 8, None, True, True),
        Request(CPU_DEVICE, torch.float32, 4, 4, 8, 8, "exact", True, False),
    ]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("kernel", [attend_by_torch_varlen, attend_by_autograd])
def test_a_step_makes_nothing_on_another_device(
    monkeypatch: pytest.MonkeyPatch, tiny_bloom_dir: str, checkpointing: bool, stored: bool, kernel: Callable[..., Any]
) -> None:
    """On the meta device, which like a GPU takes no CPU tensor beside its own: shapes, dtypes, devices; no values."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)  # knows no meta device
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda q, k, v, *args, **options: q + k + v)
    monkeypatch.setattr("lacos_st.attention.choose", lambda request: FALLBACK._replace(attend=kernel))
    made = lacos_st.encoder(tiny_bloom_dir, code="dynamic" if stored else None, block_size=64, device="cpu")
    model = made[0].model.to(torch.bfloat16).to("meta").train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    real = layout_of([3, 17, 300])
    moved = {"position_ids": real.position_ids.to("meta"), "cu_seq_lens": real.cu_seq_lens.to("meta")}
    layout = dataclasses.replace(real, **moved, prepared={})
    embedded = model.word_embeddings(torch.zeros(320, dtype=torch.int64, device="meta"))
    monkeypatch.setattr("lacos_st.bloom.ragged_layout", lambda cu_seq_lens: layout)  # lengths are values
    states = model(inputs_embeds=embedded[None], cu_seq_lens_q=layout.cu_seq_lens).last_hidden_state
    assert (states.device.type, states.dtype) == ("meta", torch.bfloat16)
    states.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert gradients
    assert all(gradient is not None and gradient.is_meta for gradient in gradients)


def test_flex_masks_are_made_on_the_device_of_the_batch() -> None:
    real = layout_of([3, 17, 300])
    moved = {"position_ids": real.position_ids.to("meta"), "cu_seq_lens": real.cu_seq_lens.to("meta")}
    for causal in (True, False):
        mask = flex.block_mask(dataclasses.replace(real, **moved, prepared={}), is_causal=causal)
        assert mask.kv_indices.is_meta and mask.kv_num_blocks.is_meta
        assert mask.kv_indices.shape == (1, 1, 3, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the kernels themselves run on one only")
@pytest.mark.parametrize("kernel", [*KERNELS, FALLBACK], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("alibi", ["exact", "reference", None])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_kernels_on_a_gpu(kernel: kernels.Kernel, alibi: str | None, dtype: torch.dtype) -> None:
    request = Request(torch.device("cuda", 0), dtype, 16, 16, 64, 64, alibi, alibi is not None, False)
    obstacle = kernel.obstacle(request)
    if obstacle is not None:
        pytest.skip(f"{kernel.name} {obstacle}")
    assert try_out(kernel.attend, request) is None
