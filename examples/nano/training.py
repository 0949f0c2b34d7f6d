"""The pretraining loop of one model: resumable, on a budget of tokens or of minutes, the same on CPU and CUDA."""

from __future__ import annotations

import csv
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nano.objective import START_ID, full_softmax_sum, mask_tokens, sampled_softmax_loss

logger = logging.getLogger(__name__)

DECAY_SHARE = 0.2  # of the steps, as in warm-up / stable / decay (Hu et al. 2024, MiniCPM, section 4: 10 % or more)


@dataclass(frozen=True)
class Settings:
    """What decides the weights: with equal settings and data an interrupted run ends where an uninterrupted one does.

    Attributes:
        objective: ``"causal"`` or ``"masked"``.
        tokens: budget in tokens, rounded up to whole steps; it may be changed on resume until the decay begins.
        minutes: budget of wall-clock minutes over all runs; the decay begins at 80 % of it, whatever `tokens` says.
        batch_blocks: blocks in a step.
        peak_lr: learning rate between warm-up and decay.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's, on matrices alone.
        clip: largest norm of the gradient.
        others: entries of the vocabulary beside the targets in the sampled softmax.
        masked_share: share of the tokens that the masked model predicts.
        seed: of order, masks and candidates.
    """

    objective: str
    tokens: int
    minutes: float | None = None
    batch_blocks: int = 32
    peak_lr: float = 1.5e-3
    warmup_steps: int = 60
    weight_decay: float = 0.01
    clip: float = 1.0
    others: int = 1024
    masked_share: float = 0.2
    seed: int = 0


def learning_rate(step: int, *, total_steps: int, settings: Settings) -> float:
    """Learning rate of a step: linear warm-up, flat, linear to zero over the last fifth."""
    warm = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
    decay = min(1.0, (total_steps - step) / max(DECAY_SHARE * total_steps, 1.0))
    return settings.peak_lr * min(warm, decay)


class Pretraining:
    """State of one run: model, optimiser, steps done, seconds spent; `run` goes on from the last checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        train: np.ndarray,
        validation: np.ndarray,
        folder: Path,
        settings: Settings,
        *,
        device: str,
    ):
        """Take the model to the device and, where `folder` holds a checkpoint, go back to it.

        Args:
            model: `BloomEncoder` or `BertModel`; its input embedding is the output embedding too.
            train: uint16 (blocks, T).
            validation: uint16 (blocks, T).
            folder: for ``checkpoint.pt`` and ``loss.csv``.
            settings: of the run.
            device: torch device.

        Raises:
            ValueError: fewer blocks than a batch, an unknown objective, or a checkpoint of another objective or batch.
        """
        if len(train) < settings.batch_blocks:
            raise ValueError(f"{len(train)} blocks to train on, one batch takes {settings.batch_blocks}")
        if settings.objective not in ("causal", "masked"):
            raise ValueError(f'objective {settings.objective!r}: expected "causal" or "masked"')
        self.model = model.to(device).train()
        self.train_blocks, self.validation_blocks = train, validation
        self.folder, self.settings, self.device = folder, settings, device
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.peak_lr, betas=(0.9, 0.98), eps=1e-8, fused=True)
        self.step, self.seconds = 0, 0.0
        self.tokens_per_step = settings.batch_blocks * train.shape[1]
        self.total_steps = math.ceil(settings.tokens / self.tokens_per_step)
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._restore()

    @property
    def checkpoint(self) -> Path:
        """The one checkpoint file."""
        return self.folder / "checkpoint.pt"

    @property
    def weight(self) -> torch.Tensor:
        """Input and output embedding (V, H)."""
        return self.model.get_input_embeddings().weight

    def batch(self, step: int) -> torch.Tensor:
        """int64 (B, T) on the CPU: each epoch has a random order of its own; a step's number decides its batch."""
        size, count = self.settings.batch_blocks, len(self.train_blocks)
        places = np.arange(step * size, (step + 1) * size)
        epochs = {int(e): np.random.default_rng((self.settings.seed, int(e))) for e in np.unique(places // count)}
        orders = {e: rng.permutation(count) for e, rng in epochs.items()}
        rows = [orders[int(place // count)][place % count] for place in places]
        return torch.from_numpy(self.train_blocks[rows].astype(np.int64))

    def predictions(self, blocks: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states that predict (N, H) and their targets (N,), for blocks (B, T) on the CPU."""
        if self.settings.objective == "causal":
            ids = blocks.to(self.device)
            hidden = self._forward(ids[:, :-1])
            return hidden.flatten(0, 1), ids[:, 1:].flatten()
        vocabulary = self.weight.shape[0]
        masked, chosen = mask_tokens(
            blocks, probability=self.settings.masked_share, vocabulary=vocabulary, generator=generator
        )
        masked[:, 0], chosen[:, 0] = START_ID, False  # the tokenizer puts <s> in front of every text
        # A quarter of the blocks lies further right, so that no position stays untrained; <s> keeps position 0.
        room = self.model.config.max_position_embeddings - blocks.shape[1]
        shift = torch.randint(0, room + 1, (len(blocks), 1), generator=generator)
        shift = shift * (torch.rand(len(blocks), 1, generator=generator) < 0.25)
        positions = torch.arange(blocks.shape[1])[None] + shift
        positions[:, 0] = 0
        hidden = self._forward(masked.to(self.device), position_ids=positions.to(self.device))
        chosen = chosen.to(self.device)
        return hidden[chosen], blocks.to(self.device)[chosen]

    def _forward(self, ids: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.device.startswith("cuda")):
            return self.model(input_ids=ids, **inputs).last_hidden_state

    def train_step(self) -> float:
        """One step of the optimiser; the loss in nats per target.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        hidden, targets = self.predictions(self.batch(self.step), generator)
        loss = sampled_softmax_loss(
            hidden.float(), targets, self.weight, others=self.settings.others, generator=generator
        )
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"loss {loss.item()} at step {self.step}: lower --lr and go on from {self.checkpoint}"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, total_steps=self.total_steps, settings=self.settings)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def held_out_loss(self, blocks: int) -> float:
        """Loss over the full vocabulary on the first validation blocks, nats per target, always with the same masks."""
        self.model.eval()
        total, count = 0.0, 0
        for start in range(0, min(blocks, len(self.validation_blocks)), self.settings.batch_blocks):
            rows = self.validation_blocks[start : min(start + self.settings.batch_blocks, blocks)]
            generator = torch.Generator().manual_seed(start)
            hidden, targets = self.predictions(torch.from_numpy(rows.astype(np.int64)), generator)
            total += full_softmax_sum(hidden.float(), targets, self.weight)
            count += len(targets)
        self.model.train()
        return total / count

    def run(
        self,
        *,
        save_seconds: float = 180.0,
        log_steps: int = 20,
        validate_steps: int = 200,
        until: Callable[[], bool] = lambda: False,
    ) -> float:
        """Train to the end of the budget and write ``loss.csv``; the held-out loss on all validation blocks.

        Args:
            save_seconds: seconds between checkpoints.
            log_steps: steps between lines of the log.
            validate_steps: steps between held-out losses on 64 blocks.
            until: asked after every step: True saves and stops early (the return value is then NaN).
        """
        started, saved, losses = time.monotonic() - self.seconds, time.monotonic(), []
        while self.step < self.total_steps:
            losses.append(self.train_step())
            self.seconds = time.monotonic() - started
            self._watch_the_clock()
            is_last = self.step == self.total_steps
            if self.step % log_steps == 0 or is_last:
                held_out = self.held_out_loss(64) if self.step % validate_steps == 0 else None
                self._log(sum(losses) / len(losses), held_out)
                losses = []
            if time.monotonic() - saved > save_seconds or is_last:
                self.save()
                saved = time.monotonic()
            if until():
                self.save()
                return math.nan
        held_out = self.held_out_loss(len(self.validation_blocks))
        logger.info(
            "%s: %d tokens, held-out loss %.4f", self.settings.objective, self.step * self.tokens_per_step, held_out
        )
        return held_out

    def _watch_the_clock(self) -> None:
        """Begin the decay when 80 % of the minutes are spent, unless it has begun."""
        budget, decay_at = self.settings.minutes, (1 - DECAY_SHARE) * self.total_steps
        if budget is not None and self.step < decay_at and self.seconds >= (1 - DECAY_SHARE) * budget * 60:
            self.total_steps = math.ceil(self.step / (1 - DECAY_SHARE))
            logger.info("%.0f s are spent: decaying until step %d", self.seconds, self.total_steps)

    def _log(self, loss: float, held_out: float | None) -> None:
        path = self.folder / "loss.csv"
        is_new = not path.exists()
        row: list[Any] = [self.step, self.step * self.tokens_per_step, f"{self.seconds:.1f}", f"{loss:.4f}"]
        row += ["" if held_out is None else f"{held_out:.4f}"]
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", "tokens", "seconds", "training_loss", "held_out_loss"])
            writer.writerow(row)
        logger.info("step %d of %d: loss %.3f, held out %s", self.step, self.total_steps, loss, row[-1] or "-")

    def save(self) -> None:
        """Replace the checkpoint in one move; no state of random numbers, because each step seeds its own."""
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "total_steps": self.total_steps,
            "seconds": self.seconds,
            "fixed": self._fixed(self.settings),
        }
        draft = self.checkpoint.with_suffix(".tmp")
        torch.save(state, draft)
        os.replace(draft, self.checkpoint)

    @staticmethod
    def _fixed(settings: Settings) -> str:
        return repr(replace(settings, tokens=0, minutes=None))  # the budget alone may change on resume

    def _restore(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["fixed"] != self._fixed(self.settings):
            raise ValueError(f"{self.checkpoint} is of {state['fixed']}: use those settings or another --work")
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]
        if self.step >= (1 - DECAY_SHARE) * state["total_steps"]:
            self.total_steps = state["total_steps"]  # the learning rate is falling: a new total would make it jump
        logger.info("going on at step %d of %d", self.step, self.total_steps)
