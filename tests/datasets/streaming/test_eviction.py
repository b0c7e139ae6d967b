"""What is cached and evicted: never more than the capacity, and never more reads than by any other order of eviction."""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.streaming.eviction import AccessOrder, access_order, bytes_needed, schedule_evictions


def reads(groups: list[int], num_bytes: list[int], capacity: int, cached: tuple[int, ...] = ()) -> int:
    """The number of row groups read; checks on the way that the cache is what it says it is, and fits."""
    inside = set(cached)
    count = 0
    for number, access in enumerate(
        schedule_evictions(AccessOrder(np.arange(len(groups)), np.array(groups)), num_bytes, capacity, cached)
    ):
        assert (access.batch, access.group) == (number, groups[number])
        assert access.is_cached == (access.group in inside)
        assert set(access.evicted) <= inside
        inside -= set(access.evicted)
        inside.add(access.group)
        count += not access.is_cached
        assert (
            sum(num_bytes[g] for g in inside) <= capacity
            or (len(inside) == 1 and not access.is_cached)
            or len(inside) == 1
        )
    return count


@functools.cache
def fewest(groups: tuple[int, ...], room: int, inside: frozenset[int] = frozenset()) -> int:
    """By trying everything."""
    if not groups:
        return 0
    first, rest = groups[0], groups[1:]
    if first in inside:
        return fewest(rest, room, inside)
    if len(inside) < room:
        return 1 + fewest(rest, room, inside | {first})
    return 1 + min(fewest(rest, room, inside - {gone} | {first}) for gone in inside)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=16), st.integers(1, 4))
def test_no_other_order_reads_less(groups: list[int], room: int) -> None:
    assert reads(groups, [1] * 6, room) == fewest(tuple(groups), room)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 7), max_size=40),
    st.lists(st.integers(1, 9), min_size=8, max_size=8),
    st.integers(9, 40),
)
def test_capacity_holds_for_row_groups_of_any_size(groups: list[int], num_bytes: list[int], capacity: int) -> None:
    assert reads(groups, num_bytes, capacity) >= len(set(groups))
    assert reads(groups, num_bytes, sum(num_bytes)) == len(set(groups))


@settings(max_examples=100)
@given(st.lists(st.integers(0, 7), max_size=40), st.lists(st.integers(1, 9), min_size=8, max_size=8))
def test_the_bytes_needed_are_the_least_with_which_nothing_is_read_twice(
    groups: list[int], num_bytes: list[int]
) -> None:
    needed = bytes_needed(AccessOrder(np.arange(len(groups)), np.array(groups, dtype=np.int64)), num_bytes)
    once = len(set(groups))
    assert reads(groups, num_bytes, needed) == once
    if needed > max(
        (num_bytes[group] for group in groups), default=0
    ):  # a row group alone is cached whatever the capacity
        assert reads(groups, num_bytes, needed - 1) > once


def test_a_row_group_larger_than_the_capacity_is_cached_alone() -> None:
    assert reads([0, 1, 0, 1], [100, 1], 10) == 4
    assert reads([0, 0, 0], [100], 10) == 1


def test_what_an_earlier_epoch_left_is_not_read_again() -> None:
    assert reads([0, 1, 2], [1, 1, 1], 3, cached=(0, 1, 2)) == 0
    assert reads([3, 0, 1], [1, 1, 1, 1], 3, cached=(0, 1, 2)) == 1  # group 2, never accessed, is evicted


def test_the_order_names_each_row_group_once_per_batch() -> None:
    group_of_row = np.array([0, 0, 1, 1, 2, 2])
    found = access_order(group_of_row, np.array([[5, 0, 1, 4], [2, 3, 2, 3], [1, 2, 4, 0]]))
    assert list(zip(found.batch.tolist(), found.group.tolist(), strict=True)) == [
        (0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (2, 2)
    ]  # fmt: skip
    later = access_order(group_of_row, np.array([[5, 0, 1, 4], [2, 3, 2, 3], [1, 2, 4, 0]]), first_batch=2)
    assert later.batch.tolist() == [2, 2, 2]
