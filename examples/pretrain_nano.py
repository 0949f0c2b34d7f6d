"""Pretrain the two small models that ship with lacos_st, from public text, and store them in the 8-bit format.

    python examples/pretrain_nano.py --model bloom-nano --tokens 6000000
    python examples/pretrain_nano.py --model bert-nano --tokens 6000000
    python examples/pretrain_nano.py --ship lacos_st/assets

Both models see equal tokens of the same blocks. Each command goes on from its last checkpoint when it is run again; on
CUDA it is the same command with more tokens. See ``examples/pretrain_nano.md`` for the run behind the shipped models.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nano.shipping import ship
from nano.tokens import prepare, save_tokenizer
from nano.training import Pretraining, Settings
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
logger = logging.getLogger("pretrain_nano")

OBJECTIVES = {"bloom-nano": "causal", "bert-nano": "masked"}
MAX_TOKENS = 256
VOCABULARY = 16384


def build(name: str, *, hidden: int = 256, layers: int = 4, heads: int = 8, vocabulary: int = VOCABULARY) -> nn.Module:
    """A freshly initialised model: weights N(0, 0.02), no dropout (one epoch does not over-fit)."""
    from transformers import BertConfig, BertModel, BloomConfig

    from lacos_st.bloom import BloomEncoder

    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=3)
    if name == "bloom-nano":
        config = BloomConfig(
            vocab_size=vocabulary, hidden_size=hidden, n_layer=layers, n_head=heads,
            hidden_dropout=0.0, attention_dropout=0.0, use_cache=False, **ids,
        )  # fmt: skip
        return BloomEncoder(config)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, max_position_embeddings=MAX_TOKENS, hidden_act="gelu",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1, **ids,
    )  # fmt: skip
    model = BertModel._from_config(config, attn_implementation="sdpa", add_pooling_layer=False)
    sinusoidal_(model.embeddings.position_embeddings.weight, std=config.initializer_range)
    return model


@torch.no_grad()
def sinusoidal_(table: torch.Tensor, *, std: float) -> None:
    """Fill a learned position table (positions, H) with sinusoids of the given standard deviation.

    From random positions a masked model must first learn which of them are neighbours, and stays at the entropy of
    single words for long (seen at 1.5 M tokens, where this run ends at a few); from sinusoids it can read that off.
    """
    place = torch.arange(len(table))[:, None]
    rates = 10000.0 ** (-torch.arange(0, table.shape[1], 2) / table.shape[1])
    table[:, 0::2], table[:, 1::2] = torch.sin(place * rates), torch.cos(place * rates)
    table *= std / table.std()


def save_float(folder: Path, model: nn.Module, tokenizer: Path) -> None:
    """Write the float checkpoint in transformers' layout to `folder`, with the tokenizer of a ``tokenizer.json``."""
    from tokenizers import Tokenizer

    masked = model.config.model_type == "bert"
    model.config.architectures = ["BertModel" if masked else "BloomModel"]
    model.save_pretrained(str(folder))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = model.config.architectures  # save_pretrained writes the class's own name
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(Tokenizer.from_file(str(tokenizer)), folder, masked=masked, max_tokens=MAX_TOKENS)


def pretrain(
    name: str, model: nn.Module, settings: Settings, *, corpus: Path, work: Path, device: str, save_seconds: float
) -> dict[str, Any]:
    """Train a model to the end of its budget; write its float checkpoint, ``NAME-float``, and its row, ``NAME.json``.

    Args:
        name: of the run.
        model: as `build` returns it.
        settings: of the run.
        corpus: holds ``train.npy``, ``validation.npy`` and ``tokenizer.json``.
        work: for checkpoints, float model and row.
        device: torch device.
        save_seconds: seconds between checkpoints.

    Returns:
        The row.
    """
    train, validation = (np.load(corpus / f"{part}.npy", mmap_mode="r") for part in ("train", "validation"))
    run = Pretraining(model, train, validation, work / name, settings, device=device)
    held_out = run.run(save_seconds=save_seconds)
    save_float(work / f"{name}-float", run.model.cpu(), corpus / "tokenizer.json")
    row = {
        "tokens": run.step * run.tokens_per_step,
        "steps": run.step,
        "seconds": round(run.seconds),
        "device": device,
        "threads": torch.get_num_threads(),
        "held_out_loss_nats": round(held_out, 4),
        "command": f"python examples/{Path(sys.argv[0]).name} " + " ".join(sys.argv[1:]),
    }
    (work / f"{name}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    return row


def export_checkpoint(name: str, work: Path) -> None:
    """Write the float checkpoint of a run that still goes on, from its last saved state."""
    model = build(name)
    model.load_state_dict(torch.load(work / name / "checkpoint.pt", map_location="cpu", weights_only=True)["model"])
    save_float(work / f"{name}-float", model, work / "tokenizer.json")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(OBJECTIVES), action="append", help="to train; may be given twice")
    parser.add_argument("--tokens", type=int, default=6_000_000, help="budget of each model, in tokens")
    parser.add_argument("--minutes", type=float, help="budget of wall-clock minutes, over all resumed runs")
    parser.add_argument("--batch-blocks", type=int, default=32, help="blocks of 128 tokens in a step")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--corpus-scale", type=float, default=1.0, help="multiplies the share kept of each source")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LACOS_DATA", ROOT / "../shared/data")))
    parser.add_argument("--work", type=Path, default=ROOT / "runs/nano", help="for blocks, checkpoints, float models")
    parser.add_argument("--save-seconds", type=float, default=180.0, help="between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export", action="store_true", help="write float models from the last checkpoints, and stop")
    parser.add_argument("--ship", type=Path, metavar="DIR", help="store the float models in the 8-bit format in DIR")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Prepare the text once, then train, export or ship what was asked for."""
    given = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if given.export:
        for name in given.model or OBJECTIVES:
            export_checkpoint(name, given.work)
    elif given.model:
        prepare(given.data, given.work, vocabulary=VOCABULARY, scale=given.corpus_scale, seed=given.seed)
        for name in given.model:
            settings = Settings(
                objective=OBJECTIVES[name], tokens=given.tokens, minutes=given.minutes,
                batch_blocks=given.batch_blocks, peak_lr=given.lr, seed=given.seed,
            )  # fmt: skip
            torch.manual_seed(given.seed)
            pretrain(
                name, build(name), settings,
                corpus=given.work, work=given.work, device=given.device, save_seconds=given.save_seconds,
            )  # fmt: skip
    if given.ship:
        ship(given.work, given.ship)
    if not (given.export or given.model or given.ship):
        raise SystemExit("nothing to do: give --model bloom-nano, --model bert-nano, --export or --ship DIR")


if __name__ == "__main__":
    main()
