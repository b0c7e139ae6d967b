"""Rows are divided without a gap, and start with the bits of the whole tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods.classifiers import CosineClassifier, LinearClassifier
from methods.sharded import share
from methods.sharded.classifiers import ShardedCosineClassifier, ShardedLinearClassifier
from methods.sharded.share import NONE, WHOLE, Rows, Share, blocks, filled, held_rows, parts_of
from tests.methods.variants import build


@given(st.integers(1, 40), st.integers(0, 1000))
def test_workers_hold_each_row_once_and_equally_many(parts: int, more: int) -> None:
    rows = [Share(part, parts).of(parts + more) for part in range(parts)]
    assert [n for one in rows for n in one.numbers().tolist()] == list(range(parts + more))
    assert max(one.count for one in rows) - min(one.count for one in rows) <= 1


def test_more_workers_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 workers cannot share 2 classes"):
        Share(0, 3).of(2)


@given(st.integers(0, 500), st.integers(1, 20))
def test_blocks_follow_each_other_and_only_the_last_is_longer(total: int, size: int) -> None:
    found = list(blocks(total, size))
    assert [n for start, end in found for n in range(start, end)] == list(range(total))
    assert all(end - start == size for start, end in found[:-1])
    assert total < size or size <= found[-1][1] - found[-1][0] < 2 * size


FILLS = {"normal": lambda numbers: numbers.normal_(std=0.3), "uniform": Tensor.uniform_}


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize(("total", "width"), [(5, 1), (15, 1), (7, 9), (40, 3), (65, 16), (67, 7)])
def test_rows_have_the_bits_of_the_whole_tensor_and_leave_its_random_state(
    fill: str, total: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "__defaults__", (32,))
    torch.manual_seed(3)
    whole, state = FILLS[fill](torch.empty(total, width)), torch.get_rng_state()
    for parts in (1, 2, 3, 4):
        for part in range(parts):
            torch.manual_seed(3)
            rows = Share(part, parts).of(total)
            assert torch.equal(filled(rows, width, FILLS[fill]), whole[rows.first : rows.end])
            assert torch.equal(torch.get_rng_state(), state)


def test_torch_draws_in_groups_that_blocks_are_made_of() -> None:
    assert share.BLOCK % 16 == 0


def test_without_rows_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    assert filled(NONE.of(1 << 40), 1000, Tensor.uniform_).shape == (0, 1000)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_classifiers_start_with_the_bits_of_whole_ones(parts: int) -> None:
    for bias in (True, False):
        torch.manual_seed(5)
        linear, cosine, after = LinearClassifier(70, 31, bias), CosineClassifier(70, 31), torch.rand(3)
        for part in range(parts):
            rows = Share(part, parts).of(31)
            torch.manual_seed(5)
            ours = ShardedLinearClassifier(70, rows, bias), ShardedCosineClassifier(70, rows)
            assert torch.equal(torch.rand(3), after)
            assert list(ours[0].state_dict()) == list(linear.state_dict())
            for name, tensor in ours[0].state_dict().items():
                assert torch.equal(tensor, linear.state_dict()[name][rows.first : rows.end])
            assert torch.equal(ours[1].weight, cosine.weight[rows.first : rows.end])


def test_a_method_starts_with_the_same_bits_and_names_its_divided_tensors() -> None:
    for name, divided in {
        "cal": {"classifier.weight": 5, "classifier.bias": 5, "clothes_classifier.weight": 8},
        "cal with memory": {"classifier.weight": 5, "classifier.bias": 5, "memory": 8, "seen": 8},
    }.items():
        method, sharded = build(name), build(f"{name}, sharded")
        assert held_rows(method) == {}
        assert held_rows(sharded) == {name: Rows(0, total, total) for name, total in divided.items()}
        assert parts_of(sharded) == {}, "one worker holds all"
        assert sharded.state_dict().keys() == method.state_dict().keys()
        for name, tensor in method.state_dict().items():
            assert torch.equal(sharded.state_dict()[name], tensor), name


def test_the_whole_is_one_share() -> None:
    assert WHOLE.of(3) == Rows(0, 3, 3)
    assert not WHOLE.of(3).is_part
    assert NONE.of(3).is_part
