"""The base of all methods, and what passes between a method and the training loop.

A method defines the networks it trains, the stages and updates of its training, and its descriptor at test time. The
loop, optimizers, workers, files and tracking are outside of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import Parameter

from methods.backbones.body import Body, Phase
from methods.masking import WHITE, Colour
from methods.separation import Separation
from methods.sharded.share import Share, own_share


class MethodError(ValueError):
    """Settings, data or weights do not fit the method. The message says what was expected and what to do."""


@dataclass(frozen=True)
class DataFacts:
    """The facts about the training set that a method may use.

    clothes_owner: int64 [num_clothes], the person who wears each clothes class.
    clothing_labels: label numbers of the parsing maps that are clothing; empty where there is no parsing.
    num_images: rows of the training set; 0 where it is not known, as of runs that older versions trained.
    white: RGB of a white pixel once images are normalised; by default with the mean and deviation of ImageNet.
    share: the classes that this process holds where a method divides them; by default by its rank.
    """

    num_persons: int
    clothes_owner: Tensor
    clothing_labels: tuple[int, ...] = ()
    white: Colour = WHITE
    num_images: int = 0
    share: Share = field(default_factory=own_share)

    @property
    def num_clothes(self) -> int:
        return len(self.clothes_owner)


class Needs(NamedTuple):
    """Whether every image of the training set must have clothes labels, a parsing map."""

    clothes: bool = False
    parsing: bool = False


@dataclass(frozen=True)
class Batch:
    """One worker's share of a global batch, transformed, on the device.

    images: float [B, 3, H, W], normalised; clips of T frames are [B, T, 3, H, W]; empty in a stage of `samples`. person,
    clothes: int64 [B], classes of the training set. parsing: uint8 [B, H, W] or [B, T, H, W], the data set's label map,
    where the method needs it. is_paired: the second half of the samples repeats the first half, in the same order and with
    the same labels, in other clothes. rows: int64 [B], of clips [B, T], the rows of the training set's index; empty where
    a batch is of no data set.
    """

    images: Tensor
    person: Tensor
    clothes: Tensor
    parsing: Tensor | None = None
    is_paired: bool = False
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


Survey = Iterable[Batch]


@dataclass(frozen=True)
class Update:
    """One optimizer step: the loop back-propagates `loss`, then steps `optimizer`.

    loss: scalar, mean over the local batch; it depends on the parameters of no other optimizer.
    logs: scalars to log, also means over the local batch.
    """

    optimizer: str
    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """The optimizers that step from `first_epoch` (counted from 0) until the next stage begins.

    phase: the phase of the method's body, where the body's training has several (PCB's refined part pooling).
    samples: a global batch is so many rows of the training set, drawn at random over all of them, and nothing is read or
    decoded; 0 for batches of images, as the experiment describes them. changes_embedding: False where what `embed` gives
    stays the same throughout: nothing is scored, selected or stopped by such epochs.
    """

    name: str
    first_epoch: int
    optimizers: tuple[str, ...]
    phase: str = ""
    samples: int = 0
    changes_embedding: bool = True

    @property
    def title(self) -> str:
        return f"{self.name}, {self.phase}" if self.phase else self.name


class Method(nn.Module, ABC):
    """The base of all methods.

    `embed`, `maps`, `describe`, `heat`, `weights_address` and `load_backbone` are those of `encoder`; a method whose descriptor
    needs more than one body overrides them. Called as a module, a method is its `embed`: where a method overrides
    `embed`, it repeats the line `forward = embed`.

    Settings: the pydantic model of its settings, with the paper's values as defaults.
    encoder: the body between the images and the descriptor.
    takes_clips: whether images may be clips of video.
    pairs_for: name of the setting, a weight, that needs paired batches; empty where none does.
    inputs: names of the arguments of `embed`; settings may reduce them.

    Raises: MethodError where the facts about the training set do not fit the method.
    """

    Settings: ClassVar[type[BaseModel]]
    takes_clips: ClassVar[bool] = False
    pairs_for: str = ""
    inputs: tuple[str, ...] = ("images",)
    encoder: Body

    def __init__(self, settings: BaseModel, facts: DataFacts) -> None:
        super().__init__()
        check_facts(type(self).__name__, self.needs(settings), facts)
        self.epoch = 0
        self.begun: Stage | None = None  # the stage for which `begin_stage` was called last

    @classmethod
    def needs(cls, settings: Any) -> Needs:
        """What training with these settings, an instance of `Settings`, needs of the training set beside persons."""
        return Needs()

    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order of their first epochs; the first begins at epoch 0."""
        return (Stage("identity", 0, ("model",)),)

    def stage_at(self, epoch: int) -> Stage:
        return stage_of(self.stages(), epoch)

    @cached_property
    def stage(self) -> Stage:
        """The stage of the epoch that `begin_epoch` began last; before any epoch, that of epoch 0."""
        return self.stage_at(self.epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first update of an epoch, a resumed one included."""
        self.epoch = epoch
        self.stage = self.stage_at(epoch)  # once an epoch: stages may list every parameter
        for module in self.modules():
            if isinstance(module, Body):
                module.epoch = epoch

    def begin_stage(self, stage: Stage, survey: Survey) -> None:
        """Work out what the stage needs and `state_dict` does not have, such as a table of features.

        Called where a stage begins and where training resumes inside one, after the state is restored, before the first
        update. It runs in eval mode, without gradients, from the experiment's seed, and changes neither parameters nor
        buffers. survey: the training set once, in the order of its rows, as `embed` sees test images; masks with it where
        the method needs them, clips as their frames. Each worker has a share of it, and shares may differ in length.
        Nothing is read before it is iterated.
        """

    def end_stage(self, stage: Stage, survey: Survey) -> Mapping[str, Separation]:
        """What the stage has come to tell apart, by a name for metrics. Nothing by default.

        Called on all workers after the last update of a stage's last epoch, before its checkpoint; survey and surroundings
        are those of `begin_stage`. All workers return the same.
        """
        return {}

    def parameters_of(self) -> dict[str, list[tuple[str, Parameter]]]:
        """Each optimizer's trainable parameters, named as in `state_dict`, in registration order."""
        return {"model": trainable(self)}

    @abstractmethod
    def updates(self, batch: Batch) -> Iterator[Update]:
        """The updates of one step, one for each optimizer of the stage. The loop back-propagates and steps each before it
        asks for the next."""

    def embed(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W], or clips [B, T, 3, H, W] → descriptor [B, D], not normalised.

        It is called in eval mode and receives no label of the test data.
        """
        return self.encoder(images)

    forward = embed

    def maps(self, images: Tensor) -> Tensor:
        """The maps that `embed` pools into the descriptor, from the same inputs: images → maps [B, C, h, w], or as the body
        says."""
        return self.encoder.maps(images)

    def describe(self, maps: Tensor) -> Tensor:
        """The rest of `embed`: maps [B, C, h, w] → descriptor [B, D]."""
        return self.encoder.describe(maps)

    def heat(self, cam: Tensor, images: Tensor) -> Tensor:
        """One number for each element of the maps of `images`, without their channels → [B, h, w], over the images."""
        return self.encoder.heat(cam, images.shape[2:])

    def views(self, images: Tensor) -> dict[str, Tensor]:
        """Further pictures of where the method looks, by title, from the inputs of `embed`: maps [B, h, w] between 0 and 1,
        or the images [B, 3, H, W] that one of its networks sees instead of the given ones."""
        return {}

    def weights_address(self) -> str | None:
        """Where the published pre-trained weights of the backbone are; None where none have its shape."""
        return self.encoder.weights_address()

    def load_backbone(self, state: Mapping[str, Any]) -> None:
        """Load pre-trained weights of the body, under their published names.

        Raises: MethodError naming the keys that are missing or do not fit.
        """
        self.encoder.load(state)


def stage_of(stages: Sequence[Stage], epoch: int) -> Stage:
    """The stage of an epoch."""
    return [stage for stage in stages if stage.first_epoch <= epoch][-1]


def ended_stage(stages: Sequence[Stage], epoch: int, epochs: int) -> str | None:
    """The name of the stage that ends where `epoch` begins; None inside a stage. epochs: those of the whole training."""
    if epoch == 0:
        return None
    before = stage_of(stages, epoch - 1).name
    return before if epoch >= epochs or stage_of(stages, epoch).name != before else None


def epochs_of(stages: Sequence[Stage], optimizer: str, epochs: int) -> tuple[int, int]:
    """The first epoch in which an optimizer steps, and the one behind its last, in a training of `epochs` epochs; (0, 0)
    where it has none."""
    ends = [*(stage.first_epoch for stage in stages[1:]), epochs]
    spans = [
        (stage.first_epoch, min(end, epochs))
        for stage, end in zip(stages, ends, strict=True)
        if optimizer in stage.optimizers and stage.first_epoch < min(end, epochs)
    ]
    return (spans[0][0], spans[-1][1]) if spans else (0, 0)


def with_phases(stages: Sequence[Stage], phases: Sequence[Phase]) -> tuple[Stage, ...]:
    """A method's stages, cut where its body's phases begin. A stage or phase of no epoch is left out.

    Where the body trains alone, only its own optimizer steps: "model".
    """
    if not phases:
        return tuple(stages)
    cut = []
    begin = {stage.first_epoch for stage in stages} | {phase.first_epoch for phase in phases}
    for epoch in sorted(begin):
        stage = [stage for stage in stages if stage.first_epoch <= epoch][-1]
        phase = [phase for phase in phases if phase.first_epoch <= epoch][-1]
        optimizers = ("model",) if phase.is_alone else stage.optimizers
        cut.append(replace(stage, first_epoch=epoch, optimizers=optimizers, phase=phase.name))
    return tuple(cut)


def trainable(module: nn.Module) -> list[tuple[str, Parameter]]:
    """The named parameters that require a gradient, in registration order."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def check_facts(name: str, needs: Needs, facts: DataFacts) -> None:
    owner = facts.clothes_owner
    if owner.ndim != 1 or owner.dtype != torch.int64:
        raise MethodError(
            f"clothes_owner is {owner.dtype} {list(owner.shape)}; expected int64 [num_clothes]: the person of each class"
        )
    if facts.num_persons < 1:
        raise MethodError("the training set has no persons")
    if ((owner < 0) | (owner >= facts.num_persons)).any():
        raise MethodError(
            f"clothes_owner is from {owner.min()} to {owner.max()}; expected persons from 0 to {facts.num_persons - 1}"
        )
    if needs.clothes and len(owner.unique()) < facts.num_persons:
        raise MethodError(
            f"{name} needs clothes labels, and the training set has none for some of its persons. "
            "Take a data set with clothes labels, or a method that needs none"
        )
    if needs.parsing and not facts.clothing_labels:
        raise MethodError(f"{name} needs parsing maps, and the training set has no label map")
