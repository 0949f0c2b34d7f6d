"""A run whose memory is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lacos_st.errors import UserError

Method = Literal["encode", "lacos", "lora", "full", "freeze", "bias", "sbert"]
METHODS: tuple[Method, ...] = ("encode", "lacos", "lora", "full", "freeze", "bias", "sbert")
QUANTIZED: tuple[Method, ...] = ("encode", "lacos")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Job:
    """What is run, on what.

    Attributes:
        method: encode (no training), or one of `lacos-st train`.
        batch_size: pairs in a training batch; sentences in one of `encode`.
        columns: sentences of a pair: 2, or 3 with hard negatives.
        length: mean tokens of a sentence.
        longer_side: mean tokens of a sentence on the longer side of the pairs, which a cached loss embeds by itself; 0
            for `length`.
        mean_square: mean of the squares of the lengths; 0 for sentences of one length.
        quantized: whether the base is stored in 8 bits; None: for encode and lacos.
        dtype: of the float weights and the activations.
        device: "cpu" or "cuda".
        rank: of the adapters (lacos, lora).
        targets: where adapters go, see `lora_targets`.
        adapter_dtype: of the adapters.
        frozen_blocks: first blocks that are frozen, beside the embeddings (freeze).
        block_size: weights that share an absmax.
        optimizer: "adam8bit" or "adamw".
        checkpointing: compute each block again in the backward.
        mini_batch: pairs that a cached loss embeds at a time; None: a loss that is not cached.
        embedding_device: "cpu" leaves the base's token embedding off a GPU; None: `device`.

    Raises:
        UserError: a dtype or a method that is not known, or a number below 1.
    """

    method: Method
    batch_size: int = 32
    columns: int = 2
    length: float = 32.0
    longer_side: float = 0.0
    mean_square: float = 0.0
    quantized: bool | None = None
    dtype: str = "float32"
    device: str = "cpu"
    rank: int = 4
    targets: str | Sequence[str] = "paper"
    adapter_dtype: str = "float32"
    frozen_blocks: int = 0
    block_size: int = 256
    optimizer: Literal["adam8bit", "adamw"] = "adam8bit"
    checkpointing: bool = False
    mini_batch: int | None = None
    embedding_device: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"method is {self.method!r}: expected one of {', '.join(METHODS)}")
        for name in ("dtype", "adapter_dtype"):
            if getattr(self, name) not in ITEM_BYTES:
                raise UserError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(ITEM_BYTES)}")
        for name in ("batch_size", "length", "rank", "block_size", "mini_batch"):
            if (value := getattr(self, name)) is not None and not 1 <= value < float("inf"):
                raise UserError(f"{name} is {value}: expected 1 or more")
        if not self.mean_square:
            object.__setattr__(self, "mean_square", self.length**2)

    @property
    def trains(self) -> bool:
        """Whether there is a backward."""
        return self.method != "encode"

    @property
    def adapted(self) -> bool:
        """Whether adapters, and nothing else, are trained."""
        return self.method in ("lacos", "lora")

    @property
    def trains_matrices(self) -> bool:
        """Whether weights of the base are trained, not biases or adapters alone."""
        return self.trains and not self.adapted and self.method != "bias"

    @property
    def stored_in_8bit(self) -> bool:
        """Whether the base is."""
        return self.method in QUANTIZED if self.quantized is None else self.quantized

    def without_checkpointing(self) -> Job:
        """The same run, keeping all activations."""
        return replace(self, checkpointing=False)
