"""Counts of the gallery entries that come before each pair, tile by tile, on a processor or a GPU. Nothing is sorted whole."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from methods.matches import Pairs
from methods.similarity import Tile, by_tile


class InconsistentTile(Exception):  # noqa: N818
    """A pair's similarity in its tile is not what the first pass found."""


def count_before(pairs: Pairs, tiles: Iterable[Tile], span: int, width: int) -> np.ndarray:
    """For each pair, the gallery entries that come before it in its row's stable order, junk included: int64 [N].

    pairs: nearest first. Raises: InconsistentTile when a tile holds another similarity for a pair.
    """
    just_below = np.nextafter(pairs.similarity, -np.inf, dtype=pairs.similarity.dtype)
    offsets = np.searchsorted(pairs.row, np.arange(len(pairs.queries) + 1))
    of_block, members = by_tile(pairs, span, width)
    before = np.zeros(len(pairs.row), dtype=np.int64)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        on_host = partial(_count_on_host, pool=pool)
        for tile in tiles:
            here = offsets[tile.row : tile.row + len(tile.similarity) + 1]
            part = slice(here[0], here[-1])
            # equal entries of earlier blocks come before the pair: above "just below" is "at least"
            above = np.where(of_block[part] > tile.start // width, just_below[part], pairs.similarity[part])
            own = members(tile.row, tile.start)
            places = _Places(own - here[0], pairs.row[own] - tile.row, pairs.gallery[own] - tile.start)
            count = on_host if tile.similarity.device.type == "cpu" else _count_on_device
            before[part] += count(tile.similarity, above, here - here[0], places)
    return before


@dataclass(frozen=True, slots=True)
class _Places:
    """The pairs inside a tile: number among the pairs of its rows, row and column in the tile. int64 [n] each."""

    pair: np.ndarray
    row: np.ndarray
    column: np.ndarray


def _count_on_host(
    tile: Tensor, above: np.ndarray, offsets: np.ndarray, own: _Places, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Entries of the tile above each pair's bound, and for its own pairs also the equal ones before their column.

    tile: [q, g]. above: [n], row i's from offsets[i] to offsets[i + 1]. Returns int64 [n].

    numpy sorts bare values with vector instructions in 2 ns each, which beats a binary search per entry (30 ns) and,
    from 5 pairs per query on, a comparison with each pair.
    """
    values, num = tile.numpy(), tile.shape[1]
    if not np.array_equal(values[own.row, own.column], above[own.pair]):
        raise InconsistentTile
    count = np.zeros(len(above), dtype=np.int64)
    ordered = np.empty_like(values)

    def count_rows(rows: range) -> None:
        ordered[rows.start : rows.stop] = values[rows.start : rows.stop]
        ordered[rows.start : rows.stop].sort(axis=1)
        for row in rows:
            mine = slice(offsets[row], offsets[row + 1])
            count[mine] = num - ordered[row].searchsorted(above[mine], "right")

    share = -(-len(values) // torch.get_num_threads())
    list(pool.map(count_rows, (range(at, min(at + share, len(values))) for at in range(0, len(values), share))))
    last_equal = num - 1 - count[own.pair]  # where the sorted row has the pair itself, or an equal entry
    is_tied = (last_equal > 0) & (ordered[own.row, last_equal - 1] == above[own.pair])
    for pair, row, column in zip(own.pair[is_tied], own.row[is_tied], own.column[is_tied], strict=True):
        count[pair] += np.count_nonzero(values[row, :column] == above[pair])
    return count


def _count_on_device(tile: Tensor, above: np.ndarray, offsets: np.ndarray, own: _Places) -> np.ndarray:
    """As `_count_on_host`: each entry finds its place among its row's bounds, and a histogram is summed."""
    tile, device = tile.contiguous(), tile.device
    num_of = np.diff(offsets)
    row, within = np.repeat(np.arange(len(num_of)), num_of), np.arange(len(above)) - np.repeat(offsets[:-1], num_of)
    place = torch.from_numpy(row).to(device), torch.from_numpy(num_of[row] - 1 - within).to(device)  # ascending
    bounds = tile.new_full((len(tile), int(num_of.max())), torch.inf)
    threshold = torch.from_numpy(above).to(device)
    bounds[place] = threshold
    bin_of = torch.searchsorted(bounds, tile)  # bounds strictly below the entry
    histogram = torch.zeros(len(tile), bounds.shape[1] + 1, dtype=torch.int64, device=device)
    histogram.scatter_add_(1, bin_of, torch.ones((), dtype=torch.int64, device=device).expand_as(bin_of))
    at_least = histogram.flip(1).cumsum(1).flip(1)  # entries above bounds[i] are those in bins i + 1 and beyond
    count = at_least[place[0], place[1] + 1]
    columns = torch.arange(tile.shape[1], device=device)
    for few in torch.arange(len(own.pair)).split(1024):
        pair, own_row, column = (torch.from_numpy(x[few.numpy()]).to(device) for x in (own.pair, own.row, own.column))
        if not torch.equal(tile[own_row, column], threshold[pair]):
            raise InconsistentTile
        is_equal = tile[own_row] == threshold[pair, None]
        count[pair] += (is_equal & (columns < column[:, None])).sum(1)
    return count.cpu().numpy()
