"""Which strategy a process uses."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist

from orchestration.engine.strategies.data_parallel import DataParallel
from orchestration.engine.strategies.single_process import SingleProcess
from orchestration.engine.strategies.strategy import Strategy

StrategyName = Literal["data-parallel", "fsdp", "zero"]


def build_strategy(
    name: StrategyName = "data-parallel", *, stage: Literal[1, 2] = 1, offload: bool = False
) -> Strategy:
    """The strategy of that name where a process group of several workers is initialised, else one process.

    stage: of ZeRO. offload: whether its states, or all that fsdp holds, wait in the memory of the CPU.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return SingleProcess()
    if name == "fsdp":
        from orchestration.engine.strategies.fully_sharded import FullySharded

        return FullySharded(offload=offload)
    if name == "zero":
        from orchestration.engine.strategies.zero import ZeRO

        return ZeRO(stage, offload=offload)
    return DataParallel()
