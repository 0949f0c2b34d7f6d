"""What 8-bit storage would lose in each layer of a base that is named: loaded with float weights for it."""

from __future__ import annotations

from collections.abc import Sequence

from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.layer_errors import LayerErrors, layer_errors
from lacos_st.loading import load_base, read_config
from lacos_st.quantizer import UNUSED


def base_errors(base: str, *, block_sizes: Sequence[int] = (), skip: Sequence[str] = ()) -> list[LayerErrors]:
    """A report for each layer of a base.

    Args:
        base: folder, hub name or GGUF file.
        block_sizes: to report; none for `layer_errors.default_blocks`.
        skip: names, or ends of names, of layers to leave out.

    Raises:
        UserError: it cannot be loaded, is quantised already, or a block does not fit.
    """
    path = resolve(base)
    config = read_config(path)
    if getattr(config, "quantization_config", None) is not None:
        raise UserError(
            f"{base} is quantised already (quantization_config in its config.json): what it lost cannot be told any "
            "more: name the float base that it was made from"
        )
    model = load_base(path, config, quantization=None, dtype="auto").model
    try:
        return layer_errors(model, block_sizes=block_sizes, skip=[*skip, *UNUSED])
    except ValueError as error:
        raise UserError(str(error)) from error
