"""How float32 numbers are multiplied, and whether a processor has units for bfloat16: what `precision` means."""

from __future__ import annotations

import torch

DTYPES = {  # of weights and images
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.float32,
    "float64": torch.float64,
}
BFLOAT16_UNITS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")  # x86, then ARM


def set_arithmetic(precision: str) -> None:
    """Let a GPU multiply float32 numbers as IEEE 754 says, in matrix products and convolutions; with "tf32" by its
    tensor cores, which keep 10 of the 23 bits of each factor. By torch's default the two operations differ."""
    # Not `fp32_precision`: once that is set, torch refuses to read these, and other libraries do read them.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def slowness(precision: str, device: torch.device) -> str | None:
    """What makes `precision` slow on this machine's `device`; None where nothing does."""
    if precision != "bfloat16" or device.type != "cpu":
        return None
    found = torch.cpu.get_capabilities()
    if any(found.get(unit) for unit in BFLOAT16_UNITS):
        return None
    return (
        f"precision=bfloat16 on a processor without units for it ({found.get('cpu_name', 'unknown')}): training can take "
        "15 times as long as in float32. Set precision=float32, or train on a GPU."
    )
