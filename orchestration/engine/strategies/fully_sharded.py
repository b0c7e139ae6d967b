"""FSDP2 (Zhao et al., VLDB 2023, as `fully_shard` of torch): each worker holds a part of weights, gradients and optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from methods.method import Method
from methods.shardable import Shardable
from orchestration.engine.strategies.data_parallel import DataParallel, gradients, without
from orchestration.engine.strategies.single_process import optimizer_tensors
from orchestration.engine.strategies.strategy import FullState, OptimizerStates, owned_parameters


class FullySharded(DataParallel):
    """Blocks of bodies, classifiers and prompts (`methods.shardable`) are whole only while they are called, one at a time.

    What is left, such as the first convolution and necks, is small, and data-parallel. Classifiers whose classes are divided
    (`methods.sharded`) stay as they are. A parameter that an update does not
    reach keeps no gradient, and no optimizer moves it, as in one process.
    """

    name = "fsdp"

    def __init__(self, *, offload: bool = False) -> None:
        super().__init__()
        self.policy: OffloadPolicy = CPUOffloadPolicy() if offload else OffloadPolicy()
        self.units: list[FSDPModule] = []

    def prepare(self, method: Method, optimizers: dict[str, Optimizer]) -> None:
        self.method, self.optimizers = method, optimizers
        before = dict(method.named_parameters())
        trained = {parameter for owned in owned_parameters(method).values() for parameter in owned}
        device = next(iter(before.values())).device
        mesh = DeviceMesh(device.type, torch.arange(self.workers))
        for module in method.modules():
            if isinstance(module, Shardable) and trained.issuperset(module.parameters()):
                fully_shard(module, mesh=mesh, reshard_after_forward=True, offload_policy=self.policy)
                for reader in module.readers:
                    register_fsdp_forward_method(module, reader)
                assert isinstance(module, FSDPModule)
                self.units.append(module)
        after = dict(method.named_parameters())
        replaced: dict[Tensor, Tensor] = {parameter: after[name] for name, parameter in before.items()}
        for optimizer in optimizers.values():
            exchange(optimizer, replaced)
        whole = {
            name: [p for p in owned if not isinstance(p, DTensor)] for name, owned in owned_parameters(method).items()
        }
        self.average(whole)

    def load_optimizers(self, states: OptimizerStates) -> None:
        for name, pairs in self.method.parameters_of().items():
            for parameter_name, parameter in pairs:
                if state := states.get((name, parameter_name)):
                    self.optimizers[name].state[parameter] = {
                        key: value if key == "step" else part_of(value, parameter) for key, value in state.items()
                    }

    def gradient_norm(self, optimizer: str) -> Tensor:
        owned = [parameter for group in self.optimizers[optimizer].param_groups for parameter in group["params"]]
        divided = self.divided[optimizer]
        found = gradients(without(owned, divided))
        parts = [gradient.to_local() for gradient in found if isinstance(gradient, DTensor)]
        whole = [gradient for gradient in found if not isinstance(gradient, DTensor)]
        return self.norm_with_parts(whole, parts + gradients(divided))

    @contextmanager
    def whole(self) -> Iterator[None]:
        for unit in self.units:
            unit.set_reshard_after_forward(False)
            unit.unshard()
        try:
            yield
        finally:
            for unit in self.units:
                unit.reshard()
                unit.set_reshard_after_forward(True)

    def full_state(self) -> FullState:
        """Tensor by tensor, so that the other workers hold one at a time."""
        held = self.undivided(self.method.state_dict(), optimizer_tensors(self.method, self.optimizers))
        return FullState(self.gathered(held.model), self.gathered(held.optimizers))

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in sorted(tensors.items()):  # in one order on all workers: states that were read have none
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.rank == 0:
                found[name] = whole
        return found


def exchange(optimizer: Optimizer, replaced: dict[Tensor, Tensor]) -> None:
    """Give an optimizer the parameters that took the place of its own. One kernel takes no mixture of whole tensors and
    parts: each group becomes two."""
    groups = []
    for group in optimizer.param_groups:
        parameters = [replaced[parameter] for parameter in group["params"]]
        for is_part in (False, True):
            if kept := [p for p in parameters if isinstance(p, DTensor) == is_part]:
                groups.append({**group, "params": kept})
    optimizer.param_groups = groups


def part_of(value: Tensor, parameter: Tensor) -> Tensor:
    """This worker's part of a whole tensor, as the parameter is divided."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
