"""Settings without effect on a sweep's scores: those that control execution, and those that the method does not read.

Whether a method reads a setting is found by running it: the method is built for synthetic labels, with as few channels as
possible to save memory, begins each stage and takes one step in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from pydantic import BaseModel

from methods import METHODS
from methods.method import Batch, DataFacts, Method, Stage
from orchestration.config.load import Experiment
from orchestration.config.meta import watched

EXECUTION = "controls how runs are stored or executed, not what they learn"
WITHOUT_EFFECT = {
    "seed": "varies within every configuration: set --seeds",
    "data": "scores on different data cannot be compared: run one sweep per data set",
    "select": "a sweep scores the last epoch of each run",
    "select_on_test": "a sweep scores on the validation set",
    "until": "a sweep compares runs of all their stages",
    "evaluate.cues": "cues are scored on the test set, after training",
    **dict.fromkeys(
        ("name", "workers", "strategy", "threads", "resources", "stream", "checkpoint", "storage", "experiment", "register",
         "max_failures", "hang_s", "evaluate.batch"), EXECUTION,
    ),
}  # fmt: skip
PEOPLE, OUTFITS, IMAGES = 2, 2, 2
NARROW = {"width": 1 / 16}  # replaces the experiment's: which settings are read does not depend on the width of layers
SIZE = (64, 32)


def why_without_effect(key: str, experiment: Experiment) -> str | None:
    """Why all values of this key would give the same scores with these settings; None if scores may differ."""
    for prefix, reason in WITHOUT_EFFECT.items():
        if key == prefix or key.startswith(f"{prefix}."):
            return reason
    if key.startswith("augment.erase_") and experiment.augment.erase == 0:
        return "nothing is erased while augment.erase is 0"
    place, _, name = key.partition(".")
    if place == "method" and name in unused_settings(experiment):
        return f'"{experiment.method.name}" does not use it with these settings: also vary the setting that enables it'
    return None


def unused_settings(experiment: Experiment) -> set[str]:
    """Settings of the method that neither its constructor nor a step in any of its stages reads."""
    return set(type(experiment.method).model_fields) - settings_read(experiment)[-1][1] - {"name"}


def settings_read(experiment: Experiment) -> list[tuple[str, set[str]]]:
    """For each stage of the method, its name and the settings that are read up to its end; last, all that are read.

    Building the method and listing its stages count for the first stage, a descriptor for none.
    """
    settings, read = watched(experiment.method, **NARROW)
    found = [(stage.title, set(read)) for stage in exercise(METHODS[experiment.method.name], settings)]
    return [*found, ("", set(read))]


def exercise(method_class: type[Method], settings: BaseModel) -> Iterator[Stage]:
    """Build a method, begin each of its stages, take a step in it, and embed a batch; yields each stage after its step."""
    with torch.random.fork_rng(devices=[]):
        method: Method = method_class(settings, synthetic_facts())
        batch = synthetic_batch(is_paired=bool(method.pairs_for))
        nothing = torch.empty(0, 3, *SIZE)
        for stage in method.stages():
            method.begin_epoch(stage.first_epoch)
            with torch.no_grad():
                method.eval().begin_stage(stage, [synthetic_batch(is_paired=False)])
            method.train()
            for update in method.updates(replace(batch, images=nothing, parsing=None) if stage.samples else batch):
                update.loss.detach()
            yield stage
        method.eval()
        inputs = [batch.images, batch.parsing] if "parsing" in method.inputs else [batch.images]
        with torch.no_grad():
            method.embed(*inputs)


def synthetic_facts() -> DataFacts:
    return DataFacts(PEOPLE, torch.arange(PEOPLE).repeat_interleave(OUTFITS), clothing_labels=(1,))


def synthetic_batch(*, is_paired: bool) -> Batch:
    """PEOPLE × OUTFITS × IMAGES images, which contain every pair that a loss may need; twice as many if `is_paired`."""
    times = 2 if is_paired else 1
    count = times * PEOPLE * OUTFITS * IMAGES
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randn((count, 3, *SIZE), generator=generator),
        parsing=torch.randint(0, 2, (count, *SIZE), dtype=torch.uint8, generator=generator),
        person=torch.arange(PEOPLE).repeat_interleave(OUTFITS * IMAGES).repeat(times),
        clothes=torch.arange(PEOPLE * OUTFITS).repeat_interleave(IMAGES).repeat(times),
        is_paired=is_paired,
        rows=torch.arange(count // times).repeat(times),
    )
