"""The exported graph: the network's features for any number of images and frames, and nothing but the graph."""

from __future__ import annotations

import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestration.export import torch_graph
from orchestration.export.serving import read_members
from orchestration.export.torch_graph import Descriptor, ExportError, check_features, export
from tests.orchestration.tiny_model import MEAN, SIZE, STD, Tiny


@pytest.fixture(scope="module")
def network() -> Tiny:
    torch.manual_seed(0)
    return Tiny().eval()


class OfClips(Tiny):
    """The mean over frames; single images, too."""

    def embed(self, images: Tensor) -> Tensor:
        if images.ndim == 4:
            return super().embed(images)
        return super().embed(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(1)


class OfPeople(Tiny):
    """What training adds for each person, and a second network; `embed` reaches none of it."""

    shift: Tensor

    def __init__(self, persons: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(5, persons)
        self.register_buffer("memory", torch.rand(persons, 5))
        self.register_buffer("owner", torch.arange(persons), persistent=False)
        self.teacher = Tiny()
        self.table = torch.rand(persons, 5)
        self.register_buffer("shift", self.table[0])  # embed reaches this row, which lies in the memory of all

    def embed(self, images: Tensor) -> Tensor:
        features = super().embed(images)
        self.classifier(features)
        return features + self.shift


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, 3, *SIZE, generator=torch.Generator().manual_seed(1)) * 255


def load(archive: bytes) -> torch.nn.Module:
    return torch.export.load(io.BytesIO(archive)).module(check_guards=False)


@pytest.mark.parametrize("flip", [True, False])
def test_a_descriptor_normalises_pixels_and_features(network: Tiny, flip: bool) -> None:
    given = images(3)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    normalised = (given / 255 - mean) / std
    with torch.no_grad():
        expected = network.embed(normalised)
        if flip:
            expected = expected + network.embed(torch.flip(normalised, dims=(-1,)))
        found = Descriptor(network, MEAN, STD, flip)(given)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_the_graph_gives_the_network_s_features_for_any_number_of_images(network: Tiny) -> None:
    descriptor = Descriptor(network, MEAN, STD, True)
    graph = load(export(descriptor, (images(2),)))
    for number in (1, 2, 7):
        with torch.no_grad():
            torch.testing.assert_close(graph(images(number)), descriptor(images(number)))


def test_a_graph_of_clips_takes_any_number_of_frames() -> None:
    torch.manual_seed(0)
    descriptor = Descriptor(OfClips().eval(), MEAN, STD, False)
    graph = load(export(descriptor, (images(2, 3),)))
    for shape in ((1, 1), (2, 5)):
        with torch.no_grad():
            torch.testing.assert_close(graph(images(*shape)), descriptor(images(*shape)))


def test_a_graph_holds_nothing_of_the_people_of_training() -> None:
    torch.manual_seed(0)
    many, few = OfPeople(5000).eval(), OfPeople(7).eval()
    few.load_state_dict(
        {k: v for k, v in many.state_dict().items() if not k.startswith(("classifier", "memory"))}, strict=False
    )
    archives = [export(Descriptor(network, MEAN, STD, True), (images(2),)) for network in (many, few)]
    assert len(archives[0]) == len(archives[1])
    weights = json.loads(read_members(archives[0])["data/weights/model_weights_config.json"])["config"]
    reached = {
        f"method.{part}" for part in ("convolution.weight", "convolution.bias", "neck.weight", "neck.bias", "shift")
    }
    reached |= {f"method.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    assert set(weights) == reached | {"mean", "std"}
    with torch.no_grad():
        torch.testing.assert_close(load(archives[0])(images(3)), Descriptor(many, MEAN, STD, True)(images(3)))


def test_exporting_leaves_the_network_as_it_was(network: Tiny) -> None:
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        export(Descriptor(network, MEAN, STD, True), (images(2),))
        assert network.training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(parameter.requires_grad for parameter in network.parameters())
    finally:
        network.eval()


def test_the_archive_has_no_source_lines_and_no_example(network: Tiny) -> None:
    members = read_members(export(Descriptor(network, MEAN, STD, True), (images(2),)))
    assert members["data/sample_inputs/model.pt"] == b""
    text = members["models/model.json"].decode()
    assert "tests" not in text
    assert "stack_trace" not in text
    assert json.loads(text)["guards_code"] == []


def test_a_network_whose_graph_gives_other_features_is_not_exported() -> None:
    class Noisy(Tiny):
        def embed(self, images: Tensor) -> Tensor:
            return super().embed(images + torch.rand_like(images))

    with pytest.raises(ExportError, match="the graph and the network differ by"):
        export(Descriptor(Noisy(), MEAN, STD, True), (images(3),))


def test_a_network_that_cannot_be_traced_is_an_export_error() -> None:
    class Deciding(Tiny):
        def embed(self, images: Tensor) -> Tensor:
            return super().embed(images) if float(images.sum()) > 0 else super().embed(-images)

    with pytest.raises(ExportError, match=r"torch\.export cannot trace the network's embed"):
        export(Descriptor(Deciding(), MEAN, STD, True), (images(2),))


def test_an_archive_that_loading_would_refuse_is_an_export_error(
    network: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(data: bytes) -> None:
        raise torch_graph.RefusedModelError("the graph contains code")

    monkeypatch.setattr(torch_graph, "check_archive", refuse)
    with pytest.raises(ExportError, match="would be refused when it is loaded: the graph contains code"):
        export(Descriptor(network, MEAN, STD, True), (images(2),))


def test_features_that_depend_on_the_batch_or_are_not_numbers_are_found(network: Tiny) -> None:
    descriptor, example = Descriptor(network, MEAN, STD, True), (images(3),)
    check_features("the graph", descriptor, descriptor, example)

    def of_the_batch(given: Tensor) -> Tensor:
        return F.normalize(descriptor(given) + (len(given) == 1), dim=1)

    def not_a_number(given: Tensor) -> Tensor:
        return descriptor(given) * torch.nan

    with pytest.raises(ExportError, match="on 1 images"):
        check_features("the graph", of_the_batch, descriptor, example)
    with pytest.raises(ExportError, match="differ by nan on 3 images"):
        check_features("the graph", not_a_number, descriptor, example)
