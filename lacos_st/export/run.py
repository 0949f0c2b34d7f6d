"""`export_model`: one export, whole or not at all."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lacos_st.atomic import clear_leftovers, whole_folder
from lacos_st.errors import UserError
from lacos_st.export import onnx
from lacos_st.export.adapter import check_adapter_embeds, readable_base, write_adapter
from lacos_st.export.card import Exported, write_card
from lacos_st.export.facts import read_facts
from lacos_st.export.fidelity import LEAST_COSINE, Fidelity
from lacos_st.export.merged import check_folder_embeds, default_dtype, write_merged
from lacos_st.export.options import ExportOptions
from lacos_st.export.saved import SavedModel


@dataclass(frozen=True)
class ExportReport:
    """What an export came to.

    Attributes:
        output: the folder.
        format: as in the options.
        dtype: of the weights that were written; None where only an adapter was.
        weights: "trained" or "original", of the base.
        fidelity: how it embeds the probes beside the trained model.
        onnx_cosine: of the graph in onnxruntime; None for other formats.
        bytes: of all files.
        seconds: that it took.
    """

    output: Path
    format: str
    dtype: str | None
    weights: str
    fidelity: Fidelity
    onnx_cosine: float | None
    bytes: int
    seconds: float


def export_model(options: ExportOptions) -> ExportReport:
    """Write a trained model in a form that other libraries load; nothing is left where it does not embed as it did.

    Raises:
        UserError: the model, its base or the output folder cannot be used, or the result differs from the model.
    """
    options, start = options.checked(), time.monotonic()
    if options.format == "onnx":
        onnx.check_packages()
    saved = SavedModel.read(options.model, base=options.base)
    output = _free(options, saved)
    facts = read_facts(saved, results=options.results, license=options.license)
    weights = options.weights or ("original" if options.format == "adapter" and readable_base(saved) else "trained")
    trained = weights == "trained"
    dtype = torch.float32 if options.format == "onnx" else _dtype(options, saved)
    score: float | None = None
    with whole_folder(output) as folder:
        if options.format == "merged":
            write_merged(saved, folder, dtype=dtype, trained=trained)
            found = check_folder_embeds(folder, saved)
        elif options.format == "adapter":
            if not trained and not readable_base(saved):
                raise UserError(
                    f"the base {saved.base} can be read by lacos_st alone (GGUF, or stored in 8 bits): leave out "
                    "--weights original, and it is written beside the adapter"
                )
            write_adapter(saved, folder, dtype=dtype, trained=trained)
            found = check_adapter_embeds(folder, saved, trained=trained, place=output)
        else:
            found, score = onnx.write_onnx(saved, folder, trained=trained)
        same = trained or saved.quantization is None
        found.check(LEAST_COSINE["trained" if same else "original"])
        if score is not None and not score >= (onnx.LEAST_COSINE if same else LEAST_COSINE["original"]):
            raise UserError(
                f"the ONNX file does not embed as the trained model (cosine {score:.6f}, expected "
                f"{onnx.LEAST_COSINE} or more); nothing was written: use --format merged, and report this"
            )
        shown = None if options.format == "adapter" and not trained else str(dtype).removeprefix("torch.")
        write_card(folder, facts, Exported(options.format, shown, weights, found, score))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return ExportReport(output, options.format, shown, weights, found, score, size, time.monotonic() - start)


def _dtype(options: ExportOptions, saved: SavedModel) -> torch.dtype:
    chosen: Any = default_dtype(saved) if options.dtype is None else getattr(torch, options.dtype)
    return chosen


def _free(options: ExportOptions, saved: SavedModel) -> Path:
    """The output folder, which may be written.

    Raises:
        UserError: it is a file; the model or its base, around or in one of them; or holds something and may not be
            replaced.
    """
    output = Path(options.output).expanduser()
    for name, place in (("the model's own folder", saved.folder), ("the model's base", Path(saved.base_path))):
        source = place.resolve()
        overlap = source.is_relative_to(output.resolve()) or output.resolve().is_relative_to(source)
        if place.exists() and overlap:
            raise UserError(f"output {output} is {name}, around or in it: choose another one")
    if output.exists() and not output.is_dir():
        raise UserError(f"output {output} is a file: name a folder")
    if output.is_dir() and any(output.iterdir()) and not options.overwrite:
        raise UserError(
            f"output folder {output} exists and is not empty: choose another one, or replace it with --overwrite"
        )
    clear_leftovers(output.parent, output.name)
    return output
