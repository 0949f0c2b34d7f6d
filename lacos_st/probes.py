"""Whether a loaded model is the one that was saved: the hash of its base, and how it embeds a few probe sentences."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from lacos_st.checkpoint import PROBES, Manifest
from lacos_st.errors import UserError
from lacos_st.pooling import Pooling


def check_base_hash(base_sha256: str, manifest: Manifest, path: str) -> None:
    """That the base at `path` has the hash that the manifest names.

    Raises:
        UserError: it has another one.
    """
    if base_sha256 != manifest.base_sha256:
        raise UserError(
            f"the base {path!r} is not the one this model was saved with: its hash is {base_sha256[:12]}..., expected "
            f"{manifest.base_sha256[:12]}... (revision {manifest.revision}, quantisation {manifest.quantization}); "
            f"{manifest.differences()}. Restore the base"
        )


def check_options(options: dict[str, Any], manifest: Manifest | None) -> None:
    """That a module is to get what was saved: floats as floats, and the adapter's rank, scale and layers.

    Args:
        options: of the module, as they were given.
        manifest: of the folder it is read from. None allows any; one without an adapter any adapter: a fresh one is put
            on.

    Raises:
        UserError: the options store in 8 bits what was saved in floats, or name another adapter than the manifest does.
    """
    if manifest is not None and manifest.quantization is None and options["code"] is not None:
        raise UserError(
            "this model was saved in floats, and is asked for in 8 bits, which would be another one: take it with "
            "code=None (lacos-st train --method lora, full, ...), or train its base in 8 bits"
        )
    if manifest is None or manifest.lora is None:
        return
    given = {name: options[f"lora_{name}"] for name in ("rank", "alpha", "targets")}
    saved = {name: manifest.lora.get(name) for name in given}
    for adapter in (given, saved):
        adapter["alpha"] = adapter["rank"] if adapter["alpha"] is None else adapter["alpha"]
    if given != saved:
        raise UserError(
            f"this model was saved with an adapter of rank {saved['rank']}, alpha {saved['alpha']} on "
            f"{saved['targets']}, and is asked for with rank {given['rank']}, alpha {given['alpha']} on "
            f"{given['targets']}: load it with SentenceTransformer(folder), which takes its own options, or name them "
            "(lora_rank=, lora_alpha=, lora_targets=); if you did, sentence_bert_config.json or lacos.json was changed"
        )


def embed_probes(module: Any) -> torch.Tensor:
    """Mean-pooled token embeddings of the probe sentences.

    Args:
        module: a `LoRA8bit`; its mode, training or not, is as before afterwards.

    Returns:
        float32 (len(PROBES), H), on the CPU.
    """
    was_training = module.training
    module.eval()
    with torch.no_grad(), torch.autocast(module.model.device.type, enabled=False):
        features = module.preprocess(list(PROBES))
        device = next(module.model.parameters()).device
        features = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        pooled = Pooling(module.get_embedding_dimension())(module(features))["sentence_embedding"]
    module.train(was_training)
    return cast(torch.Tensor, pooled.float().cpu())


def base_dtype_name(model: nn.Module) -> str:
    """The dtype that the base below `model` computes in, which its layer norms have: "float32", say."""
    base = (p for name, p in model.named_parameters() if ".lora_" not in name and p.is_floating_point())
    return str(next(base).dtype).removeprefix("torch.")
