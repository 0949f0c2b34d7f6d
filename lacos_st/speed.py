"""What this machine computes a second in training: a random model's real steps, timed."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer, BloomConfig, BloomModel, PrinterCallback, TrainerCallback

from lacos_st.embedded import resolve
from lacos_st.methods import build_loss, build_model
from lacos_st.recipe.budget import Rate
from lacos_st.recipe.check import HELD
from lacos_st.recipe.cost import useful_flops
from lacos_st.recipe.machine import available_bytes
from lacos_st.recipe.shapes import shape_of
from lacos_st.recipe.units import show_flops
from lacos_st.settings import TrainConfig

SECONDS = 15.0
"""Of timed steps, where the machine does `FEWEST_STEPS` in it."""
MOST_SECONDS = 45.0
"""Of training, where it does not: one timed step is then enough. With the building of the model that is a minute."""
MOST_STEPS = 50
FEWEST_STEPS = 3
WARM_UP = 1  # steps that are not counted: memory is taken, kernels are chosen
SIZES = {"cpu": (512, 4, 32), "cuda": (2048, 8, 128)}
"""Width, blocks and pairs of a batch: large enough for the rate of the models that are planned there."""
HEAD = 64  # width of a head
LENGTH = 24  # words of a sentence
WORDS = "a the man woman child dog guitar river house plays sings runs reads sleeps in on near behind old red".split()
TOKENIZER = "bloom-nano"
RATE = 1e-5  # of learning, of which nothing depends here


class _Clock(TrainerCallback):
    """Notes when each step ends, and stops the training when there is enough."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds, self.device = seconds, device
        self.start = math.inf
        self.ends: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        timed = len(self.ends) - WARM_UP
        enough = timed >= FEWEST_STEPS and self.ends[-1] - self.ends[WARM_UP - 1] >= self.seconds
        if enough or (timed >= 1 and self.ends[-1] - self.start > MOST_SECONDS):
            control.should_training_stop = True


def measured_rate(*, seconds: float = SECONDS, size: tuple[int, int, int] | None = None, cpu: bool = False) -> Rate:
    """Train a random BLOOM on this machine and count: every weight, by the trainer of `lacos-st train`.

    In 32 bits on a CPU, with bfloat16 products on a GPU. The model's files lie in a temporary folder meanwhile.

    Args:
        seconds: of timed steps; the step that is under way is finished.
        size: width, blocks and pairs of a batch; None: `SIZES`.
        cpu: measure the CPU even where there is a GPU.

    Returns:
        Useful FLOP/s (`recipe.cost.useful_flops`), by the median of the steps; and the memory that is free.
    """
    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    memory = available_bytes(device)
    hidden, layers, pairs = size or SIZES[device]
    with tempfile.TemporaryDirectory(prefix="lacos-speed-") as folder:
        flops, times = _timed_steps(Path(folder), hidden, layers, pairs, seconds=seconds, device=device)
    rate = flops / median(times)
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    source = f"this machine ({name}): {show_flops(rate)}/s in {len(times)} training steps of {hidden} wide BLOOM blocks"
    if memory is not None and device == "cpu":
        memory = int(memory / HELD)
    return Rate(rate, source, device, "bfloat16" if device == "cuda" else "float32", memory)


def _timed_steps(
    folder: Path, hidden: int, layers: int, pairs: int, *, seconds: float, device: str
) -> tuple[float, list[float]]:
    """FLOP of a step, and seconds of each."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainingArguments

    from lacos_st.trainer import LacosTrainer

    tokenizer = AutoTokenizer.from_pretrained(resolve(TOKENIZER))
    tokenizer.save_pretrained(folder)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, n_layer=layers, n_head=hidden // HEAD, **special
    )
    BloomModel(config).save_pretrained(folder)
    options = TrainConfig(
        base=str(folder), data=(), output=str(folder), method="full", lora_rank=0, batch_size=pairs, cpu=device == "cpu"
    )
    model = build_model(options)
    random = Random(0)
    rows = {side: [" ".join(random.choices(WORDS, k=LENGTH)) for _ in range(MOST_STEPS * pairs)] for side in "ab"}
    lengths = [len(ids) for texts in rows.values() for ids in tokenizer(texts).input_ids]
    clock = _Clock(seconds, device)
    trainer = LacosTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "run"),
            use_cpu=device == "cpu",
            dataloader_pin_memory=device == "cuda",
            per_device_train_batch_size=pairs,
            max_steps=MOST_STEPS,
            bf16=device == "cuda",
            optim="adamw_torch",
            learning_rate=RATE,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict(rows),
        loss=build_loss(options, model),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    flops = useful_flops(shape_of(config), lengths, training=True, method="full") / MOST_STEPS
    ends = clock.ends
    return flops, [end - start for start, end in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
