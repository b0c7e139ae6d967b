"""One process holds the whole batch and all state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.optim import Optimizer

from methods.method import Method
from orchestration.engine.strategies.strategy import FullState, OptimizerStates, state_name


class SingleProcess:
    """One process holds the whole batch; the other strategies override what is different with several."""

    name = "data-parallel"
    rank = 0
    workers = 1
    method: Method
    optimizers: dict[str, Optimizer]

    def prepare(self, method: Method, optimizers: dict[str, Optimizer]) -> None:
        self.method, self.optimizers = method, optimizers

    def load_optimizers(self, states: OptimizerStates) -> None:
        for name, pairs in self.method.parameters_of().items():
            for parameter_name, parameter in pairs:
                if state := states.get((name, parameter_name)):
                    self.optimizers[name].state[parameter] = {
                        key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
                    }

    def backward(self, optimizer: str, loss: Tensor) -> None:
        self.optimizers[optimizer].zero_grad(set_to_none=True)
        loss.backward()

    def gradient_norm(self, optimizer: str) -> Tensor:
        groups = self.optimizers[optimizer].param_groups
        return torch.nn.utils.get_total_norm([p.grad for g in groups for p in g["params"] if p.grad is not None])

    def step(self, optimizer: str) -> None:
        self.optimizers[optimizer].step()

    def mean(self, values: Tensor) -> Tensor:
        return values

    def share_buffers(self) -> None:
        """They are rank 0's."""

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def full_state(self) -> FullState:
        if self.rank != 0:
            return FullState({}, {})
        return FullState(self.method.state_dict(), optimizer_tensors(self.method, self.optimizers))


def optimizer_tensors(method: Method, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    """The optimizers' states by `<optimizer>/<parameter>/<key>`."""
    return {
        state_name(name, parameter_name, key): torch.as_tensor(value)
        for name, pairs in method.parameters_of().items()
        for parameter_name, parameter in pairs
        for key, value in optimizers[name].state.get(parameter, {}).items()
    }
