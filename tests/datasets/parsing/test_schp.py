"""SCHP's network against the published checkpoints' names and sizes, and against its layers put together by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from datasets.errors import DataError
from datasets.parsing.parser import SCHPParser
from datasets.parsing.schp import SCHP, load_schp
from tests.datasets.parsing.schp_by_hand import State, plainly, random_state


@pytest.fixture(scope="module")
def state() -> State:
    return random_state()


def test_a_checkpoint_has_603_entries_and_66723928_parameters() -> None:
    with torch.device("meta"):
        network = SCHP(20)
    assert len(network.state_dict()) == 603
    assert sum(parameter.numel() for parameter in network.parameters()) == 66_723_928


def test_entries_are_named_as_published() -> None:
    norm = ("weight", "bias", "running_mean", "running_var")
    expected = set()

    def add(conv: str, bn: str | None = None, bias: bool = False) -> None:
        expected.update({f"{conv}.weight"} | ({f"{conv}.bias"} if bias else set()))
        expected.update(f"{bn}.{entry}" for entry in norm if bn)

    for number in (1, 2, 3):
        add(f"conv{number}", f"bn{number}")
        add(f"edge.conv{number}.0", f"edge.conv{number}.1")
    for layer, depth in {1: 3, 2: 4, 3: 23, 4: 3}.items():
        for block in range(depth):
            for number in (1, 2, 3):
                add(f"layer{layer}.{block}.conv{number}", f"layer{layer}.{block}.bn{number}")
        add(f"layer{layer}.0.downsample.0", f"layer{layer}.0.downsample.1")
    for pool in range(4):
        add(f"context_encoding.stages.{pool}.1", f"context_encoding.stages.{pool}.2")
    add("context_encoding.bottleneck.0", "context_encoding.bottleneck.1")
    for conv, bn in (("conv1.0", "conv1.1"), ("conv2.0", "conv2.1"), ("conv3.0", "conv3.1"), ("conv3.2", "conv3.3")):
        add(f"decoder.{conv}", f"decoder.{bn}")
    for conv in ("edge.conv4", "edge.conv5", "decoder.conv4", "fushion.3"):
        add(conv, bias=True)
    add("fushion.0", "fushion.1")
    with torch.device("meta"):
        assert set(SCHP(20).state_dict()) == expected


def test_the_network_is_its_layers_put_together_by_hand(state: State) -> None:
    """Half of the checkpoint's norm weights are negative: only their size counts."""
    images = torch.randn(2, 3, 33, 41, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, expected = load_schp(state)(images), plainly(state, images)
    assert logits.shape == (2, 20, 9, 11)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda s: s.pop("edge.conv5.bias"), r"603 entries: 1 missing \(edge\.conv5\.bias\)$"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 unknown \(extra\)$"),
        (
            lambda s: s.update({"layer2.0.bn1.weight": torch.zeros(64)}),
            r"1 misshapen \(layer2\.0\.bn1\.weight \[64\], expected \[128\]\)",
        ),
        (lambda s: s.pop("fushion.3.weight"), r"no checkpoint of SCHP: it has no entry fushion\.3\.weight, but conv1"),
        (lambda s: s.update({"fushion.3.weight": torch.zeros(())}), r"no checkpoint of SCHP"),
        (lambda s: s.clear(), r"no entry fushion\.3\.weight, but nothing"),
    ],
    ids=["missing", "unknown", "misshapen", "no classifier", "scalar", "empty"],
)
def test_entries_that_do_not_fit_are_named(damage: Callable[[State], object], told: str, state: State) -> None:
    damaged = dict(state)
    damage(damaged)
    with pytest.raises(DataError, match=told):
        load_schp(damaged)


@pytest.mark.parametrize(
    ("num_classes", "labels", "side"), [(20, "lip20", 473), (18, "atr18", 512), (7, "pascal7", 512)]
)
def test_the_number_of_classes_tells_label_map_and_input_size(num_classes: int, labels: str, side: int) -> None:
    with torch.device("meta"):
        network = SCHP(num_classes)
    parser = SCHPParser(network, "meta")
    assert (parser.label_map.name, parser.side) == (labels, side)


def test_another_number_of_classes_is_refused() -> None:
    with torch.device("meta"):
        network = SCHP(5)
    with pytest.raises(DataError, match=r"has 5 classes; published ones have 20 \(lip20\)"):
        SCHPParser(network)
