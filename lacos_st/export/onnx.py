"""`onnx`: the merged model as a graph for onnxruntime, where sentence-transformers' backend="onnx" looks for it.

torch writes it (`torch.onnx.export`). optimum, which that backend loads it with, would too, but it takes no
transformers above 4.57, and this package none below 5.17 (2026-11-21: optimum-onnx 0.1.0).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from lacos_st.checkpoint import PROBES
from lacos_st.errors import UserError
from lacos_st.export.fidelity import Fidelity, least_cosine
from lacos_st.export.merged import check_folder_embeds, write_merged
from lacos_st.export.saved import SavedModel
from lacos_st.folder import WEIGHTS

FOLDER, FILE = "onnx", "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "last_hidden_state"
LEAST_COSINE = 0.9999
INLINE_BYTES = 1_500_000_000
"""Larger weights go to a file of their own: the format (protobuf) ends at 2 GB."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_packages() -> None:
    """That what writes and checks the file is installed.

    Raises:
        UserError: it is not.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"--format onnx needs {' and '.join(missing)}: pip install 'lacos_st[onnx]'")


class _TokenEmbeddings(nn.Module):
    """The model as a function of its two inputs alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Both int64 (N, T); returns (N, T, H)."""
        return cast(torch.Tensor, self.model(input_ids=input_ids, attention_mask=attention_mask)[0])


def write_onnx(saved: SavedModel, folder: Path, *, trained: bool) -> tuple[Fidelity, float]:
    """Write onnx/model.onnx, config.json, the tokenizer and the modules, in float32; the whole model is in memory.

    Args:
        saved: the model.
        folder: there, and empty.
        trained: see `write_merged`.

    Returns:
        How the merged model, and how the graph in onnxruntime, embeds the probes beside the trained one.

    Raises:
        UserError: see `write_merged`; or torch cannot write the model as a graph.
    """
    from sentence_transformers import SentenceTransformer

    write_merged(saved, folder, dtype=torch.float32, trained=trained, shard_bytes=2**62)
    merged = check_folder_embeds(folder, saved)
    module: Any = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})[0]
    module.model.config.use_cache = False
    features = {name: value for name, value in module.preprocess(list(PROBES)).items() if name in INPUTS}
    (folder / FOLDER).mkdir()
    file = folder / FOLDER / FILE
    with _quiet():
        try:
            _export(_TokenEmbeddings(module.model).eval(), features, file)
        except Exception as error:  # whatever an architecture makes of torch's exporter
            raise UserError(
                f"torch cannot write {type(module.model).__name__} as ONNX ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}): use --format merged"
            ) from error
    del module
    (folder / WEIGHTS).unlink()
    return merged, least_cosine(_run(file, features), saved.probes)


def _export(model: nn.Module, features: dict[str, torch.Tensor], file: Path) -> None:
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    size = sum(parameter.nbytes for parameter in model.parameters())
    torch.onnx.export(
        model,
        tuple(features[name] for name in INPUTS),
        str(file),
        input_names=INPUTS,
        output_names=[OUTPUT],
        dynamic_shapes=dict.fromkeys(INPUTS, dynamic),
        dynamo=True,
        external_data=size > INLINE_BYTES,
        verbose=False,
    )


def _run(file: Path, features: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean-pooled output of the graph, float32 (N, H)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {name: value.numpy() for name, value in features.items()})
    mask = features["attention_mask"][..., None].float()
    return (torch.from_numpy(found) * mask).sum(1) / mask.sum(1).clamp(min=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch's exporter warns of its own deprecated calls, of names of axes that stand twice, and of torchvision."""
    theirs = logging.getLogger("torch.onnx")
    level = theirs.level
    theirs.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            theirs.setLevel(level)
