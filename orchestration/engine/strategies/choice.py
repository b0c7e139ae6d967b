"""Which strategy a process uses."""

from __future__ import annotations

import torch.distributed as dist

from orchestration.engine.strategies.data_parallel import DataParallel
from orchestration.engine.strategies.single_process import SingleProcess
from orchestration.engine.strategies.strategy import Strategy


def build_strategy() -> Strategy:
    """Data-parallel where a process group of several workers is initialised, else one process."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return DataParallel()
    return SingleProcess()
