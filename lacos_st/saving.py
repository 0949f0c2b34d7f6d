"""`write_module`: a `LoRA8bit`'s folder, begun only once it is known that what is saved can be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict

from lacos_st import adapters, checkpoint
from lacos_st.bloom import BloomEncoder
from lacos_st.errors import UserError
from lacos_st.probes import base_dtype_name, embed_probes
from lacos_st.savable import check_adapters, is_changed, take_storage_
from lacos_st.unfinished import begin_folder
from lacos_st.upstream import commit_hash

_checked: ContextVar[bool] = ContextVar("checked", default=True)


@contextmanager
def whatever_it_embeds() -> Iterator[None]:
    """Write modules that embed a probe as inf or nan too: checkpoints, of which the next step's loss tells more."""
    before = _checked.set(False)
    try:
        yield
    finally:
        _checked.reset(before)


def write_module(module: Any, folder: Path) -> None:
    """Write config, tokenizer, adapter, manifest and probes, and the base where it is held or not frozen.

    Args:
        module: a `LoRA8bit`.
        folder: made if missing; a model that is there is replaced.

    Raises:
        UserError: it embeds a probe sentence as inf or nan, or what it carries is not what it would be loaded with
            (`lacos_st.savable`); nothing has been written then.
    """
    # first: a model that cannot embed, or come back, must not spoil the one in the folder. Embedding also sets the
    # tokenizer's truncation, which tokenizer.json holds
    check_adapters(module)
    stored_anew = take_storage_(module)
    probes = embed_probes(module)
    if _checked.get() and not bool(probes.isfinite().all()):
        raise UserError(
            "the model embeds a probe sentence as inf or nan, so that it could not be loaded; nothing was written: go "
            "back to weights that are finite, and train from there with a lower learning rate, or merge with smaller "
            "weights"
        )
    if folder.name.endswith(f"_{type(module).__name__}"):  # a Router's "query_0_LoRA8bit": modules.json is above it
        folder.mkdir(parents=True, exist_ok=True)
    else:
        begin_folder(folder, module=module)
    frozen = bool(adapters.adapter_parameters(module.model)) or adapters.is_quantized(module.model)
    with_base = module.self_contained or not frozen or stored_anew or (_checked.get() and is_changed(module))
    if with_base and not adapters.is_quantized(module.model):
        # also after dequantize_: what is written is floats, and is to be read as such
        module.code = module.embedding_device = None
        if hasattr(module.model.config, "quantization_config"):
            del module.model.config.quantization_config
    kind = "BloomModel" if isinstance(module.model, BloomEncoder) else type(module.model).__name__
    module.model.config.architectures = [kind]
    module.model.config.save_pretrained(folder)
    module.processor.save_pretrained(folder)
    if getattr(module.tokenizer, "chat_template", None) is None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)  # of a model that was there
    module.save_config(str(folder))
    if with_base:
        save_torch_state_dict(checkpoint.base_state(module.model), folder, metadata={"format": "pt"})
    where = {"revision": module.base_revision, "cache_dir": module.hub["cache_folder"]}
    revision = commit_hash(module.model.config, module.base_name, **where)
    if module.lora_rank:
        place = folder / adapters.ADAPTER_FOLDER
        adapters.save_adapter(module.model, place, base_name=module.base_name, revision=revision)
    checkpoint.write_probes(probes, folder)
    stored = {"block_size": module.block_size, "code": module.code, "skip": module.skip}
    lora = {"rank": module.lora_rank, "alpha": module.lora_alpha, "targets": module.lora_targets}
    checkpoint.Manifest(
        base=module.origin if with_base else module.base_name,
        revision=revision,
        base_sha256=checkpoint.base_hash(module.model) if with_base else module.base_sha256,
        self_contained=with_base,
        quantization=None if module.code is None else stored,
        lora=lora if module.lora_rank else None,
        dtype=base_dtype_name(module.model),
        adapter_sha256=checkpoint.adapter_hash(module.model) if module.lora_rank else None,
    ).write(folder, module=f"{type(module).__module__}.{type(module).__name__}")
