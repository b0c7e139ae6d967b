"""Parsers, which turn person images into label maps: an SCHP checkpoint, or any graph with one input and one output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.errors import DataError
from datasets.images.augment import IMAGENET_MEAN, IMAGENET_STD
from datasets.images.decode import resize_image, resize_parsing
from datasets.images.label_maps import LABEL_MAPS, LabelMap
from datasets.parsing.schp import SCHP
from datasets.parsing.warp import from_square, to_square

# The published checkpoints by their number of classes: label map, and side of the square input in pixels.
SCHP_MODELS = {20: ("lip20", 473), 18: ("atr18", 512), 7: ("pascal7", 512)}


class Parser(Protocol):
    """Images of any sizes, uint8 [3, h, w], RGB → their label maps, uint8 [h, w], on the CPU."""

    label_map: LabelMap

    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]: ...


class SCHPParser:
    """SCHP as published: BGR, ImageNet's mean and standard deviation, the affine warp and its inverse, the largest logit.

    Raises: DataError when the network's number of classes is not a published one.
    """

    def __init__(self, network: SCHP, device: torch.device | str = "cpu") -> None:
        if network.num_classes not in SCHP_MODELS:
            known = ", ".join(f"{classes} ({name})" for classes, (name, _) in SCHP_MODELS.items())
            raise DataError(f"the SCHP checkpoint has {network.num_classes} classes; published ones have {known}")
        name, self.side = SCHP_MODELS[network.num_classes]
        self.label_map = LABEL_MAPS[name]
        self.network = network.to(device)
        self.device = torch.device(device)
        self.mean, self.std = (_per_channel(values[::-1], self.device) for values in (IMAGENET_MEAN, IMAGENET_STD))

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        squares = [to_square(image.to(self.device)[None].float() / 255, self.side) for image in images]
        logits = self.network((torch.cat(squares).flip(1) - self.mean) / self.std)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [_largest(from_square(one[None], self.side, size)) for one, size in zip(logits, sizes, strict=True)]


@dataclass(frozen=True)
class GraphInput:
    """The input of a graph: float32 [B, 3, H, W], RGB, (pixels / 255 − mean) / std.

    size: (H, W). mean, std: of RGB in 0…1. batch: B where it is fixed, else None.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    batch: int | None = None


class GraphParser:
    """An exported graph: images are resized to its input (antialiased bilinear), its output to each image's size.

    run: the graph, float32 [B, 3, H, W] → logits float [B, L, h, w], or integer labels [B, h, w] or [B, 1, h, w].
    Raises: DataError from a call, when the output is not one of the label map.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        label_map: LabelMap,
        takes: GraphInput,
        device: torch.device | str = "cpu",
    ) -> None:
        self.run, self.label_map, self.takes = run, label_map, takes
        self.device = torch.device(device)
        self.mean, self.std = (_per_channel(values, self.device) for values in (takes.mean, takes.std))

    def check(self) -> None:
        """Runs the graph on a black image. Raises: DataError when its output is not one of the label map."""
        self([torch.zeros(3, *self.takes.size, dtype=torch.uint8)])

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        resized = torch.stack([resize_image(image, self.takes.size) for image in images]).to(self.device)
        answer = self._answer((resized.float() / 255 - self.mean) / self.std)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        return [self._labels(one, size) for one, size in zip(answer, sizes, strict=True)]

    def _answer(self, batch: Tensor) -> Tensor:
        """Logits [B, L, h, w] or labels [B, h, w] of any number of images."""
        fixed = self.takes.batch or len(batch)
        short = -len(batch) % fixed
        padded = torch.cat([batch, batch[:1].expand(short, -1, -1, -1)])
        answer = torch.cat([self._checked(self.run(part.contiguous()), len(part)) for part in padded.split(fixed)])
        return answer[: len(batch)]

    def _checked(self, answer: Tensor, num_images: int) -> Tensor:
        num_labels, shape = self.label_map.num_labels, list(answer.shape)
        if not answer.is_floating_point() and answer.ndim == 4 and shape[1] == 1:
            answer = answer[:, 0]
        if answer.is_floating_point() and answer.ndim == 4 and shape[:2] == [num_images, num_labels]:
            return answer
        if not answer.is_floating_point() and answer.ndim == 3 and shape[0] == num_images:
            if int(answer.min()) < 0 or int(answer.max()) >= num_labels:
                raise DataError(
                    f"the graph returns labels {int(answer.min())} to {int(answer.max())}; label map "
                    f"{self.label_map.name} has 0 to {num_labels - 1}. Give the label map that the graph was trained with"
                )
            return answer
        channels = f" It has {shape[1]} channels, label map {self.label_map.name} {num_labels} labels: "
        channels += f"the label maps are {', '.join(f'{m.name} ({m.num_labels})' for m in LABEL_MAPS.values())}."
        raise DataError(
            f"the graph returns {str(answer.dtype).removeprefix('torch.')} {shape} for {num_images} images; expected logits "
            f"[{num_images}, {num_labels}, h, w] or integer labels [{num_images}, h, w].{channels if len(shape) == 4 else ''}"
        )

    def _labels(self, answer: Tensor, size: tuple[int, int]) -> Tensor:
        if answer.ndim == 2:
            return resize_parsing(answer.to(torch.uint8).cpu(), size)
        return _largest(F.interpolate(answer[None].float(), size, mode="bilinear"))


def _largest(logits: Tensor) -> Tensor:
    """float [1, L, h, w] → the label with the largest logit, uint8 [h, w]."""
    return logits[0].argmax(0).to(torch.uint8).cpu()


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
