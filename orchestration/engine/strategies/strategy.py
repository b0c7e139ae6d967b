"""How one step is spread over workers, and how their state is held: what the loop, checkpoints and validation ask for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from methods.method import Method
from methods.sharded.share import Rows, parts_of

OptimizerStates = Mapping[tuple[str, str], dict[str, Tensor]]  # (optimizer, parameter) → its state by key


class FullState(NamedTuple):
    """Everything that training goes on from, as plain tensors.

    model: parameters and buffers, by name. optimizers: `<optimizer>/<parameter>/<key>`.
    """

    model: dict[str, Tensor]
    optimizers: dict[str, Tensor]


class OwnRows(NamedTuple):
    """What a worker holds of the tensors whose classes are divided over workers: `methods.sharded`.

    state: its rows, named as in `FullState`. model, optimizers: which rows these are, by the same names; numbers of steps,
    which have no rows, are on every worker.
    """

    state: FullState
    model: dict[str, Rows]
    optimizers: dict[str, Rows]


class Strategy(Protocol):
    """A way to hold state: it never changes what is trained. `rank` counts from 0; `workers` share a global batch."""

    name: str
    rank: int
    workers: int

    def prepare(self, method: Method, optimizers: dict[str, Optimizer]) -> None:
        """Take over a method, whose weights are loaded, and its optimizers, which have no state yet.

        The method's parameters may be replaced by others of the same names.
        """

    def load_optimizers(self, states: OptimizerStates) -> None:
        """Give the optimizers the states of a checkpoint, on the CPU, before the first step: whole tensors, or this worker's
        rows where classes are divided."""

    def backward(self, optimizer: str, loss: Tensor) -> None:
        """Work out the mean over all workers of the gradient of `loss`, for the optimizer's parameters."""

    def gradient_norm(self, optimizer: str) -> Tensor:
        """L2 norm of the gradient that `step` is about to apply: scalar. Not finite where the gradient is not."""

    def step(self, optimizer: str) -> None:
        """Apply the gradient."""

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the workers (same shape and dtype on each)."""

    def share_buffers(self) -> None:
        """Give every worker rank 0's buffers, in place.

        Workers whose batch norms are not synchronised have running statistics of their own. A checkpoint holds rank 0's.
        """

    def whole(self) -> AbstractContextManager[None]:
        """Within, every worker holds whole parameters, and may call the method as often as it likes."""

    def full_state(self) -> FullState:
        """Called on all workers together. Tensors may be those that training goes on with. Empty but on rank 0.

        Without the tensors whose rows are divided over workers.
        """

    def own_rows(self) -> OwnRows:
        """The rows that this worker holds. Tensors may be those that training goes on with. Empty where it holds all rows."""


def state_name(optimizer: str, parameter: str, key: str) -> str:
    return f"{optimizer}/{parameter}/{key}"


def owned_parameters(method: Method) -> dict[str, list[Parameter]]:
    """Each optimizer's parameters, in registration order."""
    return {name: [parameter for _, parameter in pairs] for name, pairs in method.parameters_of().items()}


def parameter_of(path: str) -> str:
    """The parameter in the name of an optimizer's tensor, `<optimizer>/<parameter>/<key>`."""
    return path.partition("/")[2].rpartition("/")[0]


def divided_parameters(method: Method) -> dict[str, list[Parameter]]:
    """Each optimizer's parameters of which this worker holds some rows alone, in registration order."""
    divided = parts_of(method)
    return {
        name: [parameter for parameter_name, parameter in pairs if parameter_name in divided]
        for name, pairs in method.parameters_of().items()
    }
