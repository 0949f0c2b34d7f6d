"""Pretrain a ladder of causal models for the sweep: one tokenizer, equal tokens of the same blocks, growing size.

    python examples/pretrain_nano.py --model bloom-nano --tokens 7500000      # prepares runs/nano once
    python examples/pretrain_ladder.py --tokens 2500000

The smallest model comes first, so that a sweep can begin while the larger ones are trained. The command goes on from
its last checkpoint when it is run again and leaves models that are complete as they are; on CUDA it is the same command
with more tokens. ``examples/pretrain_ladder.md`` holds the run behind the project's own law.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import torch
from nano.training import Settings
from pretrain_nano import ROOT, build, pretrain

logger = logging.getLogger("pretrain_ladder")

# hidden, layers, heads. Widths that 64 divides, so that every matrix has whole blocks of 8-bit weights; heads of 32.
LADDER = {
    "bloom-0.2m": (64, 4, 2),
    "bloom-0.6m": (128, 3, 4),
    "bloom-1.8m": (192, 4, 6),
    "bloom-3.9m": (256, 5, 8),
    "bloom-10.6m": (384, 6, 12),
}
REFERENCE_HIDDEN, REFERENCE_LR = 256, 1.5e-3  # bloom-nano's


def peak_lr(hidden: int) -> float:
    """A smaller peak learning rate for a wider model, by the square root of the width."""
    return float(REFERENCE_LR * (REFERENCE_HIDDEN / hidden) ** 0.5)


def is_complete(name: str, work: Path, *, tokens: int) -> bool:
    """Whether `work` holds the row of a model that was trained on at least `tokens`, and its float checkpoint."""
    row, config = work / f"{name}.json", work / f"{name}-float" / "config.json"
    return row.exists() and config.exists() and json.loads(row.read_text(encoding="utf-8"))["tokens"] >= tokens


def climb(arguments: argparse.Namespace) -> None:
    """Train the models that were asked for, smallest first."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name, (hidden, layers, heads) in LADDER.items():
        if name not in arguments.model:
            continue
        if is_complete(name, arguments.work, tokens=arguments.tokens):
            logger.info("%s is complete: left as it is", name)
            continue
        settings = Settings(
            objective="causal", tokens=arguments.tokens, batch_blocks=arguments.batch_blocks,
            peak_lr=peak_lr(hidden), seed=arguments.seed,
        )  # fmt: skip
        torch.manual_seed(arguments.seed)
        model = build("bloom-nano", hidden=hidden, layers=layers, heads=heads)
        row = pretrain(
            name, model, settings,
            corpus=arguments.corpus, work=arguments.work, device=arguments.device, save_seconds=arguments.save_seconds,
        )  # fmt: skip
        logger.info("%s: held-out loss %.4f after %d s", name, row["held_out_loss_nats"], row["seconds"])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(LADDER), nargs="+", default=list(LADDER), help="these models only")
    parser.add_argument("--tokens", type=int, default=2_500_000, help="budget of each model, in tokens")
    parser.add_argument("--batch-blocks", type=int, default=8, help="blocks of 128 tokens in a step")
    parser.add_argument("--corpus", type=Path, default=ROOT / "runs/nano", help="blocks and tokenizer, read only")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/ladder", help="for checkpoints and float models")
    parser.add_argument("--save-seconds", type=float, default=180.0, help="between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    if not (given.corpus / "train.npy").exists():
        parser.error(f"{given.corpus} holds no train.npy: run examples/pretrain_nano.py first, or name --corpus")
    return given


def main(arguments: list[str] | None = None) -> None:
    """Train the ladder."""
    given = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    climb(given)


if __name__ == "__main__":
    main()
