"""Whether what a module's folder names, base and adapter, is what the module computes with."""

from __future__ import annotations

import logging
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from lacos_st import adapters
from lacos_st.checkpoint import base_hash, base_state
from lacos_st.errors import UserError
from lacos_st.linear import storable_layers
from lacos_st.probes import base_dtype_name
from lacos_st.quantizer import Blockwise8bitConfig
from lacos_st.stored import Stored8bit

logger = logging.getLogger("lacos_st")


def check_adapters(module: Any) -> None:
    """That a module carries the one adapter that its options name, switched on, or none.

    Args:
        module: a `LoRA8bit`.

    Raises:
        UserError: another adapter was put on, its own was removed, switched off or merged, or the base was wrapped.
    """
    model = module.model
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"a {type(model).__name__} is around the base, which the files of a model have no place for: an adapter is "
            "put on by lora_rank= when the encoder is built, and torch.compile works in place, "
            "model[0].model.compile()"
        )
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    found = sorted({name for layer in layers for place in layer.adapter_layer_names for name in getattr(layer, place)})
    if found and not module.lora_rank:
        raise UserError(
            f"the adapter {found[0]!r} was put on by peft, and a saved model would come back without it: build the "
            "encoder with lora_rank=. What is trained already, model[0].auto_model.save_pretrained(folder) writes in "
            "peft's files"
        )
    if not module.lora_rank:
        return
    if found != [adapters.ADAPTER] or set(getattr(model, "peft_config", {})) != {adapters.ADAPTER}:
        raise UserError(
            f"the encoder was built with one adapter, {adapters.ADAPTER!r}, and has {', '.join(found) or 'none'}: a "
            "saved model holds that one; delete the others, or build the encoder anew"
        )
    if any(layer.merged for layer in layers):
        raise UserError("the adapter is merged into the weights, and would be added again: call unmerge() first")
    if any(layer.disable_adapters or list(layer.active_adapters) != [adapters.ADAPTER] for layer in layers):
        raise UserError("the adapter is switched off, and a loaded model has it on: call enable_adapters() first")


def take_storage_(module: Any) -> bool:
    """Set a module's options to how its layers are stored, where that is not how they were read.

    `quantize_` of floats, in another way or of more layers, and `dequantize_` of some; that of all is none: what is
    saved by its base's name comes back stored.

    Args:
        module: a `LoRA8bit`.

    Returns:
        Whether they were set: its base has to be saved with it.

    Raises:
        UserError: its layers differ in block size or code.
    """
    stored = [layer for layer in module.model.modules() if isinstance(layer, Stored8bit)]
    ways = {(layer.block_size, layer.code) for layer in stored}
    codes, codes_as_read = (
        {name for name in found if name.endswith(".codes")} for found in (shapes(module.model), module.shapes_as_read)
    )
    if not ways or (ways == {(module.block_size, module.code)} and codes == codes_as_read):
        return False
    if len(ways) > 1:
        raise UserError(f"the layers are stored in blocks of {sorted(ways)}: a saved model has one block size and code")
    module.block_size, module.code = ways.pop()
    module.skip = [name.replace(".base_layer", "") for name, _ in storable_layers(module.model)]
    module.model.config.quantization_config = Blockwise8bitConfig(
        block_size=module.block_size, code=module.code, skip=module.skip
    )
    return True


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of the base's tensors below `model`, by name."""
    return {name: tuple(tensor.shape) for name, tensor in base_state(model).items()}


def is_changed(module: Any) -> bool:
    """Whether the base is no longer the one that was read, so that it has to be saved with the module.

    Its tensors' names and shapes tell, and where these are as they were read, all of their values: in float32 alone,
    and not where they were stored in another way since.

    Args:
        module: a `LoRA8bit`.
    """
    stored = adapters.is_quantized(module.model)
    if stored != module.stored_as_read or module.tensors_as_read is None:  # the same values under other names
        return False
    changed = shapes(module.model) != module.shapes_as_read
    if not changed and base_dtype_name(module.model) == "float32":
        changed = base_hash(module.model) != module.tensors_as_read
    if changed:
        logger.warning("the base was changed since it was read from %s: it is saved with the model", module.base_name)
    return changed
