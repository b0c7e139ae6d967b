"""Where a model looks: Grad-CAM and a method's own views of hard triples of an evaluation, in one picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.format.index import SplitIndex
from datasets.format.schema import Sample
from datasets.images.augment import Augmentation, preprocess, preprocess_parsing
from datasets.images.decode import decode_image, decode_parsing
from datasets.protocols import protocols
from datasets.protocols.protocols import Mode, Protocol
from datasets.shards.dataset import Dataset
from methods.gradcam import gradcam
from methods.method import Method
from orchestration.config import build
from orchestration.config.stored import trained_model
from orchestration.engine.checkpoint import Checkpoint
from orchestration.evaluation import hard_triples, heatmaps
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.hard_triples import Chosen, ModeEntries
from orchestration.evaluation.heatmaps import ExplainedImage, Heat, Row
from orchestration.figures import Shown

PICTURE = "hard-triples.png"

log = logging.getLogger(__name__)


def render_triples(
    found: Checkpoint,
    dataset: Dataset,
    protocol: Protocol,
    indexes: Mapping[str, SplitIndex],
    descriptors: Mapping[str, Descriptors],
) -> dict[str, bytes]:
    """{file name: PNG} of the model's hard triples, computed in this process, on the CPU.

    descriptors: of each split; a tracklet is shown by its middle frame. A failure is logged and leaves out the picture: it
    does not fail the evaluation.
    """
    try:
        mode = mode_of(protocol)
        query, gallery = (
            mode_entries(protocol, mode, indexes[split], descriptors[split]) for split in (mode.query, mode.gallery)
        )
        chosen = hard_triples.choose(dataset, query, gallery)
        if not chosen.triples:
            log.warning(
                "no picture of hard triples: in %s no query has both a match and another person in the gallery",
                mode.name,
            )
            return {}
        return {PICTURE: picture(found, dataset, mode, query, gallery, chosen)}
    except Exception as error:  # of any kind: the results are worth more than a picture
        log.warning("no picture of hard triples; the evaluation continues: %s: %s", type(error).__name__, error)
        log.debug("rendering hard triples", exc_info=True)
        return {}


def mode_of(protocol: Protocol) -> Mode:
    """The mode "clothes-changing"; the first mode of a protocol without it."""
    return next((mode for mode in protocol.modes if mode.name == "clothes-changing"), protocol.modes[0])


def mode_entries(protocol: Protocol, mode: Mode, index: SplitIndex, descriptors: Descriptors) -> ModeEntries:
    rows = protocols.rows(protocol, mode, index)
    return ModeEntries(index, rows, protocols.labels(protocol, index).take(rows), descriptors.of(rows))


def picture(
    found: Checkpoint, dataset: Dataset, mode: Mode, query: ModeEntries, gallery: ModeEntries, chosen: Chosen
) -> bytes:
    entries = np.array([(t.anchor, t.positive, t.negative) for t in chosen.triples]).T  # [3, triples]
    samples = [
        hard_triples.read_samples(dataset, part, chosen_entries)
        for part, chosen_entries in zip((query, gallery, gallery), entries, strict=True)
    ]
    explained = explain_samples(found, samples)
    anchors = query.features[entries[0]]
    positive, negative = ((anchors * gallery.features[at]).sum(1).tolist() for at in entries[1:])
    rows = []
    for at in range(len(chosen.triples)):
        shown = (
            Shown(explained[0][at].image, f"person {samples[0][at].person}", None),
            Shown(explained[1][at].image, f"similarity {positive[at]:.2f}", True),
            Shown(explained[2][at].image, f"person {samples[2][at].person}\nsimilarity {negative[at]:.2f}", False),
        )
        pairs = [ExplainedImage(one, explained[place][at].heatmaps) for place, one in enumerate(shown)]
        rows.append(Row((pairs[0], pairs[1], pairs[2]), positive[at], negative[at]))
    heads = (
        "query",
        "same person, other clothes" if chosen.changed else "same person, another image",
        "another person, in similar clothes" if chosen.by_clothes else "another person, the most similar",
    )
    title = (
        f"{mode.name}: hard triples\nGrad-CAM: regions that make an image similar to the query (the query: to itself)"
    )
    return heatmaps.hard_triples(title, heads, rows)


@dataclass(frozen=True)
class Explanation:
    """An image as the network's input, uint8 [H, W, 3], and its heat maps by title."""

    image: np.ndarray
    heatmaps: dict[str, Heat]


def explain_samples(found: Checkpoint, samples: Sequence[list[Sample]]) -> list[list[Explanation]]:
    """The network's input and heat maps of anchors and, in lists of the same length, of images to compare with them.

    The heat map of an image explains its similarity to the anchor; that of an anchor, its similarity to itself.
    """
    trained, method = trained_model(found)
    augmentation = build.build_augmentation(trained)
    number = len(samples[0])
    inputs = prepared([s for part in samples for s in part], method.eval(), augmentation, build.input_dtype(trained))
    cams = upsampled(gradcam(method, inputs, torch.arange(number).repeat(len(samples))), augmentation)
    with torch.no_grad():
        views = method.views(*inputs)
    seen = []
    for at, image in enumerate(pixels(inputs[0], augmentation)):
        maps = {"Grad-CAM": Heat(gradcam_panel(cams[at], image))}
        for title, view in views.items():
            maps[title] = view_of(view[at : at + 1], image, augmentation)
        seen.append(Explanation(image, maps))
    return [seen[first : first + number] for first in range(0, len(seen), number)]


def gradcam_panel(cam: Tensor, image: np.ndarray) -> np.ndarray:
    """The picture of a map [H, W] of Grad-CAM, which keeps what is positive: of nothing, where nothing is."""
    return heatmaps.overlay(image, stretched(cam, lowest=0.0)) if cam.max() > 0 else heatmaps.cold(image)


def view_of(view: Tensor, image: np.ndarray, settings: Augmentation) -> Heat:
    """The picture of one of a method's views: a map [1, h, w], or an image [1, 3, H, W]."""
    if view.ndim == 4:
        return Heat(pixels(view, settings)[0])
    lowest, highest = float(view.min()), float(view.max())
    heat = stretched(upsampled(view, settings)[0], lowest=lowest)
    return Heat(heatmaps.overlay(image, heat), f"{lowest:.2f} to {highest:.2f}")


def prepared(samples: list[Sample], method: Method, settings: Augmentation, dtype: torch.dtype) -> list[Tensor]:
    """The inputs of `embed`: images [B, 3, H, W] and, for a method that takes it, parsing uint8 [B, H, W]."""
    inputs = [torch.cat([preprocess(decode_image(s.image, s.key)[None], settings, dtype) for s in samples])]
    if "parsing" in method.inputs:
        masks = [decode_parsing(s.parsing or b"", s.key)[None] for s in samples]
        inputs.append(torch.cat([preprocess_parsing(mask, settings) for mask in masks]))
    return inputs


def upsampled(maps: Tensor, settings: Augmentation) -> Tensor:
    """maps [B, h, w] → float64 [B, H, W]."""
    size = (settings.height, settings.width)
    return F.interpolate(maps[:, None].double(), size, mode="bilinear", align_corners=False)[:, 0]


def stretched(heat: Tensor, *, lowest: float) -> np.ndarray:
    """The map [H, W] scaled from `lowest`…maximum to 0…1; 0 where the map is constant."""
    above = (heat - lowest).numpy()
    return above / above.max() if above.max() > 0 else np.zeros_like(above)


def pixels(images: Tensor, settings: Augmentation) -> np.ndarray:
    """uint8 [B, H, W, 3] of normalised images [B, 3, H, W]."""
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (settings.mean, settings.std))
    shown = (images.double() * std + mean).clamp(0, 1) * 255
    return shown.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
