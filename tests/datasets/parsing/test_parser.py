"""From images of any size to label maps of the same sizes: SCHP's way and a graph's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.errors import DataError
from datasets.images.label_maps import LABEL_MAPS
from datasets.parsing.parser import GraphInput, GraphParser, SCHPParser
from datasets.parsing.schp import SCHP

SIX = LABEL_MAPS["six"]
PLAIN: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def thirds(height: int, width: int) -> Tensor:
    """An image in red, green and blue stripes, one below the other: uint8 [3, h, w]."""
    stripe = (torch.arange(height) * 3 // height)[:, None].expand(height, width)
    return (F.one_hot(stripe, 3).permute(2, 0, 1) * 255).to(torch.uint8)


def by_colour(images: Tensor) -> Tensor:
    """Logits of six labels at half the size; the first three are the channels."""
    channels = F.avg_pool2d(images, 2)
    return torch.cat([channels, torch.full_like(channels, -9.0)], 1)


class ByColour(SCHP):
    """In the network's place, what can be foretold: a quarter of the size, the first channels are the logits."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.num_classes = 7

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        channels = F.interpolate(images, (128, 128), mode="bilinear", align_corners=True)
        return torch.cat([channels, torch.full((len(images), 4, 128, 128), -9.0)], 1)


@pytest.mark.parametrize("size", [(96, 48), (48, 96), (30, 31), (700, 300)])
def test_schp_sees_bgr_and_its_labels_lie_where_the_image_has_them(size: tuple[int, int]) -> None:
    network = ByColour()
    image = thirds(*size)
    (labels,) = SCHPParser(network)([image])
    assert labels.dtype == torch.uint8
    assert labels.shape == size
    stripe = torch.arange(size[0]) * 3 // size[0]
    inside = (stripe == stripe.roll(3)) & (stripe == stripe.roll(-3))
    inside[:2] = inside[-2:] = True
    expected = torch.tensor([2, 1, 0])[stripe]  # red comes last
    assert torch.equal(labels[inside], expected[inside, None].expand(-1, size[1]).to(torch.uint8))
    corner, black = network.seen[0, :, 256, 256], (0 - torch.tensor([0.406, 0.456, 0.485]))
    assert torch.allclose(corner, (torch.tensor([0, 1, 0]) + black) / torch.tensor([0.225, 0.224, 0.229]), atol=1e-4)


def test_images_of_several_sizes_are_parsed_as_they_are_alone() -> None:
    images = [thirds(60, 30), thirds(31, 77), thirds(9, 5)]
    for parser in (SCHPParser(ByColour()), GraphParser(by_colour, SIX, GraphInput((64, 32), **PLAIN))):
        together = parser(images)
        assert [mask.shape for mask in together] == [(60, 30), (31, 77), (9, 5)]
        assert all(torch.equal(parser([image])[0], mask) for image, mask in zip(images, together, strict=True))


def test_a_graph_sees_rgb_normalised_in_its_size() -> None:
    seen: list[Tensor] = []

    def graph(images: Tensor) -> Tensor:
        seen.append(images)
        return by_colour(images)

    takes = GraphInput((12, 6), mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    (labels,) = GraphParser(graph, SIX, takes)([thirds(96, 48)])
    assert seen[0].shape == (1, 3, 12, 6)
    assert seen[0][0, :, 0, 0].tolist() == [1.0, -0.25, 0.0]
    assert labels[[10, 48, 90], 20].tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [lambda m: m, lambda m: m[:, None], lambda m: m.to(torch.int32)])
def test_a_graph_may_answer_labels(shape: Callable[[Tensor], Tensor]) -> None:
    parser = GraphParser(lambda x: shape(by_colour(x).argmax(1)), SIX, GraphInput((12, 6), **PLAIN))
    (labels,) = parser([thirds(96, 48)])
    assert labels.shape == (96, 48)
    assert labels[[10, 48, 90], 20].tolist() == [0, 1, 2]


def test_a_graph_of_a_fixed_batch_parses_any_number_of_images() -> None:
    sizes: list[int] = []

    def graph(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return by_colour(images)

    images = [thirds(12, 6).roll(shift, 1) for shift in range(7)]
    fixed = GraphParser(graph, SIX, GraphInput((12, 6), **PLAIN, batch=3))(images)
    free = GraphParser(by_colour, SIX, GraphInput((12, 6), **PLAIN))(images)
    assert sizes == [3, 3, 3]
    assert len(fixed) == 7
    assert all(torch.equal(a, b) for a, b in zip(fixed, free, strict=True))


@pytest.mark.parametrize(
    ("graph", "told"),
    [
        (
            lambda x: by_colour(x)[:, :5],
            r"float32 \[1, 5, 6, 3\].*expected logits \[1, 6, h, w\].*5 channels.*six 6 labels",
        ),
        (lambda x: by_colour(x)[0], r"float32 \[6, 6, 3\]"),
        (lambda x: by_colour(x).argmax(1) + 6, r"labels 8 to 8; label map six has 0 to 5"),
        (lambda x: torch.cat([x, x]).argmax(1), r"int64 \[2, 12, 6\] for 1 images"),
    ],
    ids=["channels", "axes", "labels", "batch"],
)
def test_an_answer_that_the_label_map_does_not_explain_is_refused(graph: Callable[[Tensor], Tensor], told: str) -> None:
    with pytest.raises(DataError, match=told):
        GraphParser(graph, SIX, GraphInput((12, 6))).check()
