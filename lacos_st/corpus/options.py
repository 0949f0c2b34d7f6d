"""`EncodeOptions`: what a corpus is encoded with, and which of it a resumed run may not change."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

from lacos_st.errors import UserError
from lacos_st.options import option, required

Precision = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]
Format = Literal["parquet", "npy"]

FREE = ("model", "source", "output", "batch_size", "device", "workers", "ray", "resume", "overwrite")
"""What may differ when a run goes on: the model and the input are compared by what they hold, not by their names."""


@dataclass(frozen=True)
class EncodeOptions:
    """Options of `lacos_st.corpus.encode_corpus` and `lacos-st encode`.

    Raises:
        UserError: a number is out of its range, or a choice is unknown.
    """

    model: str = required("folder, hub name, or bloom-nano and bert-nano")
    source: str = required("a file or a folder of files: tsv, csv, jsonl or txt, also .gz; parquet")
    output: str = required("folder for the shards")
    column: str | None = option(None, "the sentences' column: its name (files with a header), or its number from 1")
    id_column: str | None = option(None, "a column that names each row, kept beside its embedding")
    header: bool | None = option(None, "the first row of tsv and csv has names [where a column is given by name]")
    format: Format = option("parquet", "shards of parquet, or .npy with .ids.jsonl beside them")
    precision: Precision = option("float32", "of the embeddings; int8 to ubinary as sentence-transformers has them")
    normalize: bool = option(False, "embeddings of length 1")
    truncate_dim: int | None = option(None, "the first dimensions only, for models trained so")
    prompt: str | None = option(None, "text put before each sentence")
    prompt_name: str | None = option(None, "the same, by its name in the model")
    keep_text: bool = option(False, "the sentences too, in the shards")
    on_bad_row: Literal["error", "skip"] = option(
        "error", "malformed rows: error names file and line and stops; skip leaves them out, counted and named"
    )
    batch_size: int = option(32, "sentences in a batch")
    shard_rows: int = option(50_000, "rows in a shard; what a kill can cost")
    calibration_rows: int = option(10_000, "rows, evenly spaced, that fix the ranges of int8 and uint8")
    device: tuple[str, ...] = option((), "torch devices, a process each where there are several")
    workers: int = option(1, "processes on each device")
    ray: str | None = option(None, "through Ray Data, on the cluster at this address")
    resume: bool = option(False, "go on with what the output folder holds")
    overwrite: bool = option(False, "replace what the output folder holds")

    def __post_init__(self) -> None:
        for name in ("batch_size", "shard_rows", "calibration_rows", "workers", "truncate_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}: expected 1 or more")
        for name, kind in (("format", Format), ("precision", Precision), ("on_bad_row", Literal["error", "skip"])):
            if getattr(self, name) not in typing.get_args(kind):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}: expected one of {', '.join(typing.get_args(kind))}"
                )
        if self.resume and self.overwrite:
            raise UserError("resume goes on with what the output folder holds, overwrite replaces it: give one of them")
        if self.prompt is not None and self.prompt_name is not None:
            raise UserError("prompt and prompt_name both name a prompt: give one of them")

    @property
    def devices(self) -> list[str | None]:
        """The device of each process; None for the one that sentence-transformers chooses."""
        return [name for name in (self.device or (None,)) for _ in range(self.workers)]

    def fixed(self) -> dict[str, Any]:
        """What a resumed run has to have the same."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in FREE}
