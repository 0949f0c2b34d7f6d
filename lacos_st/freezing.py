"""Training a part of a base: all but its first blocks, or its biases alone; and that the rest stays as it is."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from lacos_st.checkpoint import tensors_hash
from lacos_st.errors import UserError
from lacos_st.recipe.shapes import block_number, follows_blocks


def freeze_blocks_(model: PreTrainedModel, blocks: int) -> None:
    """Freeze the first blocks and all that comes before them: token embedding, positions, a norm of theirs.

    Args:
        model: without adapters, not quantised. Its blocks and what follows them (a last norm) are trained.
        blocks: how many of the blocks, k in the recipe paper (Ziarko et al. 2024, arXiv 2406.04165); 0 freezes the
            embeddings alone.

    Raises:
        UserError: fewer than 0, more blocks than the model has, or nothing is left to train.
    """
    layers = int(model.config.num_hidden_layers)
    if not 0 <= blocks <= layers:
        raise UserError(f"frozen_blocks is {blocks}: the model has {layers} blocks")
    reached = trained = False
    for name, parameter in model.named_parameters():
        number = block_number(name)
        reached |= number is not None
        parameter.requires_grad_(follows_blocks(name, reached=reached) if number is None else number >= blocks)
        trained |= parameter.requires_grad
    if not trained:
        raise UserError(
            f"frozen_blocks is {blocks}: that is all of {type(model).__name__}, nothing is left to train: freeze fewer"
        )


def train_biases_(model: PreTrainedModel) -> None:
    """Freeze everything but the biases, those of norms included.

    Raises:
        UserError: the model has none.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[2] == "bias")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"a {model.config.model_type} has no biases to train: choose lora, freeze or full")


def frozen_hash(model: nn.Module) -> str:
    """SHA-256 (hex) of every saved tensor that is not trained."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return tensors_hash({name: tensor for name, tensor in model.state_dict().items() if name not in trained})
