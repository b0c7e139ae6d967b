"""Settings without effect on a sweep's scores: those that control execution, and those that the method does not read.

Whether a method reads a setting is found by running it: the method is built for synthetic labels, with as few channels as
possible to save memory, and takes one step in each stage.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel

from methods import METHODS
from methods.method import Batch, DataFacts, Method
from orchestration.config.load import Experiment
from orchestration.config.meta import watched

EXECUTION = "controls how runs are stored or executed, not what they learn"
WITHOUT_EFFECT = {
    "seed": "varies within every configuration: set --seeds",
    "data": "scores on different data cannot be compared: run one sweep per data set",
    "select": "a sweep scores the last epoch of each run",
    "select_on_test": "a sweep scores on the validation set",
    "evaluate.cues": "cues are scored on the test set, after training",
    **dict.fromkeys(
        ("name", "workers", "threads", "resources", "stream", "checkpoint", "storage", "experiment", "register",
         "max_failures", "evaluate.batch"), EXECUTION,
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
    """Settings of the method that neither its constructor nor a step in any of its stages reads.

    Empty if the method fails on the synthetic batch: then nothing is known.
    """
    settings, read = watched(experiment.method, **NARROW)
    try:
        exercise(METHODS[experiment.method.name], settings)
    except Exception:
        return set()
    return set(type(experiment.method).model_fields) - read - {"name"}


def exercise(method_class: type[Method], settings: BaseModel) -> None:
    """Build a method, take a step in each of its stages, and embed a batch."""
    with torch.random.fork_rng(devices=[]):
        method: Method = method_class(settings, synthetic_facts())  # type: ignore[call-arg, arg-type]
        batch = synthetic_batch(is_paired=bool(method.pairs_for))
        for stage in method.stages():
            method.begin_epoch(stage.first_epoch)
            for update in method.updates(batch):
                update.loss.detach()
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
    )
