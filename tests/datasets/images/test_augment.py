"""Augmentation: against torchvision step by step, image and mask together, and draws that no worker can change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as tv

from datasets.images import augment as module
from datasets.images.augment import Augmentation, Draws, augment, draw, preprocess, preprocess_parsing

SMALL = Augmentation(height=24, width=12, pad=4)
CAL = replace(SMALL, pad=0, enlarge=1.125, crop_probability=0.5)
OFF = replace(SMALL, flip=0, pad=0, crop_probability=0, erase=0)
AS_IS: dict[str, Any] = {
    "mean": (0.0, 0.0, 0.0),
    "std": (1 / 255, 1 / 255, 1 / 255),
}  # normalising then changes nothing
ODD_SIZES = [(256, 128), (128, 64), (301, 117), (500, 260), (384, 192)]


def pictures(num: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (num, 3, height, width), dtype=torch.uint8, generator=torch.manual_seed(seed))


def masks(num: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 20, (num, height, width), dtype=torch.uint8, generator=torch.manual_seed(seed))


def one_by_one(images: Tensor, parsing: Tensor, draws: Draws, how: Augmentation) -> tuple[Tensor, Tensor]:
    """The published order, sample by sample with torchvision v2."""
    size = [how.height, how.width]
    results, labels = [], []
    for i in range(len(images)):
        image = tv.resize(images[i], size, antialias=True)
        label = tv.resize(parsing[i][None], size, InterpolationMode.NEAREST_EXACT)
        if draws.crop[i]:
            image = tv.resize(image, list(how.enlarged), antialias=True)
            label = tv.resize(label, list(how.enlarged), InterpolationMode.NEAREST_EXACT)
        top, left = (int(x) + how.pad for x in draws.corner[i])
        image, label = (tv.crop(tv.pad(x, [how.pad]), top, left, *size) for x in (image, label))
        if draws.flip[i]:
            image, label = tv.horizontal_flip(image), tv.horizontal_flip(label)
        image = tv.normalize(image.double() / 255, list(how.mean), list(how.std))
        top, left, height, width = draws.box[i].tolist()
        if height:
            image = tv.erase(
                image, top, left, height, width, torch.tensor(how.erase_fill, dtype=torch.float64)[:, None, None]
            )
        results.append(image)
        labels.append(label[0])
    return torch.stack(results), torch.stack(labels)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("how", [SMALL, CAL, replace(CAL, pad=3)], ids=["pad", "enlarge", "both"])
def test_equals_torchvision_sample_by_sample(how: Augmentation, channels_last: bool) -> None:
    images, parsing, draws = pictures(40, 17, 9), masks(40, 17, 9), draw(how, 40, (1, 2, 3))
    expected, expected_parsing = one_by_one(images, parsing, draws, how)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        result, result_parsing = augment(images, parsing, draws, how, dtype)
        assert result.dtype == dtype
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
        torch.testing.assert_close(result.double(), expected, atol=tolerance, rtol=0)
        assert result_parsing is not None
        torch.testing.assert_close(result_parsing, expected_parsing)
    assert draws.flip.any()
    assert not draws.flip.all()
    assert draws.box.any()


@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_resizing_is_within_one_level_of_torchvision(size: tuple[int, int]) -> None:
    how = replace(OFF, height=384, width=192, **AS_IS)
    images, parsing = pictures(3, *size), masks(3, *size)
    expected = v2.Resize((384, 192), antialias=True)(images)
    expected_parsing = v2.Resize((384, 192), InterpolationMode.NEAREST_EXACT)(parsing)
    for result in (preprocess(images, how), augment(images, None, draw(how, 3, (0,)), how)[0]):
        assert (result - expected.float()).abs().max() <= 1 + 1e-4
    for labels in (preprocess_parsing(parsing, how), augment(images, parsing, draw(how, 3, (0,)), how)[1]):
        assert labels is not None
        assert torch.equal(labels, expected_parsing)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([SMALL, CAL, replace(CAL, pad=5, crop_probability=1.0)]), st.booleans())
def test_image_and_mask_move_together(seed: int, how: Augmentation, along_rows: bool) -> None:
    """Each pixel carries its coordinate in the mask and in the image: wherever it goes, the two still agree."""
    how = replace(how, erase=0, **AS_IS)
    y, x = torch.meshgrid(torch.arange(1, 25), torch.arange(1, 13), indexing="ij")
    parsing = (6 * (y if along_rows else x)).to(torch.uint8).expand(8, -1, -1)
    result, moved = augment(parsing[:, None].expand(-1, 3, -1, -1), parsing, draw(how, 8, (seed,)), how)
    assert moved is not None
    assert torch.equal(moved == 0, result[:, 0].round() == 0)  # the padding
    assert (result[:, 0] - moved).abs().max() <= (1e-3 if how.enlarge == 1 else 6 / 2 + 1)  # half a pixel, one level


def test_a_batch_equals_its_samples_and_a_slice_of_draws_its_part_of_the_table() -> None:
    images, parsing, draws = pictures(12, 17, 9), masks(12, 17, 9), draw(CAL, 12, (7, 0, 3))
    whole, whole_parsing = augment(images, parsing, draws, CAL)
    assert whole_parsing is not None
    for size in (1, 3, 4):
        for start in range(0, 12, size):
            rows = slice(start, start + size)
            part, part_parsing = augment(images[rows], parsing[rows], draws.slice(start, start + size), CAL)
            assert torch.equal(part, whole[rows])
            assert part_parsing is not None
            assert torch.equal(part_parsing, whole_parsing[rows])


@pytest.mark.parametrize("how", [SMALL, CAL], ids=["pad", "enlarge"])
def test_all_frames_of_a_clip_are_treated_alike(how: Augmentation) -> None:
    """As frames of their own, all with the clip's draws; and the clips of a worker by its slice of them."""
    images, parsing = pictures(6 * 4, 30, 16), masks(6 * 4, 30, 16)
    clips, of_clips = images.unflatten(0, (6, 4)), parsing.unflatten(0, (6, 4))
    draws = draw(how, 6, (3, 1, 0))
    result, labels = augment(clips, of_clips, draws, how)
    assert result.shape == (6, 4, 3, 24, 12)
    assert labels is not None
    for frame in range(4):
        alone, label = augment(clips[:, frame], of_clips[:, frame], draws, how)
        assert torch.equal(result[:, frame], alone)
        assert label is not None
        assert torch.equal(labels[:, frame], label)
    share, _ = augment(clips[2:5], None, draws.slice(2, 5), how)
    assert torch.equal(share, result[2:5])
    assert torch.equal(preprocess(clips, how), preprocess(images, how).unflatten(0, (6, 4)))
    assert torch.equal(preprocess_parsing(of_clips, how), preprocess_parsing(parsing, how).unflatten(0, (6, 4)))


@pytest.mark.parametrize("parsing", [None, masks(5, 24, 12)], ids=["alone", "with masks"])
def test_jitter_is_torchvisions_in_each_images_own_order_before_normalising(parsing: torch.Tensor | None) -> None:
    how = replace(SMALL, jitter=(0.4, 0.3, 0.2, 0.1), erase=0.0)
    images, draws = pictures(5, 24, 12), draw(how, 5, (2, 1, 0))
    result, labels = augment(images, parsing, draws, how)
    moved, unjittered = augment(images, parsing, draws, replace(how, jitter=(0, 0, 0, 0), **AS_IS))
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for i, image in enumerate(moved.to(torch.uint8)):
        for kind in draws.jitter_order[i].tolist():
            image = adjust[kind](image, float(draws.jitter[i, kind]))
        expected = tv.normalize(image.double() / 255, list(how.mean), list(how.std))
        torch.testing.assert_close(result[i].double(), expected, atol=1.01 / 255 / min(how.std), rtol=0)
    assert parsing is None or torch.equal(labels, unjittered)  # type: ignore[arg-type]


def test_jitter_is_drawn_around_no_change_within_its_limits() -> None:
    draws = draw(Augmentation(384, 192, jitter=(0.4, 0.3, 0.2, 0.1)), 20_000, (0,))
    lowest, highest = draws.jitter.amin(0), draws.jitter.amax(0)
    torch.testing.assert_close(lowest, torch.tensor([0.6, 0.7, 0.8, -0.1]).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(highest, torch.tensor([1.4, 1.3, 1.2, 0.1]).double(), atol=1e-3, rtol=0)
    assert (draws.jitter_order.sort(1).values == torch.arange(4)).all()
    first = np.bincount(draws.jitter_order[:, 0].numpy())
    assert (abs(first - 5000) < 300).all()


def test_the_steps_make_the_whole_and_are_uint8_until_they_are_normalised() -> None:
    images, parsing, draws = pictures(5, 30, 16), masks(5, 30, 16), draw(SMALL, 5, (2, 1, 0))
    moved, labels = module.augment_geometry(images, parsing, draws, SMALL)
    moved = module.augment_colour(moved, draws, SMALL)
    assert moved.dtype == torch.uint8
    whole, expected = augment(images, parsing, draws, SMALL)
    assert torch.equal(module.normalise_and_erase(moved, draws, SMALL), whole)
    assert labels is not None
    assert expected is not None
    assert torch.equal(labels, expected)
    twice = module.normalise_and_erase(torch.cat([moved, moved]), draws.twice(), SMALL)
    assert torch.equal(twice, torch.cat([whole, whole]))


def test_without_probability_it_is_the_test_transform() -> None:
    images, parsing = pictures(5, 17, 9), masks(5, 17, 9)
    result, labels = augment(images, parsing, draw(OFF, 5, (0,)), OFF)
    assert torch.equal(result, preprocess(images, OFF))
    assert labels is not None
    assert torch.equal(labels, preprocess_parsing(parsing, OFF))
    same_size = pictures(5, 24, 12)
    assert torch.equal(augment(same_size, None, draw(OFF, 5, (0,)), replace(OFF, **AS_IS))[0], same_size.float())


def test_augmenting_leaves_its_input_alone() -> None:
    images, parsing = pictures(5, 24, 12), masks(5, 24, 12)
    before, before_parsing = images.clone(), parsing.clone()
    augment(images, parsing, draw(SMALL, 5, (0,)), SMALL)
    assert torch.equal(images, before)
    assert torch.equal(parsing, before_parsing)


def test_indexing_on_a_device_equals_slicing_on_the_host() -> None:
    corner = torch.tensor([[-3, 2], [0, 0], [2, -4], [4, 4]])
    flip = torch.tensor([True, False, True, False])
    for images in (pictures(4, 24, 12), pictures(4, 28, 16), masks(4, 24, 12)[:, None]):
        sliced = module._windows_by_slices(list(images), corner, flip, (24, 12))
        assert torch.equal(sliced, module._windows_by_index(images, corner, flip, (24, 12)))


@pytest.mark.parametrize("how", [SMALL, CAL, replace(CAL, pad=3)], ids=["pad", "enlarge", "both"])
def test_on_a_device_all_of_it_stays_there(how: Augmentation) -> None:
    images, parsing = (
        pictures(6, 17, 9).to("meta"),
        masks(6, 17, 9).to("meta"),
    )  # has no values: reading one would raise
    result, labels = augment(images, parsing, draw(how, 6, (0,)), how, torch.bfloat16)
    assert labels is not None
    assert (result.device.type, result.dtype, list(result.shape)) == ("meta", torch.bfloat16, [6, 3, 24, 12])
    assert (labels.device.type, labels.dtype, list(labels.shape)) == ("meta", torch.uint8, [6, 24, 12])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("how", [SMALL, CAL, replace(CAL, pad=3)], ids=["pad", "enlarge", "both"])
def test_a_gpu_augments_as_the_host_does(how: Augmentation) -> None:
    how = replace(how, height=384, width=192, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images, parsing, draws = pictures(16, 256, 128), masks(16, 256, 128), draw(how, 16, (0,))
    result, labels = augment(images, parsing, draws, how)
    on_gpu, labels_on_gpu = augment(images.cuda(), parsing.cuda(), draws, how)
    assert on_gpu.is_cuda
    assert (on_gpu.cpu() - result).abs().max() <= 2.01 / 255  # one level per resizing
    assert labels is not None
    assert labels_on_gpu is not None
    assert torch.equal(labels_on_gpu.cpu(), labels)
    assert (preprocess(images.cuda(), how).cpu() - preprocess(images, how)).abs().max() <= 1.01 / 255


def test_draws_depend_on_the_seed_alone() -> None:
    first, again, other = (draw(CAL, 64, seed) for seed in ((1, 2, 3), (1, 2, 3), (1, 2, 4)))
    for name in ("flip", "crop", "corner", "box"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    unflipped = draw(replace(CAL, flip=0), 64, (1, 2, 3))
    assert not unflipped.flip.any()
    assert torch.equal(unflipped.box, first.box)
    assert torch.equal(unflipped.corner, first.corner)


def test_draws_are_distributed_as_published() -> None:
    how = Augmentation(height=384, width=192)
    draws = draw(how, 20_000, (0,))
    assert draws.flip.double().mean() == pytest.approx(0.5, abs=0.02)
    assert draws.corner.min() == -10
    assert draws.corner.max() == 10
    counts = np.bincount(draws.corner[:, 0].numpy() + 10, minlength=21)
    assert (abs(counts - 20_000 / 21) < 150).all()
    top, left, height, width = draws.box.double()[draws.box[:, 2] > 0].T
    assert len(top) / 20_000 == pytest.approx(0.5, abs=0.02)
    share = height * width / (384 * 192)
    assert 0.019 < share.min() < 0.03
    assert 0.35 < share.max() < 0.41
    assert 0.29 < (height / width).min() < 0.32
    assert 3.2 < (height / width).max() < 3.4
    assert (top + height).max() == 384  # a box may touch every border
    assert (left + width).max() == 192
    assert top.min() == left.min() == 0
    cropped = draw(replace(how, pad=0, enlarge=1.125, crop_probability=0.5), 20_000, (0,))
    assert cropped.crop.double().mean() == pytest.approx(0.5, abs=0.02)
    assert cropped.corner.max(0).values.tolist() == [432 - 384, 216 - 192]
    assert cropped.corner.min() == 0
    assert not cropped.corner[~cropped.crop].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": 1.5}, "flip = 1.5"),
        ({"pad": 12}, "pad = 12"),
        ({"jitter": (0.1, 0.1, 0.1, 0.6)}, r"jitter = \("),
        ({"erase_area": (0.4, 0.02)}, r"erase_area = \(0.4"),
    ],
    ids=["flip", "pad", "jitter", "area"],
)
def test_settings_out_of_range_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"augmentation cannot have {message}"):
        replace(SMALL, **change)  # type: ignore[arg-type]


def test_masks_of_other_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"parsing \[2, 2, 24, 12\] is not of the clips \[2, 3, 3, 24, 12\]"):
        augment(torch.zeros(2, 3, 3, 24, 12, dtype=torch.uint8), torch.zeros(2, 2, 24, 12, dtype=torch.uint8),
                draw(SMALL, 2, (0,)), SMALL)  # fmt: skip


def test_what_cannot_be_augmented_is_refused() -> None:
    draws = draw(SMALL, 2, (0,))
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, 3, h, w\]; got torch.float32"):
        augment(pictures(2, 8, 8).float(), None, draws, SMALL)
    with pytest.raises(ValueError, match=r"parsing must be uint8 \[2, 8, 8\]; got torch.uint8 \[2, 8, 9\]"):
        augment(pictures(2, 8, 8), masks(2, 8, 9), draws, SMALL)
    with pytest.raises(ValueError, match="2 draws for 3 images"):
        augment(pictures(3, 8, 8), None, draws, SMALL)
