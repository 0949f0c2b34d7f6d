"""Published peak rates of GPUs: 16-bit matrix products, dense, accumulated in 32 bits; and their memory."""

from __future__ import annotations

from dataclasses import dataclass

from lacos_st.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """What its maker says of one.

    Attributes:
        peak: FLOP/s, dense. Where a data sheet prints the rate with sparsity, its half.
        memory_bytes: of the card.
        source: of the rate.
        dtype: of 16 bits that it multiplies at that rate.
    """

    peak: float
    memory_bytes: int
    source: str
    dtype: str = "bfloat16"


GIB = 2**30
GPUS = {
    "b200": Gpu(2250e12, 180 * GIB, "NVIDIA Blackwell data sheet, HGX B200: 4,500 TFLOPS with sparsity"),
    "h200": Gpu(989.5e12, 141 * GIB, "NVIDIA H200 data sheet, SXM: 1,979 TFLOPS with sparsity"),
    "h100": Gpu(989.5e12, 80 * GIB, "NVIDIA H100 data sheet, SXM: 1,979 TFLOPS with sparsity"),
    "h100-pcie": Gpu(756.5e12, 80 * GIB, "NVIDIA H100 data sheet, PCIe: 1,513 TFLOPS with sparsity"),
    "a100": Gpu(312e12, 80 * GIB, "NVIDIA A100 data sheet: 312 TFLOPS"),
    "a100-40gb": Gpu(312e12, 40 * GIB, "NVIDIA A100 data sheet: 312 TFLOPS"),
    "a10": Gpu(125e12, 24 * GIB, "NVIDIA A10 data sheet: 125 TFLOPS"),
    "l40s": Gpu(362e12, 48 * GIB, "NVIDIA L40S data sheet: 362 TFLOPS"),
    "l4": Gpu(121e12, 24 * GIB, "NVIDIA L4 data sheet: 242 TFLOPS with sparsity"),
    "rtx4090": Gpu(165.2e12, 24 * GIB, "NVIDIA Ada GPU architecture white paper, appendix A: 165.2 TFLOPS"),
    "rtx3090": Gpu(71e12, 24 * GIB, "NVIDIA Ampere GA102 white paper, appendix A: 71 TFLOPS"),
    "v100": Gpu(125e12, 32 * GIB, "NVIDIA V100 data sheet, SXM2: 125 TFLOPS", "float16"),
    "t4": Gpu(65e12, 16 * GIB, "NVIDIA T4 data sheet: 65 TFLOPS", "float16"),
}
"""By name. A data sheet's gigabytes are read as GiB; what the driver keeps of them is not known here."""


def gpu(name: str) -> tuple[str, Gpu]:
    """The GPU of a name, however it is written, and the name of the table.

    >>> gpu("H100 PCIe")[0]
    'h100-pcie'

    Raises:
        UserError: it is not in the table.
    """
    plain = name.strip().lower().replace(" ", "-").replace("_", "-").removeprefix("nvidia-")
    for key in (plain, plain.replace("-", "")):
        if key in GPUS:
            return key, GPUS[key]
    raise UserError(
        f"the GPU {name!r} is not in the table of published rates: expected one of {', '.join(GPUS)}; for another one "
        "give --flops, or run --device on it"
    )
