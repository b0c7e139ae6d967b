"""Batched transforms of images together with their masks: resize, crop, flip, jitter, normalise, erase, in that order.

Draws are one table for the global batch, made from a seed tuple and then sliced: no draw depends on the worker. A row of
it is one sample's, whatever the settings are, so changing one setting leaves the other draws alone. Images stay uint8 (as
Pillow and torchvision keep them between their steps) until they are normalised once into the result.

A sample may be a clip of video: [B, T, 3, h, w] instead of [B, 3, h, w], masks [B, T, h, w]. One draw applies to all its
frames, so that a person does not jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.images import erasing, jitter

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Augmentation:
    """Settings of a training image's transform. The defaults are pad-and-crop; CAL publishes enlarge-and-crop instead.

    height, width: pixels of the result. flip, crop_probability, erase: probabilities. pad: pixels of black (label 0 in
    masks) around the image before the crop. enlarge: factor by which the resized image is resized again
    before the crop (CAL: 1.125 with probability 0.5, and no pad). jitter: the largest change of brightness, contrast and
    saturation (factors 1 ± jitter) and of hue (± a share of the circle), as in torchvision's ColorJitter. erase_area:
    share of the image; erase_aspect: height over width, drawn uniformly as CAL's code does (torchvision draws its
    logarithm); erase_fill: the colour, after normalisation, as published. mean, std: RGB in 0…1.

    Raises: ValueError naming the setting that is out of its range.
    """

    height: int
    width: int
    flip: float = 0.5
    pad: int = 10
    enlarge: float = 1.0
    crop_probability: float = 1.0
    jitter: jitter.Limits = (0.0, 0.0, 0.0, 0.0)
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 3.3)
    erase_fill: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        allowed = {
            "height": self.height >= 1,
            "width": self.width >= 1,
            "flip": 0 <= self.flip <= 1,
            "pad": 0 <= self.pad < min(self.height, self.width),
            "enlarge": self.enlarge >= 1,
            "crop_probability": 0 <= self.crop_probability <= 1,
            "jitter": all(0 <= limit <= most for limit, most in zip(self.jitter, (1, 1, 1, 0.5), strict=True)),
            "erase": 0 <= self.erase <= 1,
            "erase_area": 0 < self.erase_area[0] <= self.erase_area[1] <= 1,
            "erase_aspect": 0 < self.erase_aspect[0] <= self.erase_aspect[1],
            "std": min(self.std) > 0,
        }
        wrong = [f"{name} = {getattr(self, name)}" for name, is_allowed in allowed.items() if not is_allowed]
        if wrong:
            raise ValueError(
                f"augmentation cannot have {', '.join(wrong)}: sizes are at least 1, probabilities within 0…1, the pad "
                "is less than height and width, enlarge at least 1, jitter within 0…1 (hue: 0…0.5), pairs are (low, high), "
                "std is above 0"
            )

    @property
    def enlarged(self) -> tuple[int, int]:
        """Height and width before the crop, where the crop applies."""
        return round(self.height * self.enlarge), round(self.width * self.enlarge)


@dataclass(frozen=True, slots=True)
class Draws:
    """The random draws of a global batch, one row per sample; on the host, wherever the images are."""

    flip: Tensor  # bool [num]
    crop: Tensor  # bool [num]
    corner: Tensor  # int64 [num, 2]: top and left of the window in the (enlarged) image; beyond it lies the padding
    box: Tensor  # int64 [num, 4]: top, left, height, width of what is erased in the result; height 0 where nothing is
    jitter: Tensor  # float64 [num, 4]: factors of brightness, contrast and saturation, shift of hue
    jitter_order: Tensor  # int64 [num, 4]: which of them comes first, second …

    def __len__(self) -> int:
        return len(self.flip)

    def slice(self, start: int, stop: int) -> Draws:
        """The rows of one worker's part of the global batch."""
        return Draws(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def twice(self) -> Draws:
        """All rows, and all of them again."""
        return Draws(*(torch.cat(2 * [getattr(self, field.name)]) for field in fields(self)))

    def for_frames(self, num: int) -> Draws:
        """One row per frame: each sample's, for all its `num` frames."""
        return Draws(*(getattr(self, field.name).repeat_interleave(num, 0) for field in fields(self)))


def draw(settings: Augmentation, num: int, seed: tuple[int, ...]) -> Draws:
    """The draws of a global batch of `num` samples. seed: non-negative integers such as (seed, epoch, batch)."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
    once, attempts = rng.random((num, 7)), rng.random((num, erasing.ATTEMPTS, 2))
    colour = rng.random((num, 8))
    crop = once[:, 1] < settings.crop_probability
    size = np.array([settings.height, settings.width])
    spare = np.array(settings.enlarged) - size + 2 * settings.pad
    corner = np.where(crop[:, None], np.floor(once[:, 2:4] * (spare + 1)) - settings.pad, 0)
    box = erasing.boxes(
        attempts, once[:, 5:7], (settings.height, settings.width), settings.erase_area, settings.erase_aspect
    )
    box[once[:, 4] >= settings.erase] = 0
    return Draws(
        flip=torch.from_numpy(once[:, 0] < settings.flip),
        crop=torch.from_numpy(crop),
        corner=torch.from_numpy(corner.astype(np.int64)),
        box=torch.from_numpy(box),
        jitter=torch.from_numpy(jitter.factors(settings.jitter, colour[:, :4])),
        jitter_order=torch.from_numpy(colour[:, 4:].argsort(1)),
    )


def augment(
    images: Tensor,
    parsing: Tensor | None,
    draws: Draws,
    settings: Augmentation,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor | None]:
    """Training images [B, 3, H, W] in `dtype` and masks uint8 [B, H, W], on the device of the images.

    images: uint8 [B, 3, h, w], fastest when channels_last. parsing: uint8 [B, h, w] of the same h and w, or None. Both
    are resized, cropped and flipped alike. Erasing leaves the masks as they are: it hides the person, whose place stays
    the same. Raises: ValueError for another dtype or shape, or a number of draws other than the images'.
    """
    images, parsing = augment_geometry(images, parsing, draws, settings)
    images = augment_colour(images, draws, settings)
    return normalise_and_erase(images, draws, settings, dtype), parsing


def augment_geometry(
    images: Tensor, parsing: Tensor | None, draws: Draws, settings: Augmentation
) -> tuple[Tensor, Tensor | None]:
    """Images uint8 [B, 3, H, W] and masks uint8 [B, H, W], resized, cropped and flipped alike.

    Shapes and `Raises` are those of `augment`.
    """
    if images.ndim == 5:
        frames, masks = augment_geometry(*_frames(images, parsing), draws.for_frames(images.shape[1]), settings)
        shape = images.shape[:2]
        return frames.unflatten(0, shape), None if masks is None else masks.unflatten(0, shape)
    _check(images, parsing)
    if len(draws) != len(images):
        raise ValueError(f"{len(draws)} draws for {len(images)} images: slice the table to this worker's part")
    moved = _moved(_resized(images, settings.height, settings.width), draws, settings)
    if parsing is None:
        return moved, None
    return moved, _moved(_resized_labels(parsing, settings.height, settings.width)[:, None], draws, settings)[:, 0]


def augment_colour(images: Tensor, draws: Draws, settings: Augmentation) -> Tensor:
    """Images uint8 [B, 3, H, W] with their colours jittered.

    What changes images by their masks, such as other clothes, comes after this and before `normalise_and_erase`: erasing
    leaves the masks as they are.
    """
    if not any(settings.jitter):
        return images
    if images.ndim == 5:
        draws = draws.for_frames(images.shape[1])
        return augment_colour(images.flatten(0, 1), draws, settings).unflatten(0, images.shape[:2])
    return jitter.jittered(images, draws.jitter, draws.jitter_order)


def normalise_and_erase(
    images: Tensor, draws: Draws, settings: Augmentation, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The last step of `augment`: images uint8 [B, 3, H, W] → normalised and erased, in `dtype`."""
    if images.ndim == 5:
        draws = draws.for_frames(images.shape[1])
        return normalise_and_erase(images.flatten(0, 1), draws, settings, dtype).unflatten(0, images.shape[:2])
    result = _normalised(images, settings, dtype)
    erasing.erase(result, draws.box, settings.erase_fill)
    return result


def preprocess(images: Tensor, settings: Augmentation, dtype: torch.dtype = torch.float32) -> Tensor:
    """Test images [B, 3, H, W] in `dtype` from uint8 [B, 3, h, w]: resized and normalised.

    Raises: ValueError for another dtype or shape.
    """
    if images.ndim == 5:
        return preprocess(images.flatten(0, 1), settings, dtype).unflatten(0, images.shape[:2])
    _check(images, None)
    return _normalised(_resized(images, settings.height, settings.width), settings, dtype)


def preprocess_parsing(parsing: Tensor, settings: Augmentation) -> Tensor:
    """Test masks uint8 [B, H, W] from uint8 [B, h, w]: resized to the nearest label."""
    if parsing.ndim == 4:
        return preprocess_parsing(parsing.flatten(0, 1), settings).unflatten(0, parsing.shape[:2])
    return _resized_labels(parsing, settings.height, settings.width)


def _frames(images: Tensor, parsing: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The frames of clips as images. Raises: ValueError where the masks are not those of the clips."""
    if parsing is not None and parsing.shape[:2] != images.shape[:2]:
        raise ValueError(f"parsing {list(parsing.shape)} is not of the clips {list(images.shape)}")
    return images.flatten(0, 1), None if parsing is None else parsing.flatten(0, 1)


def _check(images: Tensor, parsing: Tensor | None) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 [B, 3, h, w]; got {images.dtype} {list(images.shape)}")
    expected = (len(images), *images.shape[2:])
    if parsing is not None and (parsing.dtype != torch.uint8 or parsing.shape != expected):
        raise ValueError(f"parsing must be uint8 {list(expected)}; got {parsing.dtype} {list(parsing.shape)}")


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 [B, 3, height, width], antialiased bilinear."""
    if images.shape[2:] == (height, width):
        return images
    if images.device.type == "cpu":  # vector instructions for bytes, where the channels lie together
        images = images.contiguous(memory_format=torch.channels_last)
        return F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    resized = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _resized_labels(parsing: Tensor, height: int, width: int) -> Tensor:
    if parsing.shape[1:] == (height, width):
        return parsing
    return F.interpolate(parsing[:, None], (height, width), mode="nearest-exact")[:, 0]


def _moved(pictures: Tensor, draws: Draws, settings: Augmentation) -> Tensor:
    """Each picture's window, enlarged first and mirrored afterwards where it was drawn: uint8 [B, C, H, W]."""
    size, enlarges = (settings.height, settings.width), settings.enlarged != (settings.height, settings.width)
    if pictures.device.type == "cpu":
        chosen = draws.crop.tolist() if enlarges else [False] * len(pictures)
        singles = [
            _enlarged(picture[None], settings)[0] if is_chosen else picture
            for picture, is_chosen in zip(pictures, chosen, strict=True)
        ]
        return _windows_by_slices(singles, draws.corner, draws.flip, size)
    moved = _windows_by_index(pictures, draws.corner, draws.flip, size)
    if enlarges and draws.crop.any():
        rows = draws.crop.nonzero()[:, 0]
        at = rows.to(pictures.device)
        moved[at] = _windows_by_index(_enlarged(pictures[at], settings), draws.corner[rows], draws.flip[rows], size)
    return moved


def _enlarged(pictures: Tensor, settings: Augmentation) -> Tensor:
    if pictures.shape[1] == 3:
        return _resized(pictures, *settings.enlarged)
    return _resized_labels(pictures[:, 0], *settings.enlarged)[:, None]


def _windows_by_slices(pictures: Sequence[Tensor], corner: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows of `size` [B, C, H, W] out of pictures [C, h, w], each of its own size; what lies outside of these is 0.

    On a host, where a slice is a copy of memory and an index is not.
    """
    height, width = size
    together = torch.channels_last if pictures[0].stride(0) == 1 else torch.contiguous_format
    windows = torch.empty(len(pictures), len(pictures[0]), *size, dtype=torch.uint8, memory_format=together).zero_()
    for window, picture, (top, left), mirrored in zip(windows, pictures, corner.tolist(), flip.tolist(), strict=True):
        h, w = picture.shape[1:]
        rows = slice(max(-top, 0), min(h - top, height))
        columns = slice(max(-left, 0), min(w - left, width))
        part = picture[:, rows.start + top : rows.stop + top, columns.start + left : columns.stop + left]
        if mirrored:
            part, columns = part.flip(-1), slice(width - columns.stop, width - columns.start)
        window[:, rows, columns] = part
    return windows


def _windows_by_index(pictures: Tensor, corner: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """The same from pictures [B, C, h, w] of one size, on a device: one gather for the batch."""
    (height, width), (h, w), device = size, pictures.shape[2:], pictures.device
    corner, flip = corner.to(device, non_blocking=True), flip.to(device, non_blocking=True)
    column = torch.arange(width, device=device)
    x = torch.where(flip[:, None], width - 1 - column, column) + corner[:, 1:]  # [B, W]
    y = torch.arange(height, device=device) + corner[:, :1]  # [B, H]
    is_inside = ((y >= 0) & (y < h))[:, :, None] & ((x >= 0) & (x < w))[:, None]  # [B, H, W]
    place = (y.clamp(0, h - 1)[:, :, None] * w + x.clamp(0, w - 1)[:, None]).flatten(1)
    found = pictures.flatten(2).gather(2, place[:, None].expand(-1, pictures.shape[1], -1))
    return found.unflatten(2, size) * is_inside[:, None]


def _normalised(images: Tensor, settings: Augmentation, dtype: torch.dtype) -> Tensor:
    """(image / 255 - mean) / std in one multiplication and addition, channel by channel."""
    exact = dtype if dtype == torch.float64 else torch.float32
    scale = [1 / (255 * std) for std in settings.std]
    shift = [-mean / std for mean, std in zip(settings.mean, settings.std, strict=True)]
    if images.device.type != "cpu":
        scale_C11, shift_C11 = (
            torch.tensor(x, dtype=exact, device=images.device)[:, None, None] for x in (scale, shift)
        )
        return torch.addcmul(shift_C11, images.to(exact), scale_C11).to(dtype)
    # numpy asks for huge pages: filling this many small ones for the first time would take longer than all the rest
    result = torch.from_numpy(np.empty(images.shape, np.float64 if exact == torch.float64 else np.float32))
    for image, planes in zip(images, result, strict=True):  # one at a time: it stays in the cache from step to step
        planes.copy_(image)
        for plane, factor, offset in zip(planes, scale, shift, strict=True):
            torch.add(torch.tensor(offset, dtype=exact), plane, alpha=factor, out=plane)
    return result.to(dtype)
