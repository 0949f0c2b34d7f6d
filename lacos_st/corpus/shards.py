"""A shard: consecutive rows and their embeddings as parquet, or as .npy with .ids.jsonl beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lacos_st.corpus.files import HashedFile, appearing
from lacos_st.corpus.options import Format
from lacos_st.corpus.rows import Row


@dataclass(frozen=True)
class ShardFormat:
    """What every shard of a run has the same.

    Attributes:
        format: "parquet" or "npy".
        dtype: Of the stored numbers, numpy's name.
        width: Stored numbers of an embedding.
        has_ids: Whether rows have ids.
        keep_text: Whether the sentences are stored.
        run: Of the manifest, so that a shard says which run it is of.
    """

    format: Format
    dtype: str
    width: int
    has_ids: bool
    keep_text: bool
    run: str

    def names(self, number: int) -> list[str]:
        """The files of a shard, the one that is written last at the end."""
        stem = f"shard-{number:06d}"
        return [f"{stem}.parquet"] if self.format == "parquet" else [f"{stem}.ids.jsonl", f"{stem}.npy"]

    def record(self, place: int, row: Row) -> dict[str, Any]:
        """What is kept of a row beside its embedding; `place`: its number in the corpus, from 0."""
        ids = {"id": row.id} if self.has_ids else {}
        text = {"text": row.text} if self.keep_text else {}
        return {"row": place, **ids, "file": row.file, "line": row.line, **text}


class ShardWriter:
    """Writes one shard, in pieces; its files appear when the block ends without an error.

    Args:
        folder: Where.
        number: Of the shard, from 0.
        first_row: Place of its first row in the corpus.
        rows: How many it will hold.
        layout: Of the run.
    """

    def __init__(self, folder: Path, number: int, *, first_row: int, rows: int, layout: ShardFormat):
        self.names, self.layout, self.rows = layout.names(number), layout, rows
        self._next, self._first = first_row, first_row
        self._folder, self._stack = folder, ExitStack()
        self._files: list[HashedFile] = []
        self._table: Any = None

    def __enter__(self) -> Self:
        for name in reversed(self.names):  # closed, and so renamed, in the other order
            self._files.append(self._stack.enter_context(appearing(self._folder / name)))
        self._files.reverse()
        if self.layout.format == "parquet":
            self._table = self._stack.enter_context(_parquet_writer(self._files[0], self.layout))
        else:
            np.lib.format.write_array_header_1_0(
                self._files[1],
                {
                    "descr": np.lib.format.dtype_to_descr(np.dtype(self.layout.dtype)),
                    "fortran_order": False,
                    "shape": (self.rows, self.layout.width),
                },
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            assert self._next - self._first == self.rows, "a shard has the rows that it was planned with"
        return self._stack.__exit__(kind, error, trace)

    def add(self, rows: Sequence[Row], vectors: np.ndarray) -> None:
        """Add rows and their embeddings, (n, width) in the layout's dtype."""
        assert vectors.shape == (len(rows), self.layout.width), "an embedding for each row"
        assert vectors.dtype == self.layout.dtype, "in the precision of the run"
        records = [self.layout.record(self._next + i, row) for i, row in enumerate(rows)]
        self._next += len(rows)
        if self._table is None:
            self._files[0].write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())
            self._files[1].write(np.ascontiguousarray(vectors).data.cast("B"))
            return
        import pyarrow

        schema = self._table.schema
        columns = [pyarrow.array([record[name] for record in records], schema.field(name).type) for name in records[0]]
        flat = pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
        columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type))
        self._table.write_table(pyarrow.Table.from_arrays(columns, schema=schema))

    def files(self) -> dict[str, dict[str, Any]]:
        """Name, bytes and SHA-256 of what was written, once the block has ended."""
        return {
            name: {"bytes": file.bytes, "sha256": file.sha256}
            for name, file in zip(self.names, self._files, strict=True)
        }


def _parquet_writer(file: HashedFile, layout: ShardFormat) -> Any:
    import pyarrow
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.int64()
    types = {"row": number, "id": text, "file": text, "line": number, "text": text}
    item = pyarrow.field("element", pyarrow.from_numpy_dtype(layout.dtype), nullable=False)
    types["embedding"] = pyarrow.list_(item, layout.width)
    left_out = {name for name, kept in (("id", layout.has_ids), ("text", layout.keep_text)) if not kept}
    schema = pyarrow.schema([pyarrow.field(name, kind) for name, kind in types.items() if name not in left_out])
    schema = schema.with_metadata({"lacos_st.run": layout.run})
    names = [name for name in schema.names if name != "embedding"]
    return pyarrow.parquet.ParquetWriter(
        file,
        schema,
        compression={**dict.fromkeys(names, "zstd"), "embedding.list.element": "none"},  # floats do not get smaller
        use_dictionary=["file"],
        write_statistics=["row"],
    )
