"""One worker reads a checkpoint and checks it, and hands its tensors on to the others.

So storage delivers each file once, whatever the number of workers, and all begin with the same bytes. A reader on each
node would spare the network between nodes, but each would have to come to the same choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from datasets.storage.store import StoreError
from orchestration.engine.checkpoint import FILES, Checkpoint, CorruptCheckpointError, with_tensors
from orchestration.errors import RequestError

Find = Callable[[], Checkpoint | None]
Layout = dict[str, dict[str, tuple[torch.dtype, torch.Size]]]  # of each tensor, by file and name


def read_for_all(find: Find, files: Sequence[str] = FILES) -> Checkpoint | None:
    """The checkpoint that `find` finds on rank 0, with the tensors of `files`. Called on all workers together.

    Raises, on all of them: what `find` and reading raise (CorruptCheckpointError, StoreError, RequestError).
    """
    if not dist.is_initialized():
        return read(find, files)
    found: Checkpoint | None = None
    failure: Exception | None = None
    if dist.get_rank() == 0:
        try:
            found = read(find, files)
        except (CorruptCheckpointError, StoreError, RequestError) as error:
            failure = error
    answer = [(failure, found and replace(found, tensors={}), layout(found) if found else {})]
    dist.broadcast_object_list(answer, src=0)
    failure, described, expected = answer[0]
    if failure is not None:
        raise failure
    if described is None:
        return None
    found = found or replace(described, tensors=empty(expected))
    for file in expected:
        for tensor in found.tensors[file].values():
            hand_on(tensor)
    return found


def read(find: Find, files: Sequence[str]) -> Checkpoint | None:
    found = find()
    return None if found is None else with_tensors(found, files)


def layout(found: Checkpoint) -> Layout:
    return {
        file: {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        for file, tensors in found.tensors.items()
    }


def empty(expected: Layout) -> dict[str, dict[str, Tensor]]:
    return {
        file: {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}
        for file, tensors in expected.items()
    }


def hand_on(tensor: Tensor) -> None:
    """Give a tensor on the CPU the bytes of rank 0's, in place."""
    if not tensor.numel():
        return
    content = tensor.view(-1).view(torch.uint8)  # not every backend knows every dtype
    on_device = content.cuda() if dist.get_backend() == "nccl" else content
    dist.broadcast(on_device, src=0)
    content.copy_(on_device)
