"""The state of a training at one moment, in host memory: training may go on while it is written."""

from __future__ import annotations

import torch

from orchestration.engine.strategies.strategy import FullState
from orchestration.engine.tensor_file import TensorFile


class Snapshot:
    """The two files of a checkpoint, in memory that is kept from one checkpoint to the next.

    It takes as much host memory as the state, pinned where the state is on a GPU.
    """

    def __init__(self) -> None:
        self.model, self.optimizers = TensorFile(), TensorFile()

    @classmethod
    def of(cls, state: FullState) -> Snapshot:
        snapshot = cls()
        snapshot.take(state)
        return snapshot

    def take(self, state: FullState) -> None:
        """Copy a state. Changes to its tensors after the return do not reach the snapshot."""
        self.model.fill(state.model)
        self.optimizers.fill(state.optimizers)
        for device in {tensor.device for tensors in state for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
