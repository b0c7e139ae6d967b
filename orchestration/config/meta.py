"""An experiment's method on torch's meta device: its shapes, its stages and its inputs, without weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods import METHODS
from methods.method import DataFacts, Method
from orchestration.config.settings import Experiment


def build_on_meta(experiment: Experiment, people: int = 2) -> Method:
    """The method for a synthetic training set of so many people, each in clothes of their own. Raises: MethodError."""
    facts = DataFacts(people, torch.arange(people), clothing_labels=(1,))
    with SkipInitialisation(), torch.device("meta"):
        return METHODS[experiment.method.name](experiment.method, facts)  # type: ignore[arg-type, call-arg]


def per_class_tensors(experiment: Experiment) -> set[str]:
    """Names of the parameters and buffers with one row for each person or clothes class of the training set."""
    few, more = (build_on_meta(experiment, people).state_dict() for people in (2, 3))
    return {name for name, tensor in few.items() if tensor.shape != more[name].shape}


class SkipInitialisation(TorchFunctionMode):
    """Skips functions that change a tensor's values and not its shape. On the meta device they change nothing, but torch would
    import its compiler for them, which takes a second and 180 MiB."""

    SKIPPED = (Tensor.normal_, nn.init.normal_, nn.functional.normalize)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.SKIPPED:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
