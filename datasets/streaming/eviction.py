"""Which row groups to hold in memory when it is known what comes: the one needed latest goes first (Bélády's rule).

A pure function of the order of use, so that what is read, and read again, does not depend on timing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Use:
    """A batch's use of a row group. `drop`: held groups to let go before it is read; `is_held`: it need not be read."""

    batch: int
    group: int
    is_held: bool
    drop: tuple[int, ...]


@dataclass(frozen=True)
class Uses:
    """The row groups of each batch in turn, each once per batch: batch, group int64 [U]."""

    batch: np.ndarray
    group: np.ndarray


def uses(group_of_row: np.ndarray, rows: np.ndarray, first_batch: int = 0) -> Uses:
    """What the batches from `first_batch` on use. group_of_row: int64 [N]. rows: int64 [batches, b]."""
    batches, groups = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(first_batch, len(rows), 4096):  # the sorted copy of everything would be as large as the plan
        sorted_groups = np.sort(group_of_row[rows[start : start + 4096]], axis=1)
        is_first = np.ones(sorted_groups.shape, dtype=np.bool_)
        is_first[:, 1:] = sorted_groups[:, 1:] != sorted_groups[:, :-1]
        batches.append(start + np.nonzero(is_first)[0])
        groups.append(sorted_groups[is_first])
    return Uses(np.concatenate(batches), np.concatenate(groups))


def hold(order: Uses, num_bytes: Sequence[int], capacity: int, held: Iterable[int] = ()) -> Iterator[Use]:
    """Every use in turn, with what to let go for it. num_bytes: of each row group. held: groups in memory already.

    At most `capacity` bytes are held, or one row group where that alone is larger.
    """
    next_use = _next_uses(order.group)
    never = len(order.group)
    coming = dict.fromkeys(held, never)
    firsts, at = np.unique(order.group, return_index=True)
    coming |= {group: first for group, first in zip(firsts.tolist(), at.tolist(), strict=True) if group in coming}
    latest = [(-when, group) for group, when in coming.items()]
    heapq.heapify(latest)
    total = sum(num_bytes[group] for group in coming)
    for number in range(never):
        group = int(order.group[number])
        is_held = group in coming
        drop = []
        if not is_held:
            total += num_bytes[group]
            while total > capacity and coming:
                when, last = heapq.heappop(latest)
                if coming.get(last) == -when:
                    del coming[last]
                    total -= num_bytes[last]
                    drop.append(last)
        coming[group] = int(next_use[number])
        heapq.heappush(latest, (-coming[group], group))
        yield Use(int(order.batch[number]), group, is_held, tuple(drop))


def bytes_needed(order: Uses, num_bytes: Sequence[int]) -> int:
    """The least capacity with which `hold` reads no row group twice. num_bytes: of each row group."""
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
    """int64 [U]: the number of the next use of the same group, U where there is none."""
    following = np.full(len(group), len(group), dtype=np.int64)
    order = np.argsort(group, kind="stable")
    is_same = group[order[1:]] == group[order[:-1]]
    following[order[:-1][is_same]] = order[1:][is_same]
    return following
