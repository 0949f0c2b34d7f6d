"""Parts of `benchmarks.gpu` below a model: attention, plain products, de-quantisation; and a small model's truth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import BloomModel

from benchmarks import lengths
from benchmarks.gpu_scale import TINY, Figures, Scale
from lacos_st.alibi import Alibi
from lacos_st.blockwise import BLOCK_SIZE, dequantize
from lacos_st.bloom import BloomEncoder
from lacos_st.kernels import FALLBACK, KERNELS, Kernel, Request, choose, difference, try_out
from lacos_st.linear import dequantize_, quantize_
from lacos_st.ragged import ragged_layout
from lacos_st.scoring import Scoring

SENTENCE_LENGTHS = (1, 17, 130, 300, 17)
WEIGHT_STD = 0.05
LONG = (2048,) * 8


def attention(scale: Scale) -> Figures:
    """Each kernel: what speaks against it, or its difference from the reference and its time; and which is chosen."""
    cuda = scale.device == "cuda"
    heads, width = (32, 128) if cuda else (4, 16)
    nli, long = sorted(lengths.tokens(scale.batch)), LONG if cuda else (300, 300)
    request = Request(torch.device(scale.device), scale.dtype, heads, heads, width, width, "exact", True, False)
    for kernel in (*KERNELS, FALLBACK):
        if problem := kernel.obstacle(request) or try_out(kernel.attend, request):
            yield kernel.name, {"problem": problem}
            continue
        times = [1e3 * _seconds(scale, kernel, request, batch) for batch in (nli, long)]
        worst = difference(kernel.attend, request)
        yield kernel.name, {"difference": worst, "nli_batch_ms": times[0], "long_batch_ms": times[1]}
    yield "chosen", {"kernel": choose(request).name, "nli_tokens": sum(nli), "long_tokens": sum(long)}


def _seconds(scale: Scale, kernel: Kernel, request: Request, batch: Sequence[int]) -> float:
    """Forward and backward of one layer's attention on sequences of these lengths."""
    layout = ragged_layout(torch.tensor([0, *batch]).cumsum(0).to(scale.device, torch.int32))
    shape = (sum(batch), request.heads, 3, request.head_dim)
    fused = torch.randn(shape, device=scale.device, dtype=scale.dtype, requires_grad=True)
    target = torch.randn(sum(batch), request.heads, request.head_dim, device=scale.device, dtype=scale.dtype)
    bias = Alibi(request.heads, layout.max_length, "exact", scale.dtype, request.device)
    scoring = Scoring(request.head_dim**-0.5, bias)

    def step() -> object:
        query, key, value = fused.unbind(2)
        return torch.autograd.grad(kernel.attend(query, key, value, layout, scoring), fused, target)

    return scale.seconds(step)


def correctness(scale: Scale) -> Figures:
    """A small BLOOM on the device against stock's in float32 on a CPU: relative L2 difference of the hidden states."""
    config = TINY.config
    config.use_cache = False
    generator = torch.Generator().manual_seed(0)
    sentences = [torch.randint(0, TINY.vocabulary, (n,), generator=generator) for n in SENTENCE_LENGTHS]
    flat = torch.cat(sentences)[None].to(scale.device)
    cumulative = torch.tensor([0, *SENTENCE_LENGTHS]).cumsum(0).to(scale.device, torch.int32)
    for name, dtype, stored in (
        ("float32", torch.float32, False),
        ("bf16", torch.bfloat16, False),
        ("8-bit, float32", torch.float32, True),
        ("8-bit, bf16", torch.bfloat16, True),
    ):
        stock, lean = BloomModel(config).eval(), BloomEncoder(config).eval()
        with torch.no_grad():
            for weight in stock.parameters():
                if weight.ndim > 1:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * WEIGHT_STD)
            lean.load_state_dict(stock.state_dict())
            if stored:
                quantize_(stock)
                dequantize_(stock)
                quantize_(lean)
            expected = torch.cat([stock(sentence[None]).last_hidden_state[0] for sentence in sentences])
            found = lean.to(scale.device, dtype)(flat, cu_seq_lens_q=cumulative).last_hidden_state[0].float().cpu()
        yield name, {"difference": float((found - expected).norm() / expected.norm())}


def products(scale: Scale) -> Figures:
    """Per size, TFLOP/s of a layer's products alone, forward x·Wᵀ and backward g·W, on a batch's real tokens."""
    tokens = sum(lengths.tokens(scale.batch))
    for size in scale.sizes:
        options: dict[str, Any] = {"device": scale.device, "dtype": scale.dtype}
        weights = [torch.randn(shape, **options) for shape in size.shape.linear]
        inputs = {width: torch.randn(tokens, width, **options) for shape in size.shape.linear for width in shape}

        def work(weights: list[torch.Tensor] = weights, inputs: dict[int, torch.Tensor] = inputs) -> None:
            for weight in weights:
                torch.mm(inputs[weight.shape[1]], weight.t())
            for weight in reversed(weights):
                torch.mm(inputs[weight.shape[0]], weight)

        flops = 2 * 2 * tokens * sum(weight.numel() for weight in weights)
        yield size.name, {"tflops": flops / scale.seconds(work) / 1e12, "tokens": tokens}


def dequantization(scale: Scale) -> Figures:
    """GB/s, read and written, of de-quantising the largest layer of the largest size, and of copying floats."""
    rows, columns = max(scale.sizes[-1].shape.linear)
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=scale.device).random_(0, 256)
    absmax = torch.full((rows, columns // BLOCK_SIZE), 0.1, device=scale.device)
    for code in ("dynamic", "linear"):
        taken = scale.seconds(partial(dequantize, codes, absmax, block_size=BLOCK_SIZE, code=code, dtype=scale.dtype))
        moved = codes.nbytes + absmax.nbytes + codes.numel() * scale.dtype.itemsize
        yield code, {"gb_per_second": moved / taken / 1e9}
    source = torch.randn(rows, columns, device=scale.device).to(scale.dtype)
    target = torch.empty_like(source)
    yield "copy", {"gb_per_second": 2 * source.nbytes / scale.seconds(lambda: target.copy_(source)) / 1e9}
