"""Numbers on a CPU that are the same, bit for bit, on all x86 processors with AVX2.

torch, oneDNN and MKL each choose instructions by the processor, and so the order of sums. Three variables hold them to AVX2;
they are read when the libraries load. MKL promises one result on processors of all makers only for COMPATIBLE. Its square
root (`Tensor.sqrt`) breaks that promise: losses do without it, and Adam is fused, which uses the processor's own.
Shown under emulated processors of two makers: benchmarks/README.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Literal

from orchestration.errors import RequestError

Numerics = Literal["native", "portable"]
PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


class OtherNumericsError(RequestError):
    """This process has loaded torch without the variables of `PORTABLE`. A new process with them can serve the request."""


def use(numerics: str) -> None:
    """Have the numbers of this process, and of those that it starts, be portable; "native" leaves all as it is.

    Raises: OtherNumericsError if torch is loaded, which has chosen.
    """
    if numerics != "portable" or is_portable():
        return
    if "torch" in sys.modules:
        variables = " ".join(f"{name}={value}" for name, value in PORTABLE.items())
        raise OtherNumericsError(
            f"numerics=portable must be chosen before torch is imported. Start Python with {variables}, or set "
            "numerics=native."
        )
    os.environ.update(PORTABLE)


def is_portable() -> bool:
    """Whether the libraries of this process are held to AVX2."""
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())


def processor_is_able() -> bool:
    """Whether this is an x86 processor with AVX2. On others the variables change nothing."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return " avx2 " in file.read()
    except OSError:
        return False


def warn_if_not_able(numerics: str, say: Callable[[str], None]) -> None:
    if numerics == "portable" and not processor_is_able():
        say("numerics=portable: this is no x86 processor with AVX2, so the last digits of numbers are its own")
