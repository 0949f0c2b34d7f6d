"""`RunFolder`: the files of one training run, and when it may start, go on or be replaced."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from lacos_st.errors import UserError
from lacos_st.settings import RUN_CONTROL, TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """The files of one run: `model/` (written last, whole or not at all), `checkpoints/`, `train.yaml`, `log.jsonl`."""

    path: Path

    @property
    def model(self) -> Path:
        """The trained model, written last: whole or not at all."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """The trainer's checkpoints: the last and the best."""
        return self.path / "checkpoints"

    @property
    def config(self) -> Path:
        """The options that reproduce the run."""
        return self.path / "train.yaml"

    @property
    def log(self) -> Path:
        """The trainer's figures, a JSON object a line."""
        return self.path / "log.jsonl"

    def check(self, config: TrainConfig) -> None:
        """Whether `config` may start here; changes nothing.

        Raises:
            UserError: The folder is a file, or holds something and neither `overwrite` nor `resume` was given; on
                `resume`, there is no checkpoint, or the run was started with other options.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output {self.path} is a file: name a folder")
        if config.resume:
            if self.last_checkpoint() is None:
                raise UserError(f"output {self.path} holds no whole checkpoint to resume from: train without resume")
            self._check_same(config)
        elif self.path.is_dir() and any(self.path.iterdir()) and not config.overwrite:
            raise UserError(
                f"output folder {self.path} exists and is not empty: choose another one, replace the run in it with "
                "--overwrite, or go on with it with --resume"
            )

    def _check_same(self, config: TrainConfig) -> None:
        old = dataclasses.asdict(TrainConfig.from_yaml(self.config))
        new = dataclasses.asdict(config)
        # where it lies and how it shows itself may change between the two halves of a run
        skip = (*RUN_CONTROL, "output", "progress", "cpu")
        changed = [f"{key} {old[key]!r} -> {new[key]!r}" for key in old if key not in skip and old[key] != new[key]]
        if changed:
            raise UserError(
                f"the run in {self.path} was started with other options ({'; '.join(changed)}): resume with those of "
                f"{self.config.name}, or train anew with --overwrite"
            )

    def last_checkpoint(self) -> Path | None:
        """The checkpoint of the highest step that was written to its end (the trainer's state is written last)."""
        whole = [
            folder
            for folder in self.checkpoints.glob("checkpoint-*")
            if folder.name.rsplit("-", 1)[1].isdigit() and (folder / "trainer_state.json").is_file()
        ]
        return max(whole, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)

    def start(self, config: TrainConfig) -> None:
        """Make the folder and write `train.yaml`.

        With `overwrite`, clear away the old run but for its model, which stays until the new one is ready.
        """
        if not config.resume:
            self.clear(and_folder=False)
        self.path.mkdir(parents=True, exist_ok=True)
        self.config.write_text(config.to_yaml(), encoding="utf-8")

    def clear(self, *, and_folder: bool) -> None:
        """Remove what a run writes besides its model; `and_folder`: the folder too where nothing else is in it."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for file in (self.config, self.log):
            file.unlink(missing_ok=True)
        if and_folder and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()
