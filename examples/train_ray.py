"""LACoS with Ray Train: python examples/train_ray.py train.yaml WORKERS [--cpu].

train.yaml holds the options of `lacos-st train`, its paths on a file system that all machines share. Ray starts the
processes, tells each which it is, and starts all of them anew where one dies: they go on from the last checkpoint.
Needs `pip install "ray[train]"`. Nothing in this repository runs this file: ray is not among what its tests install.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

RESTARTS = 3


def train_here(told: dict[str, Any]) -> None:
    """What each worker does; Ray has set RANK, WORLD_SIZE and the like, and has joined the processes."""
    from lacos_st.settings import TrainConfig
    from lacos_st.training import train

    config = TrainConfig.from_yaml(told["options"], gather_across_devices=True)
    begun = (Path(config.output) / "train.yaml").is_file()
    train(replace(config, cpu=told["cpu"], resume=begun))


def main(options: str, workers: int, *, cpu: bool) -> None:
    """Start the workers and wait for them."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        train_here,
        train_loop_config={"options": str(Path(options).resolve()), "cpu": cpu},
        torch_config=TorchConfig(backend="gloo" if cpu else "nccl"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=not cpu),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=RESTARTS)),
    )
    trainer.fit()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), cpu="--cpu" in sys.argv[3:])
