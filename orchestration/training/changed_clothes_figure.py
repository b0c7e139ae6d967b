"""What a run trains on where clothes are sampled: images of its first batch, their parts, the same in other clothes.

As Fig. 1 of Shu et al. has them: two images of a person in one outfit, a third in another, and three other people.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import matplotlib
import numpy as np
from torch import Tensor

from datasets.images.label_maps import PARTS
from datasets.shards.dataset import Dataset
from datasets.streaming.stream import HostBatch
from methods.method import Stage
from orchestration.config import build
from orchestration.config.load import Experiment
from orchestration.engine import loop
from orchestration.figures import plt, to_png

PICTURE = "changed-clothes.png"
COLUMNS = 3
PART_COLOURS = np.array(
    [(0, 0, 0), (230, 60, 60), (250, 200, 60), (60, 110, 220), (80, 190, 120), (180, 100, 200)], np.uint8
)

log = logging.getLogger(__name__)


def draw_changed_clothes(experiment: Experiment, dataset: Dataset) -> dict[str, bytes]:
    """{file name: PNG} of the run's first batch; nothing where clothes are not sampled.

    What goes wrong here is logged: training will meet it, too, and knows better what to do.
    """
    if experiment.augment.clothes_sampling is None:
        return {}
    try:
        return {PICTURE: picture(experiment, dataset)}
    except Exception as error:
        log.warning("no picture of changed clothes: %s: %s", type(error).__name__, error)
        return {}


def picture(experiment: Experiment, dataset: Dataset) -> bytes:
    host, images, parts, changed = first_batch(experiment, dataset)
    groups = []
    for letter, at in zip("abcdef", chosen(host.person.numpy(), host.clothes.numpy()), strict=False):
        shown = [pixels(images[at]), PART_COLOURS[parts[at].numpy()], pixels(changed[at])]
        groups.append((f"({letter}) {caption(dataset, host, at)}", shown))
    return grid("First batch: image, parts, the same in clothes of other people's pixels", groups)


def first_batch(experiment: Experiment, dataset: Dataset) -> tuple[HostBatch, Tensor, Tensor, Tensor]:
    """The run's first global batch, and of it, uint8: images [B, 3, H, W], parts [B, H, W], images in other clothes.

    Of a clip its middle frame is shown.
    """
    of_images = (Stage("of images", 0, ()),)  # whatever the method's first stage reads
    feed, stream = build.build_feed(experiment, dataset, worker=0, workers=1, stages=of_images)
    try:
        host = next(feed.batches(0, 0))
    finally:
        stream.close()
    images, parsing, changed, _ = loop.place(host, feed, epoch=0, rank=0, device="cpu")
    assert feed.clothes is not None
    assert parsing is not None
    assert changed is not None
    if images.ndim == 5:
        images, parsing, changed = (x[:, x.shape[1] // 2] for x in (images, parsing, changed))
    return host, images, feed.clothes.part_of_label[parsing.long()], changed


def chosen(person: np.ndarray, clothes: np.ndarray) -> list[int]:
    """Three images of the person with most outfits, the first two in one outfit where that can be; and three others."""
    people = list(dict.fromkeys(person.tolist()))
    first = max(people, key=lambda who: len(set(clothes[person == who].tolist())))
    own = np.flatnonzero(person == first)
    twice = next((outfit for outfit in clothes[own] if (clothes[own] == outfit).sum() > 1), clothes[own[0]])
    same, others = own[clothes[own] == twice], own[clothes[own] != twice]
    three = [*same[: 3 - min(1, len(others))], *others][:COLUMNS]
    rest = [int(np.flatnonzero(person == who)[0]) for who in people if who != first]
    return [int(at) for at in three] + rest[:COLUMNS]


def caption(dataset: Dataset, host: HostBatch, at: int) -> str:
    """The data set's own words for person and outfit."""
    (sample,) = dataset.samples("train", host.rows.view(len(host.person), -1)[at : at + 1, 0].numpy())
    return f"person {sample.person}" + ("" if sample.clothes is None else f", outfit {sample.clothes}")


def pixels(image: Tensor) -> np.ndarray:
    """uint8 [H, W, 3] of uint8 [3, H, W]."""
    return image.permute(1, 2, 0).numpy()


def grid(title: str, groups: Sequence[tuple[str, Sequence[np.ndarray]]]) -> bytes:
    """COLUMNS groups to a row, each some images side by side under one caption; below them what the parts' colours mean."""
    height, width = groups[0][1][0].shape[:2]
    rows, panels = -(-len(groups) // COLUMNS), len(groups[0][1])
    tall = height / width
    figure = plt.figure(figsize=(COLUMNS * (panels + 0.25), rows * (tall + 0.35) + 0.8))
    figure.suptitle(title, fontsize=10)
    outer = figure.add_gridspec(rows, COLUMNS, wspace=0.08, hspace=0.18, left=0.02, right=0.98, top=0.87, bottom=0.09)
    for number, (words, images) in enumerate(groups):
        inner = outer[number // COLUMNS, number % COLUMNS].subgridspec(1, panels, wspace=0.03)
        for place, image in enumerate(images):
            axes = figure.add_subplot(inner[place])
            axes.imshow(image)
            axes.axis("off")
            if place == panels // 2:
                axes.set_title(words, fontsize=8)
    patches = [
        matplotlib.patches.Patch(facecolor=colour / 255, edgecolor="grey", label=part)
        for part, colour in zip(PARTS, PART_COLOURS, strict=True)
    ]
    figure.legend(handles=patches, loc="lower center", ncols=len(PARTS), fontsize=7.5, frameon=False)
    return to_png(figure, laid_out=True)
