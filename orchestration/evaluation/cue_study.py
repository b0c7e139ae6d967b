"""The cue study of an evaluation: checks that the data support the cues, and a contact sheet of what the model saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.format.index import SplitIndex
from datasets.format.schema import Sample
from datasets.images.augment import Augmentation, preprocess
from datasets.images.cues import CUES, CueName, feet_labels, kept
from datasets.images.decode import decode_parsing
from datasets.images.label_maps import LABEL_MAPS
from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import Dataset
from orchestration import figures
from orchestration.config.settings import EvaluateSettings
from orchestration.errors import RequestError
from orchestration.evaluation import hard_triples
from orchestration.evaluation.embed import CueRenderer
from orchestration.evaluation.explain import pixels
from orchestration.figures import Panel

PICTURE = "cues.png"
SHOWN = 8  # people of each split in the sheet


def asked_cues(settings: EvaluateSettings) -> tuple[CueName, ...]:
    """The cues asked for, each once, in their order."""
    return tuple(dict.fromkeys(settings.cues))


def check_cues(settings: EvaluateSettings, dataset: Dataset, protocol: Protocol) -> None:
    """Check that cues by masks find masks in every evaluated split, with the labels they need. Raises: RequestError."""
    by_masks = [name for name in asked_cues(settings) if CUES[name].by_masks]
    if not by_masks:
        return
    bare = [split for split in scored_splits(protocol) if not dataset.index(split).has_parsing]
    labels = LABEL_MAPS[dataset.manifest.label_map] if dataset.manifest.label_map else None
    if bare or labels is None:
        raise RequestError(
            f"evaluate.cues = {', '.join(by_masks)}: parsing masks locate the head and the body, and images in "
            f"{', '.join(bare) or 'every split'} of data {dataset.address} have none. Convert with --parsing MASKS --labels …, "
            f"create masks with `redress data parse`, or {without_masks(by_masks)}."
        )
    if footless := [name for name in by_masks if CUES[name].body and not feet_labels(labels)]:
        raise RequestError(
            f"evaluate.cues = {', '.join(footless)}: the body cue excludes feet, and label map {labels.name!r} of data "
            f"{dataset.address} does not separate feet from legs ({', '.join(labels.labels)}). Use masks of another label map, "
            f"or {without_masks(footless)}."
        )


def without_masks(names: Sequence[str]) -> str:
    return f"use {', '.join(f'{name}-rows' for name in names)}, which need no masks"


def scored_splits(protocol: Protocol) -> list[str]:
    return sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})


def render_sheet(
    dataset: Dataset, indexes: Sequence[SplitIndex], names: Sequence[CueName], augmentation: Augmentation
) -> bytes:
    """PNG: people of each split, and below each image what the model saw, cue by cue, at the network's size."""
    samples = [(index.split, sample) for index in indexes for sample in people_of(dataset, index)]
    whole: tuple[CueName | None, ...] = (None, *names)
    rows = []
    for name in whole:
        renderer = CueRenderer(dataset, augmentation, name)
        rows.append((name or "whole", [panel(sample, renderer, augmentation) for _, sample in samples]))
    heads = [f"{split}\n{sample.person}" for split, sample in samples]
    title = "What the model saw: pixels outside a cue have the mean colour of the normalisation"
    return figures.sheet(title, heads, rows)


def people_of(dataset: Dataset, index: SplitIndex) -> list[Sample]:
    """One sample each of SHOWN people, spread evenly over the split."""
    rows = hard_triples.spread(hard_triples.middle_of_each(index.person), SHOWN)
    return list(dataset.samples(index.split, np.sort(rows)))


def panel(sample: Sample, renderer: CueRenderer, augmentation: Augmentation) -> Panel:
    """An image as the network's input, and the share of pixels that are kept."""
    image, _ = renderer({"image": sample.image, "parsing": sample.parsing or b""})
    seen = pixels(preprocess(image, augmentation), augmentation)[0]
    if renderer.cue is None:
        return Panel(seen)
    mask = decode_parsing(sample.parsing)[None] if sample.parsing else None
    keep = kept(renderer.cue, (1, *image.shape[2:]), mask, renderer.labels)
    return Panel(seen, f"{100 * keep.float().mean().item():.0f} % kept")
