"""An experiment's method on torch's meta device: its shapes, its stages and its inputs, without weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from methods import METHODS
from methods.method import DataFacts, Method, Stage
from methods.micro_batches import bodies_of
from methods.recompute import blocks_of
from methods.sharded import share
from methods.sharded.share import held_rows
from orchestration.config.settings import Experiment
from orchestration.engine.weights import HUB


class Outline(NamedTuple):
    """What checks of an experiment ask of its method; the names are those of `Method`.

    trained: names of its optimizers. weights_address: None, too, where the experiment does not ask for published weights:
    finding it imports torchvision. recomputes: whether all its bodies have blocks that can be recomputed. is_per_image: whether
    all of them compute each image by itself. divides_classes: whether its classifiers are divided over workers.
    """

    inputs: tuple[str, ...]
    takes_clips: bool
    pairs_for: str
    stages: tuple[Stage, ...]
    trained: frozenset[str]
    weights_address: str | None
    recomputes: bool
    is_per_image: bool
    divides_classes: bool


Kind = tuple[type[Method], type[BaseModel], bool]  # a method, its settings, and whether published weights are asked for
_read: dict[Kind, list[tuple[str, ...]]] = {}  # names of the settings that outlines of a kind were made from
_outlines: dict[tuple[Kind, tuple[str, ...], str], Outline] = {}


def outline(experiment: Experiment) -> Outline:
    """The outline of an experiment's method. Raises: MethodError.

    It is made once for all settings of a method that differ only in what its constructor does not read: a sweep over
    hundreds of values of a loss's weight builds one network.
    """
    kind: Kind = (METHODS[experiment.method.name], type(experiment.method), experiment.weights in HUB)
    for names in _read.get(kind, ()):
        if known := _outlines.get((kind, names, values_of(experiment.method, names))):
            return known
    settings, read = watched(experiment.method)
    method = build_on_meta(experiment, settings=settings)
    made = Outline(
        method.inputs,
        method.takes_clips,
        method.pairs_for,
        method.stages(),
        frozenset(method.parameters_of()),
        method.weights_address() if experiment.weights in HUB else None,
        all(blocks_of(body) for body in bodies_of(method)),
        all(body.is_per_image for body in bodies_of(method)),
        bool(held_rows(method)),
    )
    fields = set(type(experiment.method).model_fields)
    names = tuple(sorted(fields if read & WHOLE else read & fields))
    if names not in _read.setdefault(kind, []):
        _read[kind].append(names)
    _outlines[kind, names, values_of(experiment.method, names)] = made
    return made


def values_of(settings: BaseModel, names: tuple[str, ...]) -> str:
    return settings.model_dump_json(include=set(names))


WHOLE = {"model_dump", "model_dump_json", "model_copy", "__dict__", "__iter__"}  # these read all settings


def watched(settings: BaseModel, **changes: Any) -> tuple[Any, set[str]]:
    """The same settings (but for `changes`), and a set to which the name of each attribute is added when it is read."""
    kind: Any = type(settings)
    read: set[str] = set()

    class Watched(kind):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    given = {key: getattr(settings, key) for key in kind.model_fields}
    copy = Watched.model_construct(**given | {key: value for key, value in changes.items() if key in given})
    read.clear()
    return copy, read


def facts_of_people(number: int) -> DataFacts:
    """A synthetic training set of so many people, each in clothes of their own, none of them on another worker."""
    return DataFacts(number, torch.arange(number), clothing_labels=(1,), share=share.WHOLE)


def build_on_meta(experiment: Experiment, facts: DataFacts | None = None, *, settings: Any = None) -> Method:
    """The method for a training set; without `facts`, for two people. Raises: MethodError.

    settings: in place of the experiment's, of the same values.
    """
    facts = facts or facts_of_people(2)
    with SkipInitialisation(), torch.device("meta"):
        return METHODS[experiment.method.name](settings or experiment.method, facts)


def per_class_tensors(experiment: Experiment) -> set[str]:
    """Names of the parameters and buffers with one row for each person or clothes class of the training set."""
    few, more = (build_on_meta(experiment, facts_of_people(people)).state_dict() for people in (2, 3))
    return {name for name, tensor in few.items() if tensor.shape != more[name].shape}


class SkipInitialisation(TorchFunctionMode):
    """Skips functions that change a tensor's values and not its shape. On the meta device they change nothing, but torch would
    import its compiler for them, which takes a second and 180 MiB."""

    SKIPPED = (
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.functional.normalize,
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.SKIPPED:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
