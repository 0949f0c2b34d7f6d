"""The manifest of an output folder: what was encoded with what, and which shards are there, so that a run can go on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lacos_st.checkpoint import LIBRARIES, installed
from lacos_st.corpus.files import LOCK, PARTIAL, appearing, append_json, digest, write_json, writing
from lacos_st.corpus.options import EncodeOptions
from lacos_st.corpus.precision import DTYPES, width
from lacos_st.corpus.shards import ShardFormat
from lacos_st.errors import UserError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
JOURNAL = "shards.jsonl"


@dataclass(frozen=True)
class Manifest:
    """What a run encodes, and how; never changed after its start, but for `complete` and `totals`.

    Attributes:
        options: `EncodeOptions.fixed`.
        input: `files` (name, bytes, sha256), `rows`, `bad_rows`.
        model: `TextEncoder.identity`, and its `name`.
        ranges: of int8 and uint8, (2, H) as nested lists: least and greatest values; else None.
        versions: of the libraries at the start.
        complete: whether every shard is there.
        totals: of the shards, once complete.
        format_version: of this file.
    """

    options: dict[str, Any]
    input: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    ranges: list[list[float]] | None = None
    versions: dict[str, str] = field(default_factory=lambda: {name: installed(name) for name in LIBRARIES})
    complete: bool = False
    totals: dict[str, Any] | None = None
    format_version: int = FORMAT_VERSION

    @property
    def rows(self) -> int:
        """Rows of the whole corpus."""
        return int(self.input["rows"])

    @property
    def shards(self) -> int:
        """How many there will be."""
        return -(-self.rows // self.options["shard_rows"])

    def span(self, shard: int) -> tuple[int, int]:
        """First row of a shard, from 0, and how many it holds."""
        size = self.options["shard_rows"]
        return shard * size, min(size, self.rows - shard * size)

    @cached_property
    def ranges_array(self) -> np.ndarray | None:
        """The ranges, float32 (2, H)."""
        return None if self.ranges is None else np.array(self.ranges, dtype=np.float32)

    @property
    def layout(self) -> ShardFormat:
        """Of the shards."""
        told = {"options": self.options, "input": self.input, "model": self.model, "ranges": self.ranges}
        return ShardFormat(
            format=self.options["format"],
            dtype=DTYPES[self.options["precision"]],
            width=width(self.options["precision"], self.model["dimension"]),
            has_ids=self.options["id_column"] is not None,
            keep_text=self.options["keep_text"],
            run=hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16],
        )

    def check_same(self, new: Manifest, *, folder: Path) -> None:
        """That a run which wants to go on here is the one that was started; `new` may not have its model yet.

        Raises:
            UserError: its options, its input or its model are others: which, and what they were.
        """
        changed = [
            f"{key} {old!r} -> {new.options.get(key)!r}"
            for key, old in self.options.items()
            if old != new.options.get(key)
        ]
        changed += _changed_input(self.input, new.input)
        differing = [key for key, old in self.model.items() if key != "name" and old != new.model.get(key)]
        if new.model and differing:
            names = f"{self.model['name']!r} -> {new.model['name']!r}"
            changed.append(f"the model is another one ({names}: {', '.join(differing)} differ)")
        if changed:
            raise UserError(
                f"the run in {folder} cannot go on, it was started otherwise: {'; '.join(changed)}. Give what it was "
                "started with, or start anew with --overwrite"
            )


def _changed_input(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    was, now = ({file["name"]: file for file in side["files"]} for side in (old, new))
    if list(was) == list(now) and all(was[name] == now[name] for name in was):
        return []
    words = [f"{name} is gone" for name in was if name not in now]
    words += [f"{name} is new" for name in now if name not in was]
    words += [f"{name} has changed" for name in was if name in now and was[name] != now[name]]
    return [f"input: {', '.join(words[:5])}{' and more' if len(words) > 5 else ''}"]


@dataclass(frozen=True)
class OutputFolder:
    """`manifest.json`, `shards.jsonl` (a line for each shard that is there) and the shards."""

    path: Path

    def check(self, options: EncodeOptions) -> None:
        """Whether a run with these options may start here; changes nothing.

        Raises:
            UserError: it is a file; it is not empty and neither resume nor overwrite is given; it holds no run to go
                on with or to replace.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"output {self.path} is a file: name a folder")
        names = [file.name for file in self.path.iterdir()] if self.path.is_dir() else []
        holds = [name for name in names if name != LOCK and not name.startswith(PARTIAL)]  # left by a killed run
        started = MANIFEST in holds
        if options.resume and not started:
            raise UserError(f"output {self.path} holds no {MANIFEST}: there is no run to go on with")
        if options.overwrite and holds and not started:
            raise UserError(
                f"output folder {self.path} holds files, but no {MANIFEST}: what is not of lacos-st encode is not "
                "replaced; choose another folder"
            )
        if holds and not (options.resume or options.overwrite):
            raise UserError(
                f"output folder {self.path} is not empty: choose another one"
                + (", go on with its run with --resume, or replace it with --overwrite" if started else "")
            )

    def read(self) -> Manifest:
        """The manifest.

        Raises:
            UserError: it is broken, or of a newer version.
        """
        file = self.path / MANIFEST
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if values["format_version"] > FORMAT_VERSION:
                raise UserError(f"{file} has format {values['format_version']}, this version reads up to 1: update")
            return Manifest(**values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file} is broken ({error}): start anew with --overwrite") from error

    def start(self, manifest: Manifest) -> None:
        """Remove what an older run left, and write the manifest."""
        with writing(self.path):
            for file in self._ours():
                file.unlink()
        self.write(manifest)

    def write(self, manifest: Manifest) -> None:
        """Write the manifest, whole or not at all."""
        write_json(self.path / MANIFEST, dataclasses.asdict(manifest))

    def done(self, manifest: Manifest) -> dict[int, dict[str, Any]]:
        """The shards that are there, by number, each checked by its bytes and hash; the others are cleared away."""
        found: dict[int, dict[str, Any]] = {}
        for record in self._records():
            number = record["shard"]
            if 0 <= number < manifest.shards and all(self._is_whole(*file) for file in record["files"].items()):
                found[number] = record
        kept = {name for record in found.values() for name in record["files"]}
        with writing(self.path):
            for file in self._ours():
                if file.name not in (*kept, MANIFEST, JOURNAL):
                    file.unlink()
        with appearing(self.path / JOURNAL) as journal:
            for number in sorted(found):
                journal.write((json.dumps(found[number], ensure_ascii=False) + "\n").encode())
        return found

    def add(self, record: dict[str, Any]) -> None:
        """Note that a shard is there."""
        append_json(self.path / JOURNAL, record)

    def _records(self) -> Iterator[dict[str, Any]]:
        file = self.path / JOURNAL
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the last line, when a kill fell on it: its shard is made again
            if isinstance(record, dict) and {"shard", "files"} <= set(record):
                yield record

    def _is_whole(self, name: str, written: dict[str, Any]) -> bool:
        file = self.path / name
        return file.is_file() and file.stat().st_size == written["bytes"] and digest(file) == written["sha256"]

    def _ours(self) -> list[Path]:
        """Everything that a run writes."""
        starts = (f"{PARTIAL}-", "shard-")
        return [
            file for file in self.path.iterdir() if file.name in (MANIFEST, JOURNAL) or file.name.startswith(starts)
        ]

    def remove_if_empty(self) -> None:
        """Leave no trace of a run that came to nothing."""
        if self.path.is_dir() and {file.name for file in self.path.iterdir()} <= {LOCK}:
            shutil.rmtree(self.path, ignore_errors=True)
