"""Which settings would change nothing if they were swept: those of how a run is executed, and those that nothing reads.

Whether a method reads a setting is seen by trying: it is built for made-up people, with the fewest channels that it can
have, so that this process stays as small as it is, and takes a step in each stage.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel

from methods import METHODS
from methods.method import Batch, DataFacts, Method
from orchestration.config.load import Experiment

BOOKKEEPING = "says how runs are kept or carried out, not what they learn"
INERT = {
    "seed": "is varied for every point: set --seeds",
    "data": "scores on different data cannot be compared: run a sweep on each",
    "select": "a sweep scores each run's last epoch",
    "select_on_test": "a sweep scores on the validation set",
    "evaluate.cues": "cues are scored on the test set, when training is over",
    **dict.fromkeys(
        ("name", "workers", "threads", "resources", "stream", "checkpoint", "storage", "experiment", "register",
         "max_failures", "evaluate.batch"), BOOKKEEPING,
    ),
}  # fmt: skip
PEOPLE, OUTFITS, IMAGES = 2, 2, 2
NARROW = {"width": 1 / 16}  # in the place of the experiment's: what is read does not depend on how wide a layer is
SIZE = (64, 32)


def inert(key: str, experiment: Experiment) -> str | None:
    """Why values of this key would all give the same scores, with these settings; None where they may differ."""
    for prefix, reason in INERT.items():
        if key == prefix or key.startswith(f"{prefix}."):
            return reason
    if key.startswith("augment.erase_") and experiment.augment.erase == 0:
        return "nothing is erased while augment.erase is 0"
    place, _, name = key.partition(".")
    if place == "method" and name in unread(experiment):
        return f'"{experiment.method.name}" does not look at it with these settings: sweep what makes it count as well'
    return None


def unread(experiment: Experiment) -> set[str]:
    """Settings of the method that neither its construction nor a step in any of its stages looks at.

    A method that a made-up batch does not suit is not judged: then the set is empty.
    """
    settings = type(experiment.method)
    read: set[str] = set()

    class Watched(settings):  # type: ignore[valid-type, misc]
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    given = {key: NARROW.get(key, getattr(experiment.method, key)) for key in settings.model_fields}
    watched = Watched.model_construct(**given)
    read.clear()
    try:
        try_out(METHODS[experiment.method.name], watched)
    except Exception:
        return set()
    return set(settings.model_fields) - read - {"name"}


def try_out(method_class: type[Method], settings: BaseModel) -> None:
    """Everything that training and embedding do with a method, once."""
    with torch.random.fork_rng(devices=[]):
        method: Method = method_class(settings, facts())  # type: ignore[call-arg, arg-type]
        batch = made_up(is_paired=bool(method.pairs_for))
        for stage in method.stages():
            method.begin_epoch(stage.first_epoch)
            for update in method.updates(batch):
                update.loss.detach()
        method.eval()
        inputs = [batch.images, batch.parsing] if "parsing" in method.inputs else [batch.images]
        with torch.no_grad():
            method.embed(*inputs)


def facts() -> DataFacts:
    clothes = PEOPLE * OUTFITS
    own = torch.eye(PEOPLE, dtype=torch.bool).repeat_interleave(OUTFITS, dim=1)
    return DataFacts(PEOPLE, clothes, own, clothing_labels=(1,))


def made_up(*, is_paired: bool) -> Batch:
    """PEOPLE × OUTFITS × IMAGES images: every pair that a loss may ask for; twice as many where they are to be paired."""
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
