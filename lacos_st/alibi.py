"""ALiBi: a linear penalty on distance, added to the causal attention scores, and never a (heads, T, T) tensor.

The penalty slope·(j - i) depends on the distance of key j from query i only, so one strip (heads, BLOCK, T) serves
every block of queries as a view; and as the softmax ignores what it adds to a whole row, slope·j, one number per head
and key, says the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

BLOCK = 256
"""Queries that see one block of the bias; a longer sequence is attended to block by block. Larger ones compute more of
what the causal mask hides, in smaller ones torch's CPU kernel multiplies narrower tiles (2026-11-21: 128 to 768 within
a quarter of each other at 1,024 tokens, 256 to 512 the fastest)."""

KINDS = ("exact", "reference")


def alibi_slopes(num_heads: int) -> torch.Tensor:
    """The slope of each head's linear bias, float32 (heads,), for any number of heads.

    Source: Press et al., "Train Short, Test Long" (arXiv 2108.12409), section 3 and its reference code: a geometric
    sequence for a power of two; otherwise the nearest smaller power's, then every other slope of the next power.
    """

    def geometric(count: int) -> list[float]:
        ratio = 2.0 ** (-8.0 / count)
        return [ratio ** (i + 1) for i in range(count)]

    power = 2 ** math.floor(math.log2(num_heads))
    slopes = geometric(power) + geometric(2 * power)[0::2][: num_heads - power]
    return torch.tensor(slopes, dtype=torch.float32)


@dataclass(frozen=True)
class Alibi:
    """The causal ALiBi bias that every sequence of a batch shares, in the form that a kernel asks for.

    Attributes:
        num_heads: number of heads, any.
        length: tokens of the longest sequence.
        kind: "exact": slope·(j - i), relative positions, rounded once to `dtype`. "reference": slope·j rounded to
            `dtype`, as transformers' `build_alibi_tensor` does; the softmax does not see the shift between the two,
            only the rounding, which in bfloat16 grows with j.
        dtype: of the queries.
        device: of the queries.

    Raises:
        ValueError: `kind` is neither.
    """

    num_heads: int
    length: int
    kind: str
    dtype: torch.dtype
    device: torch.device

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f'alibi={self.kind!r} is unknown: choose "exact" or "reference"')

    @cached_property
    def slopes(self) -> torch.Tensor:
        """Of each head, float32 (heads,)."""
        return alibi_slopes(self.num_heads).to(self.device)

    @cached_property
    def by_key(self) -> torch.Tensor:
        """The bias of key j, float32 (heads, length): slope·j, rounded to `dtype` if `kind` is "reference"."""
        table = self.slopes[:, None] * torch.arange(self.length, device=self.device, dtype=torch.float32)
        return table.to(self.dtype).float() if self.kind == "reference" else table

    def block(self, start: int, stop: int) -> torch.Tensor:
        """The bias of queries start..stop - 1 on keys 0..stop - 1, -inf for keys after the query.

        Args:
            start: the first query, a multiple of `BLOCK`.
            stop: one after the last query, at most `start + BLOCK`.

        Returns:
            (heads, stop - start, stop) in `dtype`; a view of memory that other blocks share if `kind` is "exact".
        """
        if self.kind == "exact":
            own = self._strip.shape[2] - self._strip.shape[1]  # the column of key `start`
            return self._strip[:, : stop - start, own - start : own + stop - start]
        future = torch.arange(stop, device=self.device) > torch.arange(start, stop, device=self.device)[:, None]
        bias = self.by_key[:, None, :stop].to(self.dtype).expand(-1, stop - start, -1)
        return bias.masked_fill(future, float("-inf"))

    @cached_property
    def _strip(self) -> torch.Tensor:
        """Rows: a block's queries. Columns: distances, ending with the block's own keys."""
        rows = min(self.length, BLOCK)
        columns = -(-self.length // rows) * rows if rows else 0
        query = torch.arange(columns - rows, columns, device=self.device, dtype=torch.float32)[:, None]
        distance = torch.arange(columns, device=self.device, dtype=torch.float32) - query
        strip = (self.slopes[:, None, None] * distance).to(self.dtype)
        return strip.masked_fill_(distance > 0, float("-inf"))
