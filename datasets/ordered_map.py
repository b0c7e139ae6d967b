"""Functions mapped over items by threads or processes: results in the order of the items, a bounded number ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
CHUNK = 32  # items per task of `chunked_map`


def ordered_map(pool: Executor, function: Callable[[T], R], items: Iterable[T], *, ahead: int) -> Iterator[R]:
    """function(item) for each item, in order; at most `ahead` + 1 results are in progress or wait for the consumer.

    Raises: what `function` raises, at its place in the order; tasks that have not begun by then are cancelled.
    """
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def chunked_map(function: Callable[[T], R], items: Sequence[T], threads: int) -> Iterator[list[R]]:
    """function(item) for each item, in order, in lists of CHUNK: for functions too short to be tasks of their own."""

    def map_chunk(start: int) -> list[R]:
        return [function(item) for item in items[start : start + CHUNK]]

    with ThreadPoolExecutor(threads) as pool:
        yield from ordered_map(pool, map_chunk, range(0, len(items), CHUNK), ahead=2 * threads)
