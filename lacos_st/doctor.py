"""What works on this machine: each part is tried, not assumed."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import torch
from packaging.requirements import Requirement

from lacos_st.recipe.machine import available_bytes
from lacos_st.recipe.units import show_bytes

EXTRAS = {
    "gguf": "bases in GGUF files",
    "mteb": "lacos-st evaluate --mteb",
    "plot": "plots",
    "ray": "lacos-st encode --ray",
    "onnx": "lacos-st export --format onnx",
    "report": "lacos-st report",
    "serve": "lacos-st serve",
    "completion": "lacos-st completion",
}
WIDTH = 1024  # of the square weight that the kernels are tried on
BLOCK = 256
TOLERANCE = 0.02  # relative error of the dynamic code at a block of 256: about 0.011
TIMES = 5  # that they are timed
HUB_SECONDS = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it is.
        works: whether it does; None where nothing needs it to.
        said: what was found.
        advice: what to do, "" for nothing.
    """

    what: str
    works: bool | None
    said: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def examine(*, hub: bool = True) -> Iterator[Finding]:
    """Everything, one after another, the quick things first.

    Args:
        hub: also ask the hub, for `HUB_SECONDS` at most.
    """
    yield Finding("Python", None, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from packages()
    yield from devices()
    for device in ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]:
        yield tried(f"8-bit storage on {device}", partial(storage, device))
        yield tried(f"8-bit Adam on {device}", partial(adam, device))
        yield tried(f"attention on {device}", partial(attention, device))
    yield tried("embedded model", embedded)
    yield hub_access() if hub else Finding("hub", None, "not asked")


def tried(what: str, attempt: Callable[[], str]) -> Finding:
    """A finding of what an attempt says, or of the error that it ends with."""
    try:
        return Finding(what, True, attempt())
    except Exception as error:  # whatever a driver, a kernel or a file may do
        line = (str(error).splitlines() or [""])[0][:200]
        return Finding(
            what, False, f"{type(error).__name__}: {line}", "docs/versions.md names the versions that were tested"
        )


def packages() -> Iterator[Finding]:
    """Versions of the packages needed, against the ranges that this package declares; and its extras."""
    declared = [Requirement(text) for text in metadata.requires("lacos_st") or ()]
    for one in declared:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        found = metadata.version(one.name)
        fits = one.specifier.contains(found.partition("+")[0], prereleases=True)
        allowed = ",".join(sorted(map(str, one.specifier), reverse=True))
        advice = "" if fits else f'pip install "{one.name}{allowed}"'
        yield Finding(one.name, fits, f"{found} (tested range {allowed})", advice)
    for extra, purpose in EXTRAS.items():
        wanted = _of_extra(declared, extra)
        missing = not wanted or any(_version(one.name) is None for one in wanted)
        said = f"not installed, needed for {purpose}" if missing else f"installed, for {purpose}"
        yield Finding(f"extra {extra}", None, said, f'pip install "lacos_st[{extra}]"' if missing else "")


def _of_extra(declared: list[Requirement], extra: str) -> list[Requirement]:
    return [
        one
        for one in declared
        if one.marker is not None and one.marker.evaluate({"extra": extra}) and not one.marker.evaluate({"extra": ""})
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> Iterator[Finding]:
    """The CPU with its memory, and each GPU that torch sees."""
    free = available_bytes("cpu")
    memory = "" if free is None else f", {show_bytes(free)} of memory free"
    yield Finding("CPU", None, f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads{memory}")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        said = "none that torch sees" + ("" if built else f" (torch {torch.__version__} is built without CUDA)")
        yield Finding("GPU", None, said, "" if built is None else "check nvidia-smi and the driver's version")
    for number in range(torch.cuda.device_count()):
        known = torch.cuda.get_device_properties(number)
        said = f"{known.name}, {show_bytes(known.total_memory)}, compute capability {known.major}.{known.minor}"
        bf16 = torch.cuda.is_bf16_supported()
        yield Finding(f"cuda:{number}", None, said + ("" if bf16 else ", no bfloat16: take --dtype float16"))


def storage(device: str) -> str:
    """Quantise a weight into blocks and back, and say how exact and how fast that is.

    Raises:
        RuntimeError: what comes back is not what went in, within the code's error.
    """
    from lacos_st.blockwise import dequantize, quantize

    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)).to(device)
    codes, absmax = quantize(weight, block_size=BLOCK)
    restored = dequantize(codes, absmax, block_size=BLOCK, code="dynamic")
    error = float((restored - weight).norm() / weight.norm())
    if not error < TOLERANCE:
        raise RuntimeError(f"a weight comes back with a relative error of {error:.4f}: expected {TOLERANCE} at most")
    start = time.perf_counter()
    for _ in range(TIMES):
        restored = dequantize(codes, absmax, block_size=BLOCK, code="dynamic")
    restored[0, 0].item()  # waits for a GPU
    rate = TIMES * weight.numel() / (time.perf_counter() - start)
    return f"relative error {100 * error:.2f} %, {rate / 1e6:,.0f} million weights a second de-quantised"


def adam(device: str) -> str:
    """One step of the 8-bit optimiser.

    Raises:
        RuntimeError: it does not change what it should, or not by about the learning rate.
    """
    from bitsandbytes.optim.adamw import AdamW8bit

    weight = torch.zeros(WIDTH, BLOCK, device=device, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    AdamW8bit([weight], lr=1e-3, weight_decay=0.0).step()
    if not torch.allclose(weight, torch.full_like(weight, -1e-3), rtol=0.01):
        raise RuntimeError(f"a first step of 1e-3 moved the weights by {float(weight.detach().mean()):.2e}")
    return "works"


def attention(device: str) -> str:
    """Which kernel serves a causal batch with BLOOM's position bias, as training has it."""
    from lacos_st.kernels import Request, choose

    dtype = torch.float32 if device == "cpu" else torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    request = Request(
        torch.device(device), dtype, heads=8, key_heads=8, head_dim=64, value_dim=64, alibi="exact", is_causal=True,
        dropout=False,
    )  # fmt: skip
    return f"by {choose(request).name}, in {str(dtype).removeprefix('torch.')}"


def embedded() -> str:
    """Load the embedded base in 8 bits and encode two sentences.

    Raises:
        RuntimeError: its embeddings are not finite, or do not depend on the sentence.
    """
    from transformers.utils.logging import disable_progress_bar

    from lacos_st.encoders import encoder

    disable_progress_bar()
    model = encoder("bloom-nano", device="cpu")
    first, second = model.encode(["A man plays the guitar.", "Il pleut."], convert_to_tensor=True)
    if not torch.isfinite(first).all() or torch.equal(first, second):
        raise RuntimeError("its embeddings are not finite, or the same for every sentence")
    return f"bloom-nano encodes into {len(first)} dimensions"


def hub_access() -> Finding:
    """Whether models can be fetched by name."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding("hub", None, "HF_HUB_OFFLINE is set: only what is in the cache, folders and embedded bases")
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:  # the session's library, and with it the error's class, depends on the version
        said = f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
        advice = "folders, GGUF files and embedded bases work; for hub names check the proxy, or set HF_ENDPOINT"
        return Finding("hub", None, said, advice)
    return Finding("hub", True, f"{constants.ENDPOINT} answers")
