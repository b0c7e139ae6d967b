"""A checkpoint's tensors put into a method and its optimizers: all of them, the method's, or those that fit new data."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.method import Method
from methods.sharded.share import Rows, held_rows
from orchestration.engine import row_files
from orchestration.engine.checkpoint import FILES, Checkpoint, CorruptCheckpointError, load_rows, load_tensors
from orchestration.engine.strategies.strategy import OptimizerStates, Strategy, parameter_of
from orchestration.errors import RequestError

SHOWN_DIFFERENCES = 4


def hand_over(
    method: Method, optimizers: dict[str, Optimizer], strategy: Strategy, found: Checkpoint | None = None
) -> None:
    """Prepare a strategy for a method and its optimizers, with all state of a checkpoint where there is one.

    Raises: RequestError naming tensors of the model that do not fit; CorruptCheckpointError for those of the optimizers.
    """
    states: OptimizerStates = {}
    if found is not None:
        load_method_state(method, found)
        states = optimizer_states(method, found)
    strategy.prepare(method, optimizers)
    strategy.load_optimizers(states)


def load_method_state(method: nn.Module, checkpoint: Checkpoint) -> None:
    """The parameters and buffers alone, as evaluation needs them: those rows that the method holds.

    Raises: RequestError naming tensors that do not fit; CorruptCheckpointError.
    """
    state, wanted = model_state(method, checkpoint), method.state_dict()
    shapes = {name: (shape(wanted.get(name)), shape(state.get(name))) for name in sorted({*wanted, *state})}
    refuse({name: pair for name, pair in shapes.items() if pair[0] != pair[1]}, checkpoint)
    method.load_state_dict(state)


def model_state(method: nn.Module, checkpoint: Checkpoint, left_out: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a checkpoint's model, with those rows that the method holds. Tensors that it does not have, or with
    another number of rows, are there without rows where the checkpoint has them in row files. left_out: not to be read there.
    """
    divided = row_files.totals(checkpoint.rows, FILES[0])
    held = rows_wanted(method)
    fitting = {n: held[n] for n, total in divided.items() if n in held and held[n].total == total and n not in left_out}
    found = {name: cut(tensor, held.get(name)) for name, tensor in load_tensors(checkpoint, FILES[0]).items()}
    found |= {name: torch.empty(total, 0) for name, total in divided.items()}
    own = method.state_dict()
    found |= {name: own[name] for name, rows in fitting.items() if not rows.count}
    return found | load_rows(checkpoint, FILES[0], fitting)


def rows_wanted(method: nn.Module) -> dict[str, Rows]:
    """The rows that a method holds of its tensors: all, but where classes are divided."""
    held = held_rows(method)
    whole = {name: Rows(0, len(tensor), len(tensor)) for name, tensor in method.state_dict().items() if tensor.ndim}
    return whole | held


def cut(tensor: Tensor, rows: Rows | None) -> Tensor:
    """The rows of a whole tensor that a method holds; the tensor itself where its rows are others."""
    if rows is None or not rows.is_part or tensor.ndim == 0 or len(tensor) != rows.total:
        return tensor
    return tensor[rows.first : rows.end]


def load_initial_state(
    method: nn.Module, checkpoint: Checkpoint, per_class: Collection[str], fingerprint: str
) -> list[str]:
    """Start `method` from another run's weights, for other people or another method on the same backbone.

    per_class: the method's tensors with one row for each person or clothes class (classifiers, memories). On other data a
    row is another person, so they keep their new values, even where shapes fit; they need not be there on both sides.
    fingerprint: of the new training data. A checkpoint that does not tell its data's counts as one of other data.
    Returns the names of tensors that keep their initial values. Raises: RequestError naming other tensors that do not fit.
    """
    facts, wanted = checkpoint.facts, method.state_dict()
    then = (facts["num_persons"], facts["num_clothes"] if "num_clothes" in facts else len(facts["clothes_owner"]))
    is_same_data = facts.get("fingerprint") == fingerprint
    state = model_state(method, checkpoint, left_out=() if is_same_data else per_class)
    by_class = {name for name in per_class if not is_same_data or shape(state.get(name)) != shape(wanted[name])}
    left_out = {name for name in state if name not in wanted and has_rows(state[name], then)}
    names = {*wanted, *state} - by_class - left_out
    shapes = {name: (shape(wanted.get(name)), shape(state.get(name))) for name in sorted(names)}
    refuse({name: pair for name, pair in shapes.items() if pair[0] != pair[1]}, checkpoint)
    method.load_state_dict({name: state[name] for name in wanted if name not in by_class}, strict=False)
    return sorted(by_class)


def has_rows(tensor: Tensor, counts: Collection[int]) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] in counts


def refuse(differing: dict[str, tuple[str, str]], checkpoint: Checkpoint) -> None:
    if differing:
        listed = [f"{name} is {has}, expected {needs}" for name, (needs, has) in differing.items()]
        more = f" … ({len(listed)} in all)" if len(listed) > SHOWN_DIFFERENCES else ""
        raise RequestError(
            f"the model of checkpoint {checkpoint.address} does not fit: {'; '.join(listed[:SHOWN_DIFFERENCES])}{more}. "
            "Use one of the same backbone."
        )


def shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "×".join(map(str, tensor.shape)) or "scalar"


def optimizer_states(method: Method, checkpoint: Checkpoint) -> OptimizerStates:
    """What a strategy's `load_optimizers` takes.

    Raises: CorruptCheckpointError where a tensor is of no parameter, or of another shape.
    """

    def misfit(what: str) -> CorruptCheckpointError:
        place = checkpoint.store.join(checkpoint.folder, FILES[1])
        return CorruptCheckpointError(
            f"{place}: {what}. Delete this checkpoint's folder to resume from the previous one."
        )

    held = rows_wanted(method)
    divided = row_files.totals(checkpoint.rows, FILES[1])
    wanted = {path: held[parameter_of(path)] for path in divided if parameter_of(path) in held}
    for path in divided:
        if path not in wanted or wanted[path].total != divided[path]:
            raise misfit(f"{path} has {divided[path]} rows, which no parameter has")
    tensors = {
        path: cut(tensor, held.get(parameter_of(path))) for path, tensor in load_tensors(checkpoint, FILES[1]).items()
    }
    found: dict[str, dict[str, Tensor]] = {}
    for path, tensor in (tensors | load_rows(checkpoint, FILES[1], wanted)).items():
        owner, _, key = path.rpartition("/")
        found.setdefault(owner, {})[key] = tensor
    states: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, parameters in method.parameters_of().items():
        for parameter_name, parameter in parameters:
            state = found.pop(f"{name}/{parameter_name}", {})
            for key, value in state.items():
                if value.shape not in ((), parameter.shape):
                    raise misfit(f"{name}/{parameter_name}/{key} is {shape(value)}, expected {shape(parameter)}")
            if state:
                states[name, parameter_name] = state
    if found:
        raise misfit(f"{next(iter(found))} is no parameter that an optimizer trains")
    return states
