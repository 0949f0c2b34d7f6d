"""The six methods: which rows, which weights and which loss each of them trains."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lacos_st.audit import can_validate, tell
from lacos_st.data import add_negatives, load_nli, read_pairs
from lacos_st.embedded import resolve
from lacos_st.errors import UserError
from lacos_st.overlap import remove_overlap, without_overlap
from lacos_st.settings import ADAPTER_METHODS, TrainConfig
from lacos_st.split import split_rows
from lacos_st.sts import load_sentences, load_task_file

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from torch import nn
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

PROMPT = "default"
"""The name of a trained model's own prompt."""

SIDES = ("query", "document")
"""What sentence-transformers calls the prompts of `encode_query` and `encode_document`."""


def load_rows(config: TrainConfig) -> tuple[Dataset, Dataset | None]:
    """The rows to train on and those of the validation loss.

    A split puts rows that share a sentence, directly or through other rows, on one side; of sbert's rows those that
    share their first (a premise has hypotheses of three classes, and many premises have the same). Hard negatives are
    drawn after it. What is wrong with the rows is logged: malformed ones, duplicates, overlap with an evaluation set,
    sentences that are cut.

    Raises:
        UserError: the data, the graded pairs or the base's tokenizer cannot be used, or no row is left.
    """
    rows, negatives = _read(config, config.data, max_rows=config.max_rows)
    for folder in config.exclude_sts:
        sentences = load_sentences(folder)
        rows, _ = remove_overlap(rows, sentences, name=f"exclude_sts {folder}")
        negatives = without_overlap(negatives, sentences)
    held_out: Dataset | None = None
    evaluation: dict[str, list[str]] = {}
    if config.eval_data:
        held_out, own = _read(config, config.eval_data)
        held_out = add_negatives(held_out, own, seed=config.seed) if config.hard_negatives else held_out
        if not can_validate(config, held_out):
            raise UserError(
                f"eval_data {' '.join(config.eval_data)}: of its usable rows ({len(held_out)}) no two without a "
                "sentence in common, so that none has a negative and the loss is 0: name more rows, or none"
            )
        evaluation[f"eval_data {' '.join(config.eval_data)}"] = [
            text for name in held_out.column_names if name != "label" for text in held_out[name]
        ]
    if config.eval_sts is not None:
        task = load_task_file(config.eval_sts)
        evaluation[f"eval_sts {config.eval_sts}"] = [*task.sentences1, *task.sentences2]
    if held_out is None:
        rows, held_out, negatives = _split(config, rows, negatives)
    if len(rows) < 2:
        raise UserError(f"{len(rows)} training rows are left: expected at least 2 (in-batch negatives need company)")
    rows = add_negatives(rows, negatives, seed=config.seed) if config.hard_negatives else rows
    tell(config, rows, evaluation=evaluation)
    return rows, held_out


def _read(
    config: TrainConfig, sources: Sequence[str], *, max_rows: int | None = None
) -> tuple[Dataset, list[tuple[str, str]]]:
    """The rows of the run's method, and what hard negatives can be drawn from."""
    if config.method == "sbert":
        return load_nli(sources, seed=config.seed, max_rows=max_rows, on_bad_row=config.on_bad_row), []
    rows, negatives = read_pairs(sources, seed=config.seed, max_rows=max_rows, on_bad_row=config.on_bad_row)
    return rows, negatives if config.hard_negatives else []


def _split(
    config: TrainConfig, rows: Dataset, negatives: list[tuple[str, str]]
) -> tuple[Dataset, Dataset | None, list[tuple[str, str]]]:
    """The rows to train on, those set aside, with their negatives, and the negatives that are left for the others."""
    wanted = min(config.eval_rows, len(rows) // 10)
    columns = rows.column_names[: 1 if config.method == "sbert" else 2]
    left, held_out = split_rows(rows, wanted, columns=columns) if wanted else (rows, None)
    if held_out is None or not can_validate(config, held_out):
        if config.eval_rows:
            logger.warning(
                "no validation: of %d rows a tenth at most is split off, whole groups that share no sentence with the "
                "others, and none is so small or, with two rows that share none, so large; name eval_data, or say "
                "eval_rows 0",
                len(rows),
            )
        return rows, None, negatives
    rows = left
    if config.hard_negatives:
        held_out = add_negatives(held_out, negatives, seed=config.seed, spare=list(rows["positive"]))
        aside = {*held_out["anchor"], *held_out["positive"]}
        negatives = [(anchor, negative) for anchor, negative in negatives if negative not in aside]
    return rows, held_out, negatives


def build_model(config: TrainConfig) -> SentenceTransformer:
    """The encoder to be trained: with fresh adapters on an 8-bit (lacos) or float base (lora); else its own weights.

    Raises:
        UserError: the base cannot be used, or is a saved model with a prompt and the run says nothing of one.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    from lacos_st.adapters import check_frozen
    from lacos_st.encoders import check_pooling, default_prompt, encoder
    from lacos_st.freezing import freeze_blocks_, train_biases_
    from lacos_st.pooling import Pooling
    from lacos_st.transformer import BloomLoRA8bit, LoRA8bit

    if config.prompt is None and (saved := default_prompt(config.base)):
        raise UserError(
            f"{config.base} is a saved model that puts {saved!r} before each sentence, and would be trained without: "
            'give it again with --prompt, or --prompt "" to have none'
        )
    device = "cpu" if config.cpu else None
    options: dict[str, Any] = {
        "lora_rank": config.lora_rank,
        "code": config.code if config.method == "lacos" else None,
        "max_seq_length": config.max_seq_length,
        "chat_template": config.chat_template,
        "attention": config.attention,
        "echo": config.echo,
        "model_kwargs": {"dtype": getattr(torch, config.dtype)},
    }
    if config.revision is not None:
        options["model_kwargs"]["revision"] = config.revision
        options |= {name: {"revision": config.revision} for name in ("config_kwargs", "processor_kwargs")}
    if config.method == "lacos":
        options |= {"block_size": config.block_size, "embedding_device": config.embedding_device}
    if config.method in ADAPTER_METHODS:
        targets = config.lora_targets
        options |= {
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
            "lora_targets": targets[0] if len(targets) == 1 else list(targets),
            "adapter_dtype": config.adapter_dtype,
        }
    if config.alibi == "exact":
        module = cast(LoRA8bit, encoder(config.base, device="cpu", pooling_mode=config.pooling, **options)[0])
    else:
        check_pooling(Path(resolve(config.base)), config.pooling)
        module = BloomLoRA8bit(config.base, alibi=config.alibi, **options)
    if config.frozen_blocks is not None:
        freeze_blocks_(module.model, config.frozen_blocks)
    if config.method == "bias":
        train_biases_(module.model)
    if config.gradient_checkpointing:
        _checkpoint_activations_(module.model)
    pooling = Pooling(module.get_embedding_dimension(), pooling_mode=config.pooling)
    model = SentenceTransformer(modules=[module, pooling], device=device, **_prompts(config))
    if config.method in ADAPTER_METHODS:
        check_frozen(model)
    # A base that is a folder has no page on the hub that the model card could name.
    model.model_card_data.local_files_only = Path(resolve(config.base)).exists()
    return model


def _prompts(config: TrainConfig) -> dict[str, Any]:
    """The model's own prompt, which `encode` puts before each sentence unless told otherwise.

    `encode_query` and `encode_document`, which mteb calls too, pass the default over for the empty one of their own.
    """
    if config.prompt is None:
        return {}
    return {"prompts": dict.fromkeys((PROMPT, *SIDES), config.prompt), "default_prompt_name": PROMPT}


def _checkpoint_activations_(model: PreTrainedModel) -> None:
    """Recompute activations in the backward; on the model itself, as the trainer's way does not know modules."""
    new_name = getattr(model, "activation_checkpointing_enable", None)  # older releases lack it
    (new_name or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.disable_input_require_grads()  # they would flow through frozen first blocks


def build_loss(config: TrainConfig, model: SentenceTransformer) -> nn.Module:
    """The stock loss of the method: softmax over three classes for sbert, in-batch negatives for the others."""
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
        SoftmaxLoss,
    )

    if config.method == "sbert":
        dimension = model.get_embedding_dimension()
        assert dimension is not None
        return SoftmaxLoss(model, dimension, num_labels=3)
    options: dict[str, Any] = {"scale": config.scale, "gather_across_devices": config.gather_across_devices}
    if config.symmetric:
        options |= {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    if config.same_side_negatives:
        directions = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
        options |= {"directions": directions, "partition_mode": "joint"}
    loss: nn.Module
    if config.mini_batch_size is not None:
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=config.mini_batch_size, **options)
    else:
        loss = MultipleNegativesRankingLoss(model, **options)
    return MatryoshkaLoss(model, loss, _widths(config, model)) if config.matryoshka_dims else loss


def _widths(config: TrainConfig, model: SentenceTransformer) -> list[int]:
    """Of a Matryoshka loss, the full one first.

    Raises:
        UserError: one is wider than the model.
    """
    full = model.get_embedding_dimension()
    assert full is not None
    if wider := [width for width in config.matryoshka_dims if width > full]:
        raise UserError(f"matryoshka_dims names {wider[0]}, the model's embeddings have {full} dimensions")
    return sorted({*config.matryoshka_dims, full}, reverse=True)
