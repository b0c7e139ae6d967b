"""A small parsing network, trained in seconds on rendered people, and its data: frames to learn from, others to parse."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from datasets.format.schema import Sample
from datasets.images.augment import IMAGENET_MEAN, IMAGENET_STD
from datasets.images.label_maps import LABEL_MAPS
from datasets.synthetic.dataset import samples
from datasets.synthetic.jobs import make_jobs
from datasets.synthetic.presets import Preset

SIZE = (96, 48)
PRESET = Preset(
    "parsing",
    train_persons=2,
    test_persons=2,
    outfits=2,
    cameras_per_outfit=2,
    frames=24,
    height=SIZE[0],
    width=SIZE[1],
)
SIX = LABEL_MAPS["six"]


class ParsingNetwork(nn.Module):
    """Normalised images [B, 3, 96, 48] → logits [B, 6, 96, 48]: a U of three levels that also sees where each pixel lies."""

    place: Tensor

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        rows, columns = (torch.linspace(-1, 1, length // 2) for length in SIZE)
        self.register_buffer("place", torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None])
        self.fine = nn.Sequential(block(14, width), block(width, width))
        self.middle = nn.Sequential(block(width, 2 * width), block(2 * width, 2 * width))
        self.coarse = nn.Sequential(block(2 * width, 2 * width), block(2 * width, 2 * width))
        self.up_middle, self.up_fine = block(4 * width, width), block(2 * width, width)
        self.logits = nn.Conv2d(width, 4 * SIX.num_labels, 1)

    def forward(self, images: Tensor) -> Tensor:
        quarters = F.pixel_unshuffle(images, 2)
        fine = self.fine(torch.cat([quarters, self.place.expand(images.shape[0], -1, -1, -1)], 1))
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = F.interpolate(self.coarse(F.max_pool2d(middle, 2)), scale_factor=2.0)
        middle = F.interpolate(self.up_middle(torch.cat([middle, coarse], 1)), scale_factor=2.0)
        return F.pixel_shuffle(self.logits(self.up_fine(torch.cat([fine, middle], 1))), 2)


def block(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def rendered() -> dict[str, list[Sample]]:
    """Splits "gallery", to learn from, and "query": other frames of the same walks. Masks are the renderer's LIP-20."""
    jobs = make_jobs(PRESET, "ltcc", seed=1)
    return {split: list(samples(jobs[split])) for split in ("gallery", "query")}


def six_parts(sample: Sample) -> Tensor:
    """The renderer's mask by label map `six`: uint8 [h, w]."""
    labels = np.array(Image.open(io.BytesIO(sample.parsing or b"")))
    return LABEL_MAPS["lip20"].part_table()[torch.from_numpy(labels).long()]


def train(people: Sequence[Sample], steps: int = 400) -> ParsingNetwork:
    """A network in evaluation mode; some ten seconds of one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = ParsingNetwork().to(memory_format=torch.channels_last)
    pixels = [torch.from_numpy(np.array(Image.open(io.BytesIO(sample.image)))) for sample in people]
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = ((torch.stack(pixels).permute(0, 3, 1, 2) / 255 - mean) / std).contiguous(
        memory_format=torch.channels_last
    )
    parts = torch.stack([six_parts(sample) for sample in people]).long()
    optimizer = torch.optim.AdamW(network.parameters(), 0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(images), (8,))
        x, y = images[chosen], parts[chosen]
        x, y = (x.flip(3), y.flip(2)) if step % 2 else (x, y)
        loss = objective(network(x), F.one_hot(y, SIX.num_labels).permute(0, 3, 1, 2).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.set_num_threads(threads)
    return network.eval().requires_grad_(False)


def objective(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy, and one minus the mean soft intersection over union, without which thin arms are never learnt."""
    found = logits.softmax(1)
    both, either = ((x).sum((0, 2, 3)) for x in (found * truth, found + truth - found * truth))
    return F.cross_entropy(logits, truth) + (1 - (both + 1) / (either + 1)).mean()


def mean_iou(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """Over the labels that occur in either: pixels that both have over pixels that one has."""
    a, b = (torch.cat([mask.flatten() for mask in masks]) for masks in (found, truth))
    ious = [
        (((a == label) & (b == label)).sum() / ((a == label) | (b == label)).sum()).item()
        for label in range(256)
        if (a == label).any() or (b == label).any()
    ]
    return sum(ious) / len(ious)


def without_masks(people: Sequence[Sample]) -> list[Sample]:
    return [replace(sample, parsing=None) for sample in people]
