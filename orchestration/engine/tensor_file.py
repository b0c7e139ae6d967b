"""A safetensors file that is laid out in host memory, and written to a store from there.

`safetensors.torch.save` makes two more copies and holds the GIL meanwhile, so that training stands still, in whatever
thread it runs. Here each tensor is copied once, to its place in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

# In the order in which safetensors stores them: the widest first, so that each tensor is aligned.
DTYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES)}
ALIGNMENT = 8  # bytes


class TensorFile:
    """The file that `safetensors.torch.save` would return, byte for byte. Its memory is kept from one `fill` to the next."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8)
        self.num_bytes = 0

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors into the file in place of the former ones.

        Copies from a GPU may still be under way on its current stream afterwards. Raises: TypeError for a dtype that
        the format lacks.
        """
        ordered = in_file_order(tensors)
        header = header_of(ordered)
        self.num_bytes = len(header) + sum(tensor.nbytes for tensor in ordered.values())
        self._reserve(pinned=any(tensor.is_cuda for tensor in ordered.values()))
        self.memory[: len(header)] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        start = len(header)
        for tensor in ordered.values():
            place = self.memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            place.copy_(tensor.detach(), non_blocking=True)
            start += tensor.nbytes

    @property
    def content(self) -> memoryview:
        """The whole file. It changes with the next `fill`."""
        return self.memory.numpy().data[: self.num_bytes]

    def _reserve(self, *, pinned: bool) -> None:
        if self.memory.numel() < self.num_bytes or (pinned and not self.memory.is_pinned()):
            self.memory = torch.empty(0, dtype=torch.uint8)  # frees the former first
            self.memory = torch.empty(self.num_bytes, dtype=torch.uint8, pin_memory=pinned)


def in_file_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f"tensor {name!r} is {tensor.dtype}, which a checkpoint cannot hold; expected one of "
                f"{', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}."
            )
    return dict(sorted(tensors.items(), key=lambda pair: (RANKS[pair[1].dtype], pair[0].encode())))


def header_of(ordered: Mapping[str, Tensor]) -> bytes:
    """The file's beginning: the length of the description as eight bytes, and the description, padded with spaces."""
    described, start = {}, 0
    for name, tensor in ordered.items():
        end = start + tensor.nbytes
        described[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    length = ALIGNMENT * math.ceil(len(text) / ALIGNMENT)
    return length.to_bytes(8, "little") + text.ljust(length)


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file."""
    file = TensorFile()
    file.fill(tensors)
    return bytes(file.content)
