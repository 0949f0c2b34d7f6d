"""`TrainConfig`: what a training run is told. Nothing here needs torch, so that `lacos-st --help` is quick.

>>> TrainConfig.from_mapping({"base": "b", "data": "pairs.tsv", "output": "run", "lr": "1e-3"}).resolved().lr
0.001
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from lacos_st.errors import UserError
from lacos_st.options import build_options, option, read_yaml, required
from lacos_st.presets import PRESETS, fill

Method = Literal["lacos", "lora", "full", "freeze", "bias", "sbert"]
Dtype = Literal["float32", "bfloat16", "float16"]
Pooling = Literal["mean", "weightedmean", "lasttoken", "cls", "max", "mean_sqrt_len_tokens"]

ADAPTER_METHODS = ("lacos", "lora")
REPORTS = ("none", "tensorboard", "wandb")
IN_BATCH = (
    "mini_batch_size",
    "symmetric",
    "same_side_negatives",
    "hard_negatives",
    "matryoshka_dims",
    "gather_across_devices",
)
"""Options of the losses with in-batch negatives."""

RUN_CONTROL = (
    "overwrite",
    "resume",
    "fit",
    "force",
)  # how a run is started, not what it computes: not written to train.yaml


@dataclass(frozen=True)
class TrainConfig:
    """Every option of `lacos-st train`; what each one means stands in its `help`, which the command line shows too.

    The defaults are the paper's (arXiv 2305.06404) where it names a value. It prints no temperature in its equation
    (2): `scale` is that of the stock MultipleNegativesRankingLoss, cosines times 20. Another preset fills in its own
    values where none are given; that is `from_mapping`'s work, which knows what was given.
    """

    base: str = required(
        "the model to start from: a hub name, a folder, a GGUF file, or an embedded model (bloom-nano, bert-nano)"
    )
    data: tuple[str, ...] = required("training data: files, folders or hub names (owner/name:config@split); mixed")
    output: str = required("the run's folder: model/, checkpoints/, train.yaml and log.jsonl are written into it")
    method: Method = option(
        "lacos",
        "lacos: 8-bit base + LoRA; lora: float base + LoRA; full: every weight; freeze: all but the embeddings and the "
        "first frozen_blocks; bias: biases only; these with in-batch negatives. sbert: every weight, softmax over "
        "three NLI classes (the baseline)",
    )
    preset: Literal["paper", "recipe", "best"] = option(
        "paper",
        "whose values stand where none are given: paper (LACoS-BLOOM, arXiv 2305.06404), recipe (the compute-optimal "
        "recipe, arXiv 2406.04165: symmetric loss, scale 40, batch 1024, cosine decay, learning rate by size, ...), "
        "best (what won on STS dev at equal compute; lacos and lora: rank 16 on all linear layers, last-token pooling, "
        "scale 50, symmetric, batch 64, cosine decay, learning rate 1.6e-3)",
    )
    revision: str | None = option(None, "revision of a base from the hub")

    pooling: Pooling = option("mean", "how token embeddings become one sentence embedding")
    attention: Literal["causal", "bidirectional"] = option(
        "causal", "what a token of a decoder sees: what stands before it, or its whole text (not BLOOM)"
    )
    echo: bool = option(
        False, "read each text twice and pool the second reading, which has seen all of it; twice the tokens"
    )
    prompt: str | None = option(None, "text put before each sentence, in training and by the trained model")
    chat_template: bool = option(False, "wrap sentences in the tokenizer's chat template, where it has one")
    max_seq_length: int | None = option(None, "tokens kept of a sentence; none: what the base allows")
    lora_rank: int | None = option(
        None, "rank of the adapters (lacos, lora); none: the preset's, 4 (paper), 128 (recipe) or 16 (best)"
    )
    lora_alpha: float | None = option(None, "adapters are scaled by alpha/rank; none: alpha = rank")
    lora_dropout: float = option(0.0, "dropout before the adapters")
    lora_targets: tuple[str, ...] = option(
        ("paper",), "layers with adapters: paper (feed-forward and embedding), recipe (all), all-linear, or names"
    )
    adapter_dtype: Literal["float32", "bfloat16"] = option("float32", "dtype of the adapters")
    frozen_blocks: int | None = option(None, "first blocks that stay as they are, beside the embeddings (freeze)")
    code: Literal["dynamic", "linear"] = option("dynamic", "8-bit code of the base (lacos)")
    block_size: int = option(256, "weights per absmax (lacos)")
    alibi: Literal["exact", "reference"] = option("exact", "how BLOOM's position bias is computed")
    embedding_device: Literal["cpu"] | None = option(None, "cpu: the token embedding stays in host memory (lacos)")
    dtype: Dtype = option("float32", "dtype of the weights that are not stored in 8 bit")

    scale: float = option(20.0, "factor on the cosines in the loss, 1/temperature (not sbert)")
    symmetric: bool = option(False, "also rank anchors for each positive: the mean of both directions (not sbert)")
    same_side_negatives: bool = option(
        False, "also take a batch's other anchors, and its other positives, for negatives: one softmax (not sbert)"
    )
    hard_negatives: bool = option(
        False,
        "a third column: contradictions of the same premise, or the data's column negative; a pair without one gets "
        "another's positive (not sbert)",
    )
    matryoshka_dims: tuple[int, ...] = option(
        (), "widths to which embeddings can be cut: the loss is the sum over these and the full one (not sbert)"
    )
    optimizer: Literal["adam8bit", "adamw"] = option("adam8bit", "adam8bit: 8-bit Adam of bitsandbytes")
    lr: float | None = option(
        None, "peak learning rate; none: the preset's for the method, in recipe also for the size"
    )
    batch_size: int = option(32, "pairs in a batch, of each process: each one sees batch_size - 1 negatives")
    gradient_accumulation: int = option(
        1,
        "batches whose gradients are averaged for one step; each pair still sees its own batch's negatives only "
        "(mini_batch_size gives more negatives in the same memory)",
    )
    epochs: float = option(1.0, "passes over the data")
    max_steps: int | None = option(None, "stop after so many steps, whatever epochs says")
    warmup: float = option(0.1, "steps over which the learning rate rises: below 1 a part of all, else their number")
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = option("linear", "learning rate after warm-up")
    weight_decay: float = option(0.0, "decoupled weight decay; 0 makes AdamW plain Adam")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0 leaves them")
    autocast: Literal["bfloat16", "float16"] | None = option(
        None, "mixed precision during training; float16 on a GPU only"
    )
    gradient_checkpointing: bool = option(False, "recompute activations instead of keeping them")
    mini_batch_size: int | None = option(
        None, "pairs embedded at a time, by the cached loss: the same batch and negatives in less memory (not sbert)"
    )
    gather_across_devices: bool = option(
        False, "with several processes: each pair sees the negatives of all their batches, as in one batch (not sbert)"
    )
    seed: int = option(42, "seed of the adapters, the order of the data and the validation split")

    max_rows: int | None = option(None, "rows to keep of all the data, after shuffling; see load_pairs")
    on_bad_row: Literal["error", "skip"] = option(
        "error", "malformed rows: error names file and line and stops; skip leaves them out, counted and named"
    )
    exclude_sts: tuple[str, ...] = option(
        (), "folders or files of graded pairs: rows with one of their sentences are left out"
    )
    allow_duplicates: bool = option(False, "let a text stand twice in a batch (a false negative)")
    eval_rows: int = option(500, "rows split off for the validation loss, a tenth of the data at most; 0: none")
    eval_data: tuple[str, ...] = option((), "validation data of their own instead of a split")
    eval_sts: str | None = option(None, "file of graded pairs (score, s1, s2 as last columns) scored during training")
    eval_steps: int | None = option(None, "steps between evaluations, each with a checkpoint; none: a tenth of all")
    best: Literal["loss", "sts"] = option("loss", "what the kept checkpoint is best at")

    log_steps: int = option(10, "steps between lines of the log")
    report_to: tuple[str, ...] = option(
        (), "where the figures of the log go too, by the stock trainer: tensorboard, wandb; none for nowhere"
    )
    progress: bool = option(True, "show a progress bar")
    cpu: bool = option(False, "train on the CPU even where there is a GPU")
    fit: bool = option(False, "where memory is short, switch on gradient_checkpointing or mini_batch_size")
    force: bool = option(False, "start even where the predicted memory is not there")
    overwrite: bool = option(False, "replace the run that the output folder holds; other files in it are left alone")
    resume: bool = option(False, "go on from the last checkpoint in the output folder")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "options") -> TrainConfig:
        """Fill in the preset's values, check names and types, convert text to numbers (YAML 1.1 reads `1e-4` as text).

        Raises:
            UserError: A key is unknown, a required one is missing, or a value is not of the option's type.
        """
        return cast(TrainConfig, build_options(cls, fill(values), source=source))

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> TrainConfig:
        """The options in a YAML file, with `overrides` on top; raises as `from_mapping` and `read_yaml`."""
        return cls.from_mapping({**read_yaml(path), **overrides}, source=str(path))

    def to_yaml(self) -> str:
        """Every option that shapes the result, as the YAML text that `from_yaml` reads back to an equal config."""
        import yaml

        values = {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}
        for name in RUN_CONTROL:
            del values[name]
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def resolved(self) -> TrainConfig:
        """The same run with the method's defaults filled in; `lr` stays None where it depends on the base's size.

        Raises:
            UserError: The options contradict each other or a number is out of range.
        """
        adapters = self.method in ADAPTER_METHODS
        preset = PRESETS[self.preset]
        if self.method not in preset.lr:
            known = ", ".join(sorted(preset.lr))
            raise UserError(f"preset {self.preset} says nothing of method {self.method}: choose another, or {known}")
        rank = (preset.lora_rank if adapters else 0) if self.lora_rank is None else self.lora_rank
        if adapters and rank < 1:
            raise UserError(f"lora_rank is {rank} for method {self.method}, which trains adapters only: give 1 or more")
        if not adapters and rank != 0:
            raise UserError(f"method {self.method} has no adapters: leave out lora_rank ({rank}), or use lora")
        if (self.method == "freeze") != (self.frozen_blocks is not None):
            raise UserError(
                f"method {self.method} freezes no blocks: leave out frozen_blocks ({self.frozen_blocks}), or use freeze"
                if self.frozen_blocks is not None
                else "method freeze needs frozen_blocks: 0 freezes the embeddings alone; the recipe paper froze as few "
                "as possible up to 160M parameters, and half to 70 % of them at 1B"
            )
        for name in IN_BATCH:
            if self.method == "sbert" and getattr(self, name):
                raise UserError(f"{name} is for in-batch negatives, sbert has none: leave it out")
        if self.symmetric and self.same_side_negatives:
            raise UserError("symmetric and same_side_negatives are two losses: give one of them")
        if any(width < 1 for width in self.matryoshka_dims):
            raise UserError(f"matryoshka_dims is {self.matryoshka_dims}: expected widths of 1 or more")
        if self.embedding_device is not None and self.method != "lacos":
            raise UserError(f"embedding_device is for a token embedding in 8 bits: method {self.method} has none")
        if unknown := [name for name in self.report_to if name not in REPORTS]:
            raise UserError(f"report_to is {', '.join(unknown)}: expected none, or of {', '.join(REPORTS[1:])}")
        if "none" in self.report_to and len(self.report_to) > 1:
            raise UserError(f"report_to is {', '.join(self.report_to)}: give none alone, or leave it out")
        if self.overwrite and self.resume:
            raise UserError("overwrite and resume exclude each other: give one of them")
        if self.best == "sts" and self.eval_sts is None:
            raise UserError("best is 'sts' but there is no eval_sts: name a file of graded pairs")
        if self.best == "loss" and self.eval_sts is not None and self.eval_rows == 0 and not self.eval_data:
            raise UserError("best is 'loss' but there are no validation rows: set best to 'sts', or eval_rows above 0")
        lr = preset.lr[self.method] if self.lr is None else self.lr
        config = dataclasses.replace(self, lora_rank=rank, lr=lr)
        for name, low in _AT_LEAST.items():
            value = getattr(config, name)
            if value is not None and not (value >= low and value < float("inf")):
                raise UserError(f"{name} is {value}: expected {low} or more")
        if not 0 <= config.seed <= MOST_SEED:
            raise UserError(f"seed is {config.seed}: expected 0 to {MOST_SEED}")
        if not 0 <= config.lora_dropout < 1:
            raise UserError(f"lora_dropout is {config.lora_dropout}: expected 0 or more, below 1")
        for name in ("lr", "scale", "epochs", "lora_alpha"):
            if (value := getattr(config, name)) is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}: expected a number above 0")
        return config


MOST_SEED = 2**32 - 1
"""That numpy's generator takes, which transformers seeds before a training."""

_AT_LEAST = {
    "batch_size": 2,  # a batch of one has no negative
    "mini_batch_size": 1,
    "gradient_accumulation": 1,
    "max_steps": 1,
    "max_rows": 1,
    "eval_rows": 0,
    "eval_steps": 1,
    "log_steps": 1,
    "warmup": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "max_seq_length": 1,
    "frozen_blocks": 0,
}
