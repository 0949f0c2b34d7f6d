"""What 8-bit storage would lose in each layer of a model, by block and code, and which code each layer should have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import nn

from lacos_st.blockwise import BLOCK_SIZE, CODES, BlockwiseError, fitting_block
from lacos_st.linear import error_report, storable_layers
from lacos_st.recipe.tables import align

SMALL_BLOCK = 64
"""Beside the default one, where it fits: the smallest that bitsandbytes has."""


@dataclass(frozen=True)
class LayerErrors:
    """What storing one weight would lose.

    Attributes:
        name: of the layer.
        shape: of its weight, (rows, columns).
        errors: by block size, then by code.
    """

    name: str
    shape: tuple[int, int]
    errors: dict[int, dict[str, BlockwiseError]]

    def best(self, block_size: int) -> str:
        """The code with the least relative error at this block, so at equal bytes; "dynamic" for a tie."""
        return min(CODES, key=lambda code: self.errors[block_size][code].relative_rms)


def default_blocks(module: nn.Module, *, skip: Collection[str] = ()) -> list[int]:
    """The blocks that `layer_errors` reports where none is asked for: 64 and the largest up to 256, as far as they fit.

    Args:
        module: with float weights.
        skip: names, or ends of names, of layers to leave out.

    Raises:
        ValueError: no layer is left.
    """
    widths = [layer.weight.shape[1] for _, layer in storable_layers(module, skip=skip)]
    if not widths:
        raise ValueError("no layer is left whose weight 8-bit blocks could store")
    return sorted({fitting_block(widths, at_most=SMALL_BLOCK), fitting_block(widths, at_most=BLOCK_SIZE)})


def layer_errors(
    module: nn.Module, *, block_sizes: Sequence[int] = (), skip: Collection[str] = ()
) -> list[LayerErrors]:
    """What `quantize_` would lose in each layer, for every code at every block.

    Args:
        module: with float weights; it is not changed.
        block_sizes: to report; none for `default_blocks`.
        skip: names, or ends of names, of layers to leave out.

    Returns:
        A report for each layer, in the order of the module.

    Raises:
        ValueError: a width that a block does not divide, inf or nan in a weight, or no layer is left.
    """
    blocks = list(dict.fromkeys(block_sizes)) or default_blocks(module, skip=skip)
    found = {
        block: {code: error_report(module, block_size=block, code=code, skip=skip) for code in CODES}
        for block in blocks
    }
    return [
        LayerErrors(
            name,
            (layer.weight.shape[0], layer.weight.shape[1]),
            {block: {code: found[block][code][name] for code in CODES} for block in blocks},
        )
        for name, layer in storable_layers(module, skip=skip)
    ]


def lines(report: Sequence[LayerErrors]) -> list[str]:
    """The report as a table, and a line for each block that sums it up."""
    blocks = list(report[0].errors)
    head = ["layer", "shape", *(f"{code} {block}" for block in blocks for code in CODES)]
    head += [f"best {block}" for block in blocks]
    rows = [head]
    for layer in report:
        errors = [_show(layer.errors[block][code]) for block in blocks for code in CODES]
        shape = "x".join(map(str, layer.shape))
        rows.append([layer.name, shape, *errors, *(layer.best(block) for block in blocks)])
    return [*align(rows), "", *(_summary(report, block) for block in blocks)]


def _show(error: BlockwiseError) -> str:
    return f"{100 * error.relative_rms:.2f} ({100 * error.relative_max:.2f})"


def _summary(report: Sequence[LayerErrors], block: int) -> str:
    parts = []
    for code in CODES:
        worst = max(report, key=lambda layer: layer.errors[block][code].relative_rms)
        middle = median(layer.errors[block][code].relative_rms for layer in report)
        wins = sum(layer.best(block) == code for layer in report)
        parts.append(
            f"{code} {100 * middle:.2f} % (median), {100 * worst.errors[block][code].relative_rms:.2f} % at most "
            f"({worst.name}), best for {wins} of {len(report)}"
        )
    return f"block {block}: " + "; ".join(parts)


def as_json(report: Sequence[LayerErrors]) -> list[dict[str, Any]]:
    """The report as plain values: layers with name, shape, blocks and, of each block, errors and best code."""
    return [
        {
            "name": layer.name,
            "shape": list(layer.shape),
            "blocks": [
                {
                    "block_size": block,
                    "bytes_per_weight": 1 + 4 / block,
                    "best": layer.best(block),
                    "errors": {code: vars(error) for code, error in of_block.items()},
                }
                for block, of_block in layer.errors.items()
            ],
        }
        for layer in report
    ]
