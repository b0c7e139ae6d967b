"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017), in memory that grows with entries × neighbours.

Queries and gallery form one set of N entries, queries first. An entry is described by its k-reciprocal neighbours, and two
entries are near when their descriptions overlap: the Jaccard distance, of which and the original distance the final one is a
weighted mean. No label is looked at, so entries that a rule leaves out of a query's ranking describe it as well.

Nowhere is there a matrix N × N: neighbours are found in tiles of a few rows, descriptions are sparse, and the distances of a
few queries are made at a time, through an inverted index. What the published code does beyond the paper is followed:
distances are squared Euclidean, an entry's divided by its largest; it is among its own neighbours; half of k₁ is rounded to
even. Its half precision is not. Ties are broken by the order of the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from methods.ranking import BLOCK
from methods.similarity import dot_products

TILE = 1 << 22  # elements of the largest arrays made at a time
SMALLEST = np.finfo(np.float64).tiny  # instead of 0, where all entries are equal


@dataclass(frozen=True, slots=True)
class Sparse:
    """N rows of non-negative weights: row i has `weight[start[i] : start[i + 1]]` in the columns `column[…]`, ascending."""

    start: np.ndarray  # int64 [N + 1]
    column: np.ndarray  # int32 [*]
    weight: np.ndarray  # floating point [*]


@dataclass(frozen=True)
class Reranking:
    """Final distances of Q queries to G gallery entries, made when they are asked for."""

    query: Tensor  # [Q, D]
    gallery: Tensor  # [G, D]
    weight: float  # λ, of the original distance
    farthest: np.ndarray  # float64 [Q]: each query's largest distance to any entry
    described: Sparse | None  # of all entries; None where λ = 1 leaves it without effect
    inverted: Sparse | None  # row = entry that describes, column = gallery entry described by it

    def blocks(self) -> Iterator[Tensor]:
        """Distances [q, G] of the queries in turn, some at a time."""
        span = max(1, TILE // len(self.gallery))
        for first in range(0, len(self.query), span):
            yield self.distances(np.arange(first, min(first + span, len(self.query))))

    def distances(self, queries: np.ndarray) -> Tensor:
        """float64 [q, G]: (1 - λ) · Jaccard + λ · original, Eq. 12. queries: int64 [q]."""
        similarity = torch.cat(list(_tiles(self.query[torch.from_numpy(queries)], self.gallery)), dim=1)
        farthest = torch.from_numpy(self.farthest[queries])[:, None]
        original = (2 - 2 * similarity.double().cpu()) / farthest
        if self.weight == 1:
            return original
        jaccard = np.stack([self._jaccard(query) for query in queries.tolist()])
        return (1 - self.weight) * torch.from_numpy(jaccard) + self.weight * original

    def _jaccard(self, query: int) -> np.ndarray:
        """float64 [G], Eq. 10: what two descriptions have in common over what either has; each sums to 1."""
        assert self.described is not None
        assert self.inverted is not None
        mine = slice(self.described.start[query], self.described.start[query + 1])
        entry, weight = self.described.column[mine], self.described.weight[mine]
        at, of = _ragged(self.inverted.start, entry)
        least = np.minimum(weight[of], self.inverted.weight[at])
        common = np.bincount(self.inverted.column[at], least, minlength=len(self.gallery))
        return 1 - common / (2 - common)


@torch.no_grad()
def rerank(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    progress: Callable[[int, int], None] | None = None,
) -> Reranking:
    """The re-ranking of `gallery` [G, D] for `query` [Q, D], L2-normalised floats.

    k1: neighbours that may describe an entry. k2: nearest entries, itself among them, whose descriptions are averaged
    (1: none). weight: λ, the share of the original distance in the final one; 1 keeps the original order. The defaults are
    the paper's (Sec. 4.2). progress: called with entries whose neighbours are found, and entries in all.

    Raises: ValueError for settings out of their range or features that are not finite.
    """
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise ValueError(
            f"k1 = {k1}, k2 = {k2}, weight = {weight}: expected k1 and k2 of at least 1 and a weight in 0…1"
        )
    features = torch.cat([query, gallery])
    features = features.float() if features.element_size() < 4 else features
    if not torch.isfinite(features).all():
        raise ValueError("features hold values that are not finite, which have no neighbours")
    num_query = len(query)
    query, gallery = features[:num_query], features[num_query:]
    if weight == 1:
        farthest = np.concatenate([_nearest(tile, 1)[2] for _, tile in _row_tiles(query, features)])
        return Reranking(query, gallery, weight, farthest, None, None)
    half = round(k1 / 2)
    found = neighbours(features, max(k1 + 1, half + 1, k2), progress)
    described = describe_by_neighbours(features, found, k1 + 1, half + 1)
    if k2 > 1:
        described = averaged(described, found.entry[:, :k2])
    return Reranking(query, gallery, weight, found.farthest[:num_query], described, inverse(described, num_query))


@dataclass(frozen=True, slots=True)
class Neighbours:
    entry: np.ndarray  # int32 [N, k]: nearest first, equal ones in the order of entries
    similarity: np.ndarray  # floating point [N, k]
    farthest: np.ndarray  # float64 [N]: distance to the farthest entry


def neighbours(features: Tensor, k: int, progress: Callable[[int, int], None] | None = None) -> Neighbours:
    """The k nearest of N entries to each, the entry itself among them; all where there are fewer."""
    found = []
    for done, tile in _row_tiles(features, features):
        found.append(_nearest(tile, min(k, len(features))))
        if progress:
            progress(done, len(features))
    return Neighbours(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _nearest(tile: Tensor, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns (int32) and values of the k largest similarities [b, k] of [b, N] in stable order; largest distance [b]."""
    value, column = (x.cpu().numpy() for x in tile.topk(min(k + 1, tile.shape[1]), dim=1))
    farthest = (2 - 2 * tile.amin(1).double()).clamp(min=SMALLEST).cpu().numpy()
    if value.shape[1] > k:
        for row in np.flatnonzero(value[:, k - 1] == value[:, k]).tolist():  # topk takes any of the equal ones
            all_of_row = tile[row].cpu().numpy()
            last = value[row, k - 1]
            above, equal = np.flatnonzero(all_of_row > last), np.flatnonzero(all_of_row == last)
            column[row, :k] = np.concatenate([above, equal])[:k]
            value[row, :k] = all_of_row[column[row, :k]]
        value, column = value[:, :k], column[:, :k]
    order = np.lexsort((column, -value), axis=1)
    return np.take_along_axis(column, order, 1).astype(np.int32), np.take_along_axis(value, order, 1), farthest


def _row_tiles(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(rows done, similarities [b, N]) of some rows at a time."""
    span = max(1, TILE // len(columns))
    for first in range(0, len(rows), span):
        part = rows[first : first + span]
        yield first + len(part), torch.cat(list(_tiles(part, columns)), dim=1)


def _tiles(rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    return (dot_products(rows, part) for part in columns.split(BLOCK))


def describe_by_neighbours(features: Tensor, found: Neighbours, k: int, k_half: int) -> Sparse:
    """The description of each entry: Gaussian weights of its expanded k-reciprocal neighbours, Eqs. 3, 5 and 7; sum 1.

    k, k_half: how many nearest entries, itself included, can be reciprocal at first, and in the expansion.
    """
    nearest, nearest_half = found.entry[:, :k], found.entry[:, :k_half]
    is_mutual, is_mutual_half = _mutual(nearest), _mutual(nearest_half)
    num, k = nearest.shape
    span = max(1, TILE // (k * k * nearest_half.shape[1]))
    columns, weights, lengths = [], [], []
    for first in range(0, num, span):
        rows = slice(first, first + span)
        own, is_own = nearest[rows], is_mutual[rows]  # [b, k]: R(i, k₁)
        theirs = nearest_half[own]  # [b, k, h]: R(c, k₁/2) of each of them
        is_theirs = is_mutual_half[own] & is_own[:, :, None]
        is_shared = ((theirs[..., None] == own[:, None, None, :]) & is_own[:, None, None, :]).any(3)
        joins = 3 * (is_shared & is_theirs).sum(2) > 2 * is_theirs.sum(2)  # more than two thirds, Eq. 5
        added = np.where(is_theirs & joins[:, :, None], theirs, -1).reshape(len(own), -1)
        members = np.concatenate([np.where(is_own, own, -1), added], axis=1)
        order = np.argsort(members, axis=1, kind="stable")
        members = np.take_along_axis(members, order, 1)
        is_first = members >= 0
        is_first[:, 1:] &= members[:, 1:] != members[:, :-1]
        row, place = np.nonzero(is_first)
        column, source = members[row, place], order[row, place]
        similarity = found.similarity[rows][row, np.minimum(source, k - 1)]
        unknown = np.flatnonzero(source >= k)  # came by expansion alone
        similarity[unknown] = _pairs(features, first + row[unknown], column[unknown])
        distance = (2 - 2 * similarity) / found.farthest[rows][row]
        length = is_first.sum(1)
        weight = np.exp(-distance)
        columns.append(column.astype(np.int32))
        weights.append((weight / np.repeat(_sums(weight, length), length)).astype(found.similarity.dtype))
        lengths.append(length)
    return Sparse(_starts(np.concatenate(lengths)), np.concatenate(columns), np.concatenate(weights))


def _mutual(nearest: np.ndarray) -> np.ndarray:
    """bool [N, k]: whether the entry is among the k nearest of its neighbour too, Eq. 3."""
    num, k = nearest.shape
    found = np.empty((num, k), dtype=bool)
    span = max(1, TILE // (k * k))
    for first in range(0, num, span):
        theirs = nearest[nearest[first : first + span]]  # [b, k, k]
        found[first : first + span] = (theirs == np.arange(first, first + len(theirs))[:, None, None]).any(2)
    return found


def _pairs(features: Tensor, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Similarities of single pairs [n]."""
    found = np.empty(len(left), dtype=np.float64 if features.dtype == torch.float64 else np.float32)
    span = max(1, TILE // features.shape[1])
    for first in range(0, len(left), span):
        a, b = (torch.from_numpy(side[first : first + span].astype(np.int64)) for side in (left, right))
        found[first : first + span] = torch.linalg.vecdot(features[a], features[b]).cpu().numpy()
    return found


def averaged(described: Sparse, nearest: np.ndarray) -> Sparse:
    """Local query expansion, Eq. 11: each description becomes the mean of those of its nearest entries [N, k₂]."""
    num, k2 = nearest.shape
    columns, weights, lengths = [], [], []
    span = max(1, TILE // (4 * k2 * int(np.diff(described.start).max())))
    for first in range(0, num, span):
        part = nearest[first : first + span]
        at, of = _ragged(described.start, part.ravel())
        key = of // k2 * num + described.column[at]
        order = np.argsort(key, kind="stable")
        key, weight = key[order], described.weight[at[order]]
        begins = np.flatnonzero(np.diff(key, prepend=-1))
        columns.append((key[begins] % num).astype(np.int32))
        weights.append(np.add.reduceat(weight, begins) / weight.dtype.type(k2))
        lengths.append(np.bincount(key[begins] // num, minlength=len(part)))
    return Sparse(_starts(np.concatenate(lengths)), np.concatenate(columns), np.concatenate(weights))


def inverse(described: Sparse, num_query: int) -> Sparse:
    """Row = entry, column = gallery entry (counted from 0) that it describes."""
    num = len(described.start) - 1
    of_gallery = slice(described.start[num_query], None)
    entry, weight = described.column[of_gallery], described.weight[of_gallery]
    gallery = np.repeat(np.arange(num - num_query, dtype=np.int32), np.diff(described.start[num_query:]))
    order = np.argsort(entry, kind="stable")
    return Sparse(_starts(np.bincount(entry, minlength=num)), gallery[order], weight[order])


def _ragged(start: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of all elements of some rows, row after row, and the number (in `rows`) of each one's row: int64 [n] both."""
    length = start[rows + 1] - start[rows]
    of = np.repeat(np.arange(len(rows)), length)
    return start[rows][of] + np.arange(len(of)) - _starts(length)[of], of


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums of consecutive runs [len(lengths)]; an empty run's is 0."""
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths), values, minlength=len(lengths))
