"""The benchmarks' model: a BLOOM with random weights, written as a checkpoint with a tokenizer of one token a word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BloomConfig, BloomModel, PreTrainedTokenizerFast
from transformers.utils import logging

from benchmarks import lengths

WEIGHT_STD = 0.05
"""At a width of 1024 this gives scores a standard deviation of 2.6: attention matters."""

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
"""The first ids of BLOOM's vocabulary."""


@dataclass(frozen=True)
class Shape:
    """Of a BLOOM."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int

    @property
    def linear(self) -> tuple[tuple[int, int], ...]:
        """(out, in) of each linear layer of a block."""
        h = self.hidden
        return (3 * h, h), (h, h), (4 * h, h), (h, 4 * h)

    @property
    def words(self) -> int:
        """How many of the vocabulary's tokens are words of the synthetic sentences."""
        return min(lengths.WORDS, self.vocabulary - len(SPECIAL))

    @property
    def config(self) -> BloomConfig:
        """For transformers."""
        return BloomConfig(
            vocab_size=self.vocabulary, hidden_size=self.hidden, n_layer=self.layers, n_head=self.heads, pad_token_id=3
        )


FULL = Shape(vocabulary=250880, hidden=1024, layers=6, heads=16)
"""As published for bloom-560m, with a quarter of its layers."""

QUICK = Shape(vocabulary=4096, hidden=256, layers=2, heads=4)


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    """One token a word of `lengths.word`, whatever the blanks between them."""
    vocabulary = {name: place for place, name in enumerate(SPECIAL)}
    vocabulary |= {lengths.word(number): number + len(SPECIAL) for number in range(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def write(folder: Path, shape: Shape, *, seed: int = 0) -> None:
    """Write config, float32 weights and tokenizer to `folder`, in transformers' layout."""
    torch.manual_seed(seed)
    with torch.device("meta"):
        model = BloomModel(shape.config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = 1.0 if "layernorm" in name and name.endswith("weight") or name == "ln_f.weight" else 0.0
            parameter.normal_(gain, WEIGHT_STD)
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer(shape.words).save_pretrained(folder)
