"""The two objectives, next token and masked token, over a sampled share of the vocabulary.

The output head over 16k entries would cost more than the four layers below it. A sampled softmax computes the
targets of the batch, all of them, and random others; the others' part of the partition function is scaled up by the
inverse of their share, which makes the estimate of the partition function unbiased and the full softmax its limit.
Source: Bengio and Senécal, "Adaptive importance sampling to accelerate training of a neural probabilistic language
model" (2008), with a uniform proposal.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import cross_entropy

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<mask>")
START_ID, END_ID, PAD_ID, MASK_ID = 1, 2, 3, 4


def sampled_softmax_loss(
    hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor, *, others: int, generator: torch.Generator
) -> torch.Tensor:
    """Mean cross-entropy over the unique targets and `others` random entries of the vocabulary.

    Args:
        hidden: float (N, H), the states that predict.
        targets: int64 (N,), what they predict.
        weight: float (V, H), the output embedding.
        others: number of vocabulary entries drawn beside the targets; all of them where fewer are left.
        generator: CPU generator of the draw.

    Returns:
        A scalar in nats per target. Equal to the full softmax where every entry is a candidate.
    """
    is_target = torch.zeros(weight.shape[0], dtype=torch.bool, device=targets.device)
    is_target[targets] = True
    positive, rest = is_target.nonzero().flatten(), (~is_target).nonzero().flatten()
    drawn = rest[torch.randperm(len(rest), generator=generator)[:others].to(rest.device)]
    candidates = torch.cat([positive, drawn])
    place = torch.empty(weight.shape[0], dtype=torch.int64, device=targets.device)
    place[candidates] = torch.arange(len(candidates), device=targets.device)
    logits = (hidden @ weight[candidates].T).float()
    if len(drawn) < len(rest):
        log_share = torch.zeros(len(candidates), device=logits.device)
        log_share[len(positive) :] = math.log(len(rest) / max(len(drawn), 1))
        logits = logits + log_share
    return cross_entropy(logits, place[targets])


def full_softmax_sum(hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> float:
    """Summed cross-entropy in nats over the whole vocabulary, 1,024 targets at a time; arguments as above."""
    parts = zip(hidden.split(1024), targets.split(1024), strict=True)
    return sum(cross_entropy((h @ weight.T).float(), t, reduction="sum").item() for h, t in parts)


def mask_tokens(
    blocks: torch.Tensor, *, probability: float, vocabulary: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """BERT's dynamic masking: of the chosen places 80 % become <mask>, 10 % a random token, 10 % stay.

    Args:
        blocks: int64 (B, T) on the CPU.
        probability: share of the ordinary tokens that is chosen.
        vocabulary: entries of the vocabulary.
        generator: CPU generator of the draws.

    Returns:
        The masked input (B, T) and the chosen places, bool (B, T); special tokens are never chosen.
    """
    chosen = (torch.rand(blocks.shape, generator=generator) < probability) & (blocks >= len(SPECIAL_TOKENS))
    how = torch.rand(blocks.shape, generator=generator)
    random = torch.randint(len(SPECIAL_TOKENS), vocabulary, blocks.shape, generator=generator)
    masked = torch.where(chosen & (how < 0.8), torch.full_like(blocks, MASK_ID), blocks)
    return torch.where(chosen & (how >= 0.9), random, masked), chosen
