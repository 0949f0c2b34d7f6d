"""Which attention kernel serves a batch: the first that can, and that was seen to compute the right thing here.

On a CPU that is torch's own. On a GPU the candidates are, fastest first: the package flash_attn; the flash attention
inside torch; FlexAttention; torch's scaled-dot-product attention, sequence length by sequence length. A candidate is
tried once per process and kind of batch against the last of these, forward and backward, on four short sequences: a
kernel that this GPU, driver or version of torch cannot run costs a line in the log, not a run.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch

from lacos_st.alibi import Alibi
from lacos_st.flex import attend_by_flex
from lacos_st.ragged import RaggedLayout, ragged_layout
from lacos_st.scoring import Scoring
from lacos_st.sdpa import attend_by_autograd, attend_on_cpu
from lacos_st.upstream import cpu_attention, cpu_attention_backward, gone
from lacos_st.varlen import attend_by_flash_attn, attend_by_torch_varlen, widened_width

logger = logging.getLogger(__name__)

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, RaggedLayout, Scoring], torch.Tensor]

PROBE_LENGTHS = (1, 3, 130, 300)
"""A single token, less than a tile, more than a tile, more than a block of `alibi.BLOCK`."""

PROBE_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}
"""Largest relative L2 difference from `attend_by_autograd` in float32: rounding is a third of it or less."""


@dataclass(frozen=True)
class Request:
    """What a kernel has to be able to do.

    Attributes:
        device: of the tensors.
        dtype: of the tensors.
        heads: of the query.
        key_heads: of key and value.
        head_dim: of query and key.
        value_dim: of the value.
        alibi: its kind, None for none.
        is_causal: whether a token sees only itself and earlier ones.
        dropout: whether any weight is dropped.
    """

    device: torch.device
    dtype: torch.dtype
    heads: int
    key_heads: int
    head_dim: int
    value_dim: int
    alibi: str | None
    is_causal: bool
    dropout: bool

    @classmethod
    def of(
        cls,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scoring: Scoring,
    ) -> Request:
        """The request that a call of `lacos_st.attention.attend` makes."""
        kind = None if scoring.bias is None else scoring.bias.kind
        sizes = (query.shape[1], key.shape[1], query.shape[2], value.shape[2])
        return cls(query.device, query.dtype, *sizes, kind, scoring.causal, scoring.dropout > 0)


class Kernel(NamedTuple):
    """A way to attend, and what speaks against it for a request, before it is tried."""

    name: str
    attend: Attend
    obstacle: Callable[[Request], str | None]


def _on_cpu(request: Request) -> str | None:
    if request.device.type != "cpu":
        return "is for CPUs"
    if request.dropout:
        return "has no dropout"
    if cpu_attention is None or cpu_attention_backward is None:
        name = "ops.aten._scaled_dot_product_flash_attention_for_cpu"
        return "is missing: " + gone("torch", name, "attend without autograd")
    return None


def _is_flash(request: Request, head_dim: int) -> str | None:
    if request.device.type != "cuda":
        return "is for CUDA"
    if request.dtype not in (torch.float16, torch.bfloat16):
        return f"has no {request.dtype}"
    if head_dim > 256:
        return f"has no heads of {head_dim} columns"
    return None


def _flash_attn(request: Request) -> str | None:
    if importlib.util.find_spec("flash_attn") is None:
        return "is not installed"
    by_columns = request.alibi == "reference"
    return _is_flash(request, widened_width(request.head_dim, bias=True) if by_columns else request.head_dim)


def _torch_varlen(request: Request) -> str | None:
    if request.dropout:
        return "has no dropout"
    return _is_flash(request, widened_width(request.head_dim, bias=request.alibi is not None))


def _flex(request: Request) -> str | None:
    if request.dropout:
        return "has no dropout"
    return None if request.device.type == "cuda" else "has no backward off CUDA"


KERNELS = (
    Kernel("flash_attn", attend_by_flash_attn, _flash_attn),
    Kernel("torch varlen", attend_by_torch_varlen, _torch_varlen),
    Kernel("FlexAttention", attend_by_flex, _flex),
)
"""What is tried on a GPU, in this order, before `FALLBACK`."""

CPU = Kernel("torch CPU", attend_on_cpu, _on_cpu)
FALLBACK = Kernel("torch SDPA", attend_by_autograd, lambda request: None)


@cache
def choose(request: Request) -> Kernel:
    """The kernel for a request, the same for the rest of the process."""
    if request.value_dim != request.head_dim:
        return FALLBACK
    if request.device.type == "cpu":
        reason = CPU.obstacle(request)
        if reason and not request.dropout:
            logger.warning("attention by %s, slower in training: %s %s", FALLBACK.name, CPU.name, reason)
        return FALLBACK if reason else CPU
    against: list[str] = []
    for kernel in KERNELS:
        reason = kernel.obstacle(request) or try_out(kernel.attend, request)
        if reason is None:
            logger.info("attention by %s%s", kernel.name, "".join(f"; {line}" for line in against))
            return kernel
        against.append(f"{kernel.name} {reason}")
    logger.warning("attention by %s, slower on many lengths: %s", FALLBACK.name, "; ".join(against))
    return FALLBACK


def try_out(attend: Attend, request: Request) -> str | None:
    """Run a kernel on `PROBE_LENGTHS`, forward and backward, and compare.

    Args:
        attend: a kernel.
        request: the shapes and dtype; dropout is not compared, only run without.

    Returns:
        What went wrong, None if nothing did.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(request.device.type, enabled=False):
            worst = difference(attend, request)
    except Exception as error:  # whatever a kernel raises: it is not the one to use
        return f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    if not worst <= PROBE_TOLERANCE[request.dtype]:  # nan too
        return f"computes something else: it differs by {worst:.1e}"
    return None


def difference(attend: Attend, request: Request, lengths: tuple[int, ...] = PROBE_LENGTHS) -> float:
    """Largest relative L2 difference, of the result and the three gradients, from `attend_by_autograd` in float32.

    Args:
        attend: a kernel.
        request: the shapes and dtype.
        lengths: of the sequences, ascending, in tokens.
    """
    generator = torch.Generator().manual_seed(0)
    device = request.device
    layout = ragged_layout(torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32))
    sizes = ((request.heads, request.head_dim), (request.key_heads, request.head_dim))
    shapes = [(sum(lengths), *size) for size in (*sizes, (request.key_heads, request.value_dim), sizes[0])]
    drawn = [torch.randn(shape, generator=generator).to(device, request.dtype) for shape in shapes]
    found = []
    for kernel, dtype in ((attend, request.dtype), (attend_by_autograd, torch.float32)):
        *inputs, target = (tensor.to(dtype, copy=True) for tensor in drawn)
        for tensor in inputs:
            tensor.requires_grad_()
        bias = None
        if request.alibi is not None:
            bias = Alibi(request.heads, layout.max_length, request.alibi, dtype, device)
        causal = request.is_causal and bias is None  # a bias says so itself, and BLOOM leaves it at that
        query, key, value = inputs
        mixed = kernel(query, key, value, layout, Scoring(request.head_dim**-0.5, bias, causal))
        found.append([mixed.detach(), *torch.autograd.grad(mixed, inputs, target)])
    return max(float((a.float() - b).norm() / b.norm().clamp(min=1e-12)) for a, b in zip(*found, strict=True))
