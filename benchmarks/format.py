"""The 8-bit format: error, size in memory and on disk, and parity with bitsandbytes.

python -m benchmarks.format
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from bitsandbytes import functional
from transformers import BloomConfig, BloomModel

from benchmarks import rows
from lacos_st import quantize_
from lacos_st.blockwise import CODES, code_table, dequantize, quantization_error, quantize
from lacos_st.stored import Stored8bit

ROWS, COLUMNS, STD = 1024, 4096, 0.02


def errors() -> dict[str, float]:
    """Relative RMS in % on N(0, STD), by "code/block size"."""
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) * STD
    return {
        f"{code}/{block}": round(100 * quantization_error(weight, block_size=block, code=code).relative_rms, 4)
        for code in CODES
        for block in (64, 256, 4096)
    }


def bit_parity() -> bool:
    """Whether codes, absmax and de-quantised values are those of `bitsandbytes.functional`, bit for bit."""
    equal = True
    for code in CODES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            weight = torch.randn(64, COLUMNS, generator=torch.Generator().manual_seed(1)).to(dtype) * STD
            codes, absmax = quantize(weight, code=code)
            ours = dequantize(codes, absmax, block_size=256, code=code, dtype=dtype)
            theirs, state = functional.quantize_blockwise(weight, code=code_table(code).clone(), blocksize=256)
            equal &= torch.equal(codes, theirs) and torch.equal(absmax.flatten(), state.absmax)
            equal &= torch.equal(ours, functional.dequantize_blockwise(theirs, state))
    return equal


def bytes_per_weight() -> tuple[float, float]:
    """Bytes of a BLOOM's 8-bit layers over their weights: in memory, and as a safetensors file with all it holds."""
    config = BloomConfig(vocab_size=8192, hidden_size=1024, n_layer=4, n_head=16)
    model = BloomModel(config)
    quantize_(model)
    stored = [layer for layer in model.modules() if isinstance(layer, Stored8bit)]
    weights = sum(layer.codes.numel() for layer in stored)
    memory = sum(layer.codes.nbytes + layer.absmax.nbytes for layer in stored)
    others = sum(parameter.nbytes for parameter in model.parameters())  # biases and layer norms, float32
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        disk = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    return memory / weights, (disk - others) / weights


def main() -> None:
    """Measure, append the row, print it."""
    memory, disk = bytes_per_weight()
    row = rows.append(
        "format",
        relative_rms_percent=errors(),
        equal_to_bitsandbytes=bit_parity(),
        bytes_per_weight_memory=round(memory, 5),
        bytes_per_weight_disk=round(disk, 5),
    )
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
