"""`ExportOptions`: what an export is told. Nothing here needs torch, so that `lacos-st --help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lacos_st.errors import UserError
from lacos_st.options import option, required

Format = Literal["merged", "adapter", "onnx", "gguf"]
Dtype = Literal["float16", "bfloat16", "float32"]
Weights = Literal["trained", "original"]

NO_GGUF = (
    "GGUF cannot be written: llama.cpp's Python package (gguf) writes the container, but how the weights and the "
    "tokenizer of an architecture are laid out in it is in convert_hf_to_gguf.py, which is on no package index. Use "
    "--format merged, then, in a checkout of llama.cpp: python convert_hf_to_gguf.py OUT --outtype f16, and "
    "llama-embedding -m FILE --pooling mean (docs/export.md)"
)


@dataclass(frozen=True)
class ExportOptions:
    """Every option of `lacos-st export`; what each one means stands in its `help`."""

    model: str = required("the folder that lacos-st train wrote (RUN/model) or save_pretrained, or a hub name")
    output: str = required("a folder that is empty or not there")
    format: Format = option(
        "merged",
        "merged: LoRA folded into the base, a plain sentence-transformers folder; adapter: stock peft, on a base in "
        "floats; onnx: for onnxruntime; gguf: cannot be written, says what to do instead",
    )
    dtype: Dtype | None = option(
        None,
        "of the weights (merged, and adapter where it writes a base); none: the base's own where it has 16 bits, else "
        "float16. onnx is float32",
    )
    weights: Weights | None = option(
        None,
        "of the base. trained: what the adapter was trained on, 8-bit blocks de-quantised; original: the floats in "
        "the base's files; none: trained, but for an adapter on a base that other libraries can read",
    )
    base: str | None = option(None, "the base, where it has moved since the training")
    results: str | None = option(None, "results.json of lacos-st evaluate, or its folder: scores for the model card")
    license: str | None = option(None, "licence of the exported model for the card's head, such as apache-2.0")
    overwrite: bool = option(False, "replace what the output folder holds")

    def checked(self) -> ExportOptions:
        """The same options.

        Raises:
            UserError: they contradict each other, or ask for what cannot be done.
        """
        if self.format == "gguf":
            raise UserError(NO_GGUF)
        if self.format == "onnx" and self.dtype not in (None, "float32"):
            raise UserError(
                f"--dtype {self.dtype} with --format onnx: it is written in float32, which onnxruntime computes in on "
                "every machine; leave --dtype out (onnxruntime's own tools convert and quantise the file)"
            )
        return self
