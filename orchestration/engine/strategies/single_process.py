"""One process holds the whole batch and all state."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.optim import Optimizer

from methods.method import Method
from methods.sharded.share import parts_of
from orchestration.engine.strategies.strategy import FullState, OptimizerStates, OwnRows, parameter_of, state_name


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
        return self.undivided(self.method.state_dict(), optimizer_tensors(self.method, self.optimizers))

    def undivided(self, model: dict[str, Tensor], optimizers: dict[str, Tensor]) -> FullState:
        """The tensors without those whose rows are divided over workers."""
        divided = parts_of(self.method)
        return FullState(
            {name: tensor for name, tensor in model.items() if name not in divided},
            {path: tensor for path, tensor in optimizers.items() if parameter_of(path) not in divided},
        )

    def own_rows(self) -> OwnRows:
        divided = parts_of(self.method)
        if not divided:
            return OwnRows(FullState({}, {}), {}, {})
        model = {name: tensor for name, tensor in self.method.state_dict().items() if name in divided}
        tensors = optimizer_tensors(self.method, self.optimizers)
        optimizers = {path: tensor for path, tensor in tensors.items() if parameter_of(path) in divided}
        rows = {path: divided[parameter_of(path)] for path, tensor in optimizers.items() if tensor.ndim}
        return OwnRows(FullState(model, optimizers), {name: divided[name] for name in model}, rows)


def optimizer_tensors(method: Method, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
    """The optimizers' states by `<optimizer>/<parameter>/<key>`."""
    return {
        state_name(name, parameter_name, key): torch.as_tensor(value)
        for name, pairs in method.parameters_of().items()
        for parameter_name, parameter in pairs
        for key, value in optimizers[name].state.get(parameter, {}).items()
    }
