"""Learning-rate schedules: the factor on an optimizer's rate in each epoch, a pure function.

All count epochs from 0. `offset` is for published code that steps its scheduler before the epoch, not after it: there the
first epoch already uses index 1.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field


class Warmup(BaseModel, extra="forbid", frozen=True):
    """Over `warmup_epochs` the factor rises linearly from `warmup_factor` to 1.

    depends_on_length: whether the factor of an epoch is another one where training is longer.
    """

    depends_on_length: ClassVar[bool] = False
    warmup_epochs: int = Field(0, ge=0)
    warmup_factor: float = Field(0.01, ge=0, le=1)
    offset: int = Field(0, ge=0, le=1)


class Multistep(Warmup, extra="forbid", frozen=True):
    """× gamma at every milestone (epochs); a milestone within the warm-up counts as well."""

    name: Literal["multistep"] = "multistep"
    milestones: tuple[Annotated[int, Field(ge=1)], ...]
    gamma: float = Field(0.1, gt=0, le=1)


class Cosine(Warmup, extra="forbid", frozen=True):
    """Half a cosine from 1 at epoch 0 to `final_factor` at the end of training; the warm-up replaces its beginning."""

    depends_on_length: ClassVar[bool] = True
    name: Literal["cosine"] = "cosine"
    final_factor: float = Field(0.0, ge=0, le=1)


Schedule = Annotated[Multistep | Cosine, Field(discriminator="name")]


def factor(schedule: Multistep | Cosine | None, epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by in epoch `epoch` (from 0) of `epochs`; 1 where there is no schedule."""
    if schedule is None:
        return 1.0
    index = epoch + schedule.offset
    warm = warmup_factor(schedule, index)
    if isinstance(schedule, Multistep):
        return warm * schedule.gamma ** sum(milestone <= index for milestone in schedule.milestones)
    return warm if index < schedule.warmup_epochs else cosine_factor(schedule.final_factor, index / epochs)


def warmup_factor(schedule: Warmup, index: int) -> float:
    if index >= schedule.warmup_epochs:
        return 1.0
    return schedule.warmup_factor + (1 - schedule.warmup_factor) * index / schedule.warmup_epochs


def cosine_factor(final: float, part: float) -> float:
    """`part` of training done, 0…1 → factor from 1 to `final`."""
    return final + (1 - final) * (1 + math.cos(math.pi * part)) / 2
