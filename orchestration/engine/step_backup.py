"""What a step changes before it is known to be sound, so that a step which is not leaves nothing behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from methods.method import Method


class StepBackup:
    """The state before a step: all buffers, and the parameters and states of optimizers that step before the last one.

    The last update of a step is checked before its optimizer steps. What that optimizer trains is not copied.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.buffers = {name: buffer.clone() for name, buffer in method.named_buffers()}
        self.to_step = set(method.stage.optimizers)
        self.parameters: dict[Tensor, Tensor] = {}
        self.states: list[tuple[Optimizer, dict[Tensor, dict[str, Any]]]] = []

    def before(self, name: str, optimizer: Optimizer) -> None:
        """Call it before the optimizer `name` steps."""
        self.to_step.discard(name)
        if not self.to_step:
            return
        owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        of_method = [parameter for _, parameter in self.method.parameters_of()[name]]  # others where ZeRO holds copies
        self.parameters |= {parameter: parameter.detach().clone() for parameter in {*owned, *of_method}}
        self.states.append((optimizer, {p: copied(optimizer.state[p]) for p in owned if p in optimizer.state}))

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back in place, bit for bit."""
        for name, buffer in self.method.named_buffers():
            buffer.copy_(self.buffers[name])
        for parameter, before in self.parameters.items():
            parameter.copy_(before)
        for optimizer, states in self.states:
            optimizer.state.clear()
            optimizer.state.update(states)


def copied(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}
