"""A run's shards through Ray Data: each worker holds the model, reads the corpus, and writes whole shards itself.

Corpus, model and output folder are on a file system that every machine of the cluster sees. A shard is the unit: a
worker that dies leaves none half written, Ray gives the shard to another, and what it writes is what one process on
one machine would have written.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lacos_st.corpus.encoder import load_encoder
from lacos_st.corpus.manifest import Manifest
from lacos_st.corpus.options import EncodeOptions
from lacos_st.corpus.windows import WINDOW_BATCHES, Cursor, corpus_of, windows, write_shard
from lacos_st.errors import UserError

REACHED_SECONDS = 10
LOCAL = "local"
"""The address that stands for a cluster on this machine, for as long as the run."""


class ShardEncoder:
    """What a Ray worker is: a model, made once, and a reader that goes on from shard to shard.

    Args:
        options: `EncodeOptions` as a dict.
        manifest: `Manifest` as a dict.

    Raises:
        UserError: this machine sees another corpus or another model than the one that the run was started with.
    """

    def __init__(self, options: dict[str, Any], manifest: dict[str, Any]):
        self._options, self._manifest = EncodeOptions(**options), Manifest(**manifest)
        self._corpus = corpus_of(self._options)
        self._check()
        self._encoder = load_encoder(self._options)
        here = Manifest(
            self._manifest.options, self._manifest.input, {"name": self._options.model, **self._encoder.identity()}
        )
        self._manifest.check_same(here, folder=Path(self._options.output))
        self._cursor = Cursor(self._corpus)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Write the shards whose numbers are in `batch`, and return what is to be noted of them, as JSON."""
        return {"record": [json.dumps(self._write(int(number))) for number in batch["shard"]]}

    def _write(self, number: int) -> dict[str, Any]:
        size = WINDOW_BATCHES * self._options.batch_size
        return write_shard(
            Path(self._options.output),
            self._manifest,
            number,
            windows(self._cursor, self._manifest, [number], self._encoder, size=size),
            self._encoder.encode,
            add=lambda rows, tokens: None,
            check=self._check,
        )

    def _check(self) -> None:
        """That the files here have the names and sizes of the run's."""
        expected = [(file["name"], file["bytes"]) for file in self._manifest.input["files"]]
        if [(name, size) for name, size, _ in self._corpus.state()] != expected:
            raise UserError(
                f"{self._options.source} holds other files on {os.uname().nodename}: put it where every machine "
                "of the cluster sees it under this path"
            )


def encode_on_cluster(options: EncodeOptions, manifest: Manifest, todo: list[int]) -> Iterator[dict[str, Any]]:
    """Write shards on a Ray cluster.

    Args:
        options: With `ray`, the address of the cluster or "local"; `workers`, how many hold a model at once; `device`,
            "cuda" for a GPU each, else a CPU each.
        manifest: Of the run.
        todo: Numbers of the shards.

    Yields:
        What is to be noted of each shard, as they are finished, in any order.

    Raises:
        UserError: Ray is not installed or the cluster cannot be reached; or a worker's.
    """
    ray = _connected(options)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts rows
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = ray.data.from_items([{"shard": number} for number in todo], override_num_blocks=len(todo))
        done = rows.map_batches(
            ShardEncoder,
            batch_size=1,
            fn_constructor_kwargs={
                "options": dataclasses.asdict(_as_seen_by_all(options)),
                "manifest": dataclasses.asdict(manifest),
            },
            compute=ray.data.ActorPoolStrategy(size=min(options.workers, len(todo))),
            num_cpus=1,
            num_gpus=1 if any(name.startswith("cuda") for name in options.device) else 0,
        )
        for row in done.iter_rows():
            yield json.loads(row["record"])
    except UserError:
        raise
    except Exception as error:  # Ray wraps what a worker raised, more than once
        if (said := _user_error(error)) is not None:
            raise UserError(str(said)) from error
        raise
    finally:
        ray.shutdown()


def _connected(options: EncodeOptions) -> Any:
    """Ray, connected to the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError('--ray needs Ray Data: pip install "lacos_st[ray]"') from error
    local = options.ray == LOCAL
    try:
        _reach(str(options.ray))
        ray.init(
            address="local" if local else options.ray,
            num_cpus=max(options.workers, os.cpu_count() or 1) if local else None,
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (OSError, ValueError, RuntimeError) as error:  # OSError: ConnectionError too
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"no Ray cluster at {options.ray!r} ({reason}): check the address, or give --ray alone for one on this "
            "machine"
        ) from error
    return ray


def _reach(address: str) -> None:
    """Try the port of an address that has one: Ray itself may try for minutes.

    Raises:
        OSError: nobody answers there.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=REACHED_SECONDS).close()


def _as_seen_by_all(options: EncodeOptions) -> EncodeOptions:
    """Paths that do not depend on where a worker was started; a device by its kind, as Ray numbers what it lends."""
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    kinds = {name.partition(":")[0] for name in options.device}
    return dataclasses.replace(
        options,
        model=model,
        source=str(Path(options.source).expanduser().resolve()),
        output=str(Path(options.output).expanduser().resolve()),
        device=tuple(sorted(kinds)),
        workers=1,
        ray=None,
        resume=False,
        overwrite=False,
    )


def _user_error(error: BaseException | None) -> UserError | None:
    """The UserError that a worker's error was made of."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__
    return None
