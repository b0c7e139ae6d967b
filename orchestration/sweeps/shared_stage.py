"""The first stages of a method that are the same training at every point of a sweep: trained once, from each seed."""

from __future__ import annotations

from collections.abc import Iterable

from orchestration.addresses import split_stage
from orchestration.config.load import Experiment
from orchestration.config.meta import build_on_meta
from orchestration.sweeps.unused_settings import settings_read


def shared_stage(experiment: Experiment, keys: Iterable[str]) -> str | None:
    """The name of the last stage that no swept setting reaches, of the stages at the beginning that leave the descriptor as
    it is; None where there is none. keys: of the swept settings.

    A setting of the method reaches a stage where the method reads it up to the end of that stage; one of an optimizer where
    that optimizer steps in it. Any other setting is taken to reach all of them.
    """
    if experiment.init_from and split_stage(experiment.init_from)[1]:
        return None
    read = dict(settings_read(experiment))
    shared = None
    for stage in build_on_meta(experiment).stages():
        if stage.changes_embedding or any(reaches(key, stage.optimizers, read[stage.title]) for key in keys):
            return shared
        shared = stage.name
    return shared


def reaches(key: str, optimizers: tuple[str, ...], read: set[str]) -> bool:
    place, _, name = key.partition(".")
    if place == "method":
        return name in read
    if place == "optimizers":
        return name.partition(".")[0] in optimizers
    return True
