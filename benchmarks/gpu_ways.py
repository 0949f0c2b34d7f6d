"""Parts of `benchmarks.gpu` on whole models: training steps and encoding, way by way; peak memory of the largest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from benchmarks import contenders, gpu_models, lengths, synthetic
from benchmarks.gpu_models import Published
from benchmarks.gpu_scale import TINY, Figures, Scale
from lacos_st.recipe.cost import useful_flops
from lacos_st.recipe.shapes import shape_of
from lacos_st.trainer import LacosTrainer


class Steps:
    """Training steps of a model on one batch: forward, MultipleNegativesRankingLoss, backward, clipping, optimiser."""

    def __init__(self, model: SentenceTransformer, scale: Scale, size: Published, output: str, *, ours: bool) -> None:
        self.trainer = (LacosTrainer if ours else SentenceTransformerTrainer)(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=output,
                use_cpu=scale.device == "cpu",
                optim="adamw_bnb_8bit" if ours else "adamw_torch",
                learning_rate=1e-4,
                report_to="none",
            ),
            loss=MultipleNegativesRankingLoss(model),
        )
        self.trainer.current_gradient_accumulation_steps = 1  # `train` would set it before the first step
        self.optimizer = self.trainer.create_optimizer()
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.texts = lengths.texts(scale.batch, words=size.shape.words)
        self.model = model

    def step(self) -> float:
        """One step; the loss."""
        assert self.trainer.data_collator is not None
        batch = self.trainer.data_collator([{"anchor": first, "positive": second} for first, second in self.texts])
        loss = self.trainer.training_step(self.model, batch)
        self.trainer.accelerator.clip_grad_norm_(self.trained, self.trainer.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss)


@contextmanager
def folders(size: Published) -> Iterator[tuple[str, str]]:
    """A tiny checkpoint with the tokenizer for this size's words, and an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write(Path(folder), TINY)
        synthetic.tokenizer(size.shape.words).save_pretrained(folder)
        yield folder, str(Path(folder, "output"))


def throughput(scale: Scale, way: str) -> Figures:
    """Per size, a training step and `encode` of one way: seconds and useful TFLOP/s, and the step's peak memory."""
    for size in scale.sizes:
        scale.forget()
        try:
            yield size.name, _throughput(scale, way, size)
        except torch.cuda.OutOfMemoryError as error:
            yield size.name, {"problem": f"out of memory: {str(error).splitlines()[0]}"}


def _throughput(scale: Scale, way: str, size: Published) -> dict[str, Any]:
    shape = shape_of(size.shape.config)
    tokens = lengths.tokens(scale.batch)
    texts = [text for pair in lengths.texts(lengths.read(), words=size.shape.words) for text in pair][: scale.sentences]
    with folders(size) as (folder, output):
        model = gpu_models.encoder(way, size.shape, folder, device=scale.device, dtype=scale.dtype)
        steps = Steps(model, scale, size, output, ours=way.startswith("ours"))
        step = scale.seconds(steps.step)
        figures: dict[str, Any] = {
            "step_seconds": step,
            "step_tflops": useful_flops(shape, tokens, rank=contenders.RANK, training=True) / step / 1e12,
            "tokens": sum(tokens),
            **scale.peak(),
        }
        del steps
        model.eval()
        sentences = [len(ids) for ids in model.tokenizer(texts).input_ids]
        encoding = scale.seconds(lambda: model.encode(texts, batch_size=128, convert_to_tensor=True))
        return figures | {
            "encode_seconds": encoding,
            "encode_tflops": useful_flops(shape, sentences, rank=contenders.RANK) / encoding / 1e12,
            "sentences_per_second": len(texts) / encoding,
        }


def memory(scale: Scale) -> Figures:
    """Peak memory of a step, ours, 8-bit, largest size: plain, with checkpointing, and with the table on the host."""
    size = scale.sizes[-1]
    for name, checkpointing, host in (
        ("plain", False, False),
        ("checkpointing", True, False),
        ("checkpointing, embedding on the host", True, True),
    ):
        scale.forget()
        try:
            with folders(size) as (folder, output):
                model = gpu_models.encoder(
                    "ours-8bit", size.shape, folder, device=scale.device, dtype=scale.dtype, host_embedding=host
                )
                if checkpointing:
                    enable_checkpointing_(model)
                steps = Steps(model, scale, size, output, ours=True)
                step = scale.seconds(steps.step)
                yield name, {"size": size.name, "step_seconds": step, **scale.peak()}
                del model, steps
        except torch.cuda.OutOfMemoryError as error:
            yield name, {"size": size.name, "problem": f"out of memory: {str(error).splitlines()[0]}"}


def enable_checkpointing_(model: SentenceTransformer) -> None:
    """Switch gradient checkpointing on, under its newer name or its older one."""
    module: Any = model[0]
    backbone = module.model
    enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
    enable({"use_reentrant": False})
