"""lacos_st: multilingual sentence embeddings from a decoder language model, in 8 bits, inside sentence-transformers.

Importing the package registers the 8-bit format with transformers and the modules with sentence-transformers, so that
`SentenceTransformer("lacos-bloom-nano")` loads what `save_pretrained` wrote without a flag. That imports torch, which
takes seconds; the command line, which has to answer `--help` at once, puts it off until a model is loaded.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacos_st import hush  # noqa: F401 (before anything imports bitsandbytes)

if TYPE_CHECKING:  # the same names as in registration.py, which `register` puts here
    from lacos_st.bloom import BloomEncoder
    from lacos_st.encoders import encoder
    from lacos_st.errors import UserError
    from lacos_st.layer_errors import layer_errors
    from lacos_st.linear import Embedding8bit, Linear8bit, dequantize_, error_report, quantize_
    from lacos_st.pooling import Pooling
    from lacos_st.quantizer import Blockwise8bitConfig
    from lacos_st.transformer import BloomLoRA8bit, LoRA8bit

__version__ = "0.1.0"

__all__ = [
    "Blockwise8bitConfig",
    "BloomEncoder",
    "BloomLoRA8bit",
    "Embedding8bit",
    "Linear8bit",
    "LoRA8bit",
    "Pooling",
    "UserError",
    "dequantize_",
    "encoder",
    "error_report",
    "layer_errors",
    "quantize_",
]


def register() -> None:
    """Register the format and the modules, and put the public names here; once, however often it is called."""
    registration = import_module("lacos_st.registration")
    globals().update({name: getattr(registration, name) for name in __all__})


def _is_command_line() -> bool:
    """Whether this process was started as `lacos-st` or `python -m lacos_st`.

    While Python imports the package of a module that it is to run, argv[0] is "-m"; what stood behind it is in
    `orig_argv` only. A process that multiprocessing started has the argv of its parent, but an `orig_argv` of its own.
    """
    name = next(iter(getattr(sys, "argv", ())), "")
    if name not in sys.orig_argv:
        return False
    if name == "-m":
        return sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1] == ["lacos_st"]
    return Path(name).stem == "lacos-st"


def __getattr__(name: str) -> Any:
    """A public name that is asked for before `register` was called."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return globals()[name]


if not _is_command_line():
    register()
