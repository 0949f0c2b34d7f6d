"""The published sizes of BLOOM and Pythia, so that planning for them needs no network."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from lacos_st.errors import UserError
from lacos_st.recipe.shapes import ModelShape, shape_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OWNERS = ("bigscience", "EleutherAI")
"""Who published the models of `PUBLISHED` on the hub."""

BLOOM_VOCABULARY = 250_880
PUBLISHED: dict[str, tuple[str, dict[str, int]]] = {
    # hidden, layers, heads: config.json of bigscience/bloom-*; Le Scao et al. 2022 (arXiv 2211.05100), table 3
    **{
        f"bloom-{size}": (
            "bloom",
            {"vocab_size": BLOOM_VOCABULARY, "hidden_size": hidden, "n_layer": layers, "n_head": heads},
        )
        for size, hidden, layers, heads in (
            ("560m", 1024, 24, 16),
            ("1b1", 1536, 24, 16),
            ("1b7", 2048, 24, 16),
            ("3b", 2560, 30, 32),
            ("7b1", 4096, 30, 32),
        )
    },
    # config.json of EleutherAI/pythia-*; Biderman et al. 2023 (arXiv 2304.01373), table 1
    **{
        f"pythia-{size}": (
            "gpt_neox",
            {
                "vocab_size": vocabulary,
                "hidden_size": hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "intermediate_size": 4 * hidden,
                "max_position_embeddings": 2048,
            },
        )
        for size, hidden, layers, heads, vocabulary in (
            ("14m", 128, 6, 4, 50_304),
            ("31m", 256, 6, 8, 50_304),
            ("70m", 512, 6, 8, 50_304),
            ("160m", 768, 12, 12, 50_304),
            ("410m", 1024, 24, 16, 50_304),
            ("1b", 2048, 16, 8, 50_304),
            ("1.4b", 2048, 24, 16, 50_304),
            ("2.8b", 2560, 32, 32, 50_304),
            ("6.9b", 4096, 32, 32, 50_432),
            ("12b", 5120, 36, 40, 50_688),
        )
    },
}
"""Model type and configuration, by the name without its owner's."""


def published(name: str) -> PreTrainedConfig | None:
    """The configuration of a published BLOOM or Pythia, with or without its owner's name; None for any other name."""
    owner, _, short = name.rpartition("/")
    if short not in PUBLISHED or owner not in ("", *OWNERS):
        return None
    from transformers import AutoConfig

    model_type, sizes = PUBLISHED[short]
    return AutoConfig.for_model(model_type, dtype="float16", **sizes)


@cache
def published_shape(name: str) -> ModelShape:
    """The shape of a published size, such as "bloom-7b1".

    Raises:
        UserError: the name is not in `PUBLISHED`.
    """
    config = published(name)
    if config is None:
        raise UserError(f"{name!r} is no published size known here: expected one of {', '.join(PUBLISHED)}")
    return shape_of(config)
