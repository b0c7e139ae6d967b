"""Which row groups a cache evicts when the order of access is known: the one accessed latest goes first (Bélády's rule).

A pure function of the order of access, so that what is read, and read again, does not depend on timing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Access:
    """A batch's access to a row group. is_cached: it need not be read. evicted: the cached groups that make room for it."""

    batch: int
    group: int
    is_cached: bool
    evicted: tuple[int, ...]


@dataclass(frozen=True)
class AccessOrder:
    """The A accesses of an epoch in order, a row group once per batch. batch, group: int64 [A]."""

    batch: np.ndarray
    group: np.ndarray


def access_order(group_of_row: np.ndarray, rows: np.ndarray, first_batch: int = 0) -> AccessOrder:
    """The accesses of the batches from `first_batch` on.

    group_of_row: int64 [N], the row group of each row. rows: int64 [num_batches, b], the rows of each batch.
    """
    batches, groups = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(first_batch, len(rows), 4096):  # the sorted copy of everything would be as large as the plan
        sorted_groups = np.sort(group_of_row[rows[start : start + 4096]], axis=1)
        is_first = np.ones(sorted_groups.shape, dtype=np.bool_)
        is_first[:, 1:] = sorted_groups[:, 1:] != sorted_groups[:, :-1]
        batches.append(start + np.nonzero(is_first)[0])
        groups.append(sorted_groups[is_first])
    return AccessOrder(np.concatenate(batches), np.concatenate(groups))


def schedule_evictions(
    order: AccessOrder, num_bytes: Sequence[int], capacity: int, cached: Iterable[int] = ()
) -> Iterator[Access]:
    """Every access in order, with the row groups evicted for it.

    num_bytes: the length of each row group. capacity: the bytes that the cache holds at most; a row group that alone is
    larger is cached by itself. cached: the row groups in memory at the beginning.
    """
    next_use = _next_uses(order.group)
    never = len(order.group)
    coming = dict.fromkeys(cached, never)
    firsts, at = np.unique(order.group, return_index=True)
    coming |= {group: first for group, first in zip(firsts.tolist(), at.tolist(), strict=True) if group in coming}
    latest = [(-when, group) for group, when in coming.items()]
    heapq.heapify(latest)
    total = sum(num_bytes[group] for group in coming)
    for number in range(never):
        group = int(order.group[number])
        is_cached = group in coming
        evicted = []
        if not is_cached:
            total += num_bytes[group]
            while total > capacity and coming:
                when, last = heapq.heappop(latest)
                if coming.get(last) == -when:
                    del coming[last]
                    total -= num_bytes[last]
                    evicted.append(last)
        coming[group] = int(next_use[number])
        heapq.heappush(latest, (-coming[group], group))
        yield Access(int(order.batch[number]), group, is_cached, tuple(evicted))


def bytes_needed(order: AccessOrder, num_bytes: Sequence[int]) -> int:
    """The least capacity, in bytes, with which no row group is read twice. num_bytes: the length of each row group."""
    if not len(order.group):
        return 0
    groups, first = np.unique(order.group, return_index=True)
    last = len(order.group) - 1 - np.unique(order.group[::-1], return_index=True)[1]
    change = np.zeros(len(order.group) + 1, dtype=np.int64)
    sizes = np.asarray(num_bytes, dtype=np.int64)[groups]
    np.add.at(change, first, sizes)
    np.add.at(change, last + 1, -sizes)
    return int(change.cumsum().max())


def _next_uses(group: np.ndarray) -> np.ndarray:
    """int64 [A]: the number of the next access to the same group, A where there is none."""
    following = np.full(len(group), len(group), dtype=np.int64)
    order = np.argsort(group, kind="stable")
    is_same = group[order[1:]] == group[order[:-1]]
    following[order[:-1][is_same]] = order[1:][is_same]
    return following
