"""Exact CMC, mAP (Zheng et al., ICCV 2015) and mINP (Ye et al., TPAMI 2021), for a gallery of any size.

No index is sorted and no distance matrix is held. A match's position is one more than the number of valid gallery
entries that come before it: those closer, and equal ones earlier in the index (what a stable sort gives). Entries of
another person always count; entries of the same person are few, so they are listed as pairs, and those that a rule
removes (junk) are subtracted at the end. What is left is to count, in each tile [queries, gallery block], the
similarities above each pair's own. Two passes over the gallery: the first finds each pair's similarity, the second
counts. Memory is O(queries × same-person entries + tile).

Both passes must give a pair the same bits, or it would be compared with a rounded copy of itself. The first multiplies
only the rows it needs, the second verifies them in its full tiles; where a processor's matrix product does depend on
the shape of its operands, the first pass is made again with the tiles of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RULES = ("general", "same-clothes", "clothes-changing")
RANKS = (1, 5, 10, 20)
RECALLS = np.arange(21) / 20  # at which precision is told
BLOCK = 8192  # gallery entries per tile: a row of it sorts in the second-level cache
HOST_QUERIES, DEVICE_QUERIES = 128, 1024  # queries per tile

Gallery: TypeAlias = Tensor | np.ndarray | Sequence[Tensor] | Callable[[], Iterable[Tensor]]


class NoValidQuery(ValueError):  # noqa: N818  what it says is no slip of the program
    """No query has a match under the rule: there is nothing to average."""


class _Differs(Exception):  # noqa: N818
    """A pair's similarity in its tile is not what the first pass found."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Integer labels of N entries, int64 [N] each. -1 = unknown, which equals nothing, itself included."""

    person: np.ndarray
    camera: np.ndarray
    clothes: np.ndarray

    def __post_init__(self) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        sizes = {name: getattr(self, name).shape for name in self.__slots__}
        if len(set(sizes.values())) > 1 or self.person.ndim != 1:
            raise ValueError(f"labels must be one integer per entry, all of the same number; got shapes {sizes}")

    def __len__(self) -> int:
        return len(self.person)

    def take(self, rows: np.ndarray | slice) -> Labels:
        return Labels(self.person[rows], self.camera[rows], self.clothes[rows])


@dataclass(frozen=True, slots=True)
class Ranking:
    """Fractions, not percent; means are over the valid queries, those with at least one match."""

    cmc: dict[int, float | None]  # rank → share of queries whose first match is at or above it; None beyond the gallery
    mAP: float  # noqa: N815  the field's name
    mINP: float  # noqa: N815
    num_valid: int
    per_query_ap: np.ndarray  # float64 [Q], NaN where the query has no match
    first_match: np.ndarray  # float64 [Q], position of the first match counted from 1, -1 where there is none
    precision: np.ndarray  # float64 [21], at each of RECALLS: the highest at that recall or beyond it

    def metrics(self, prefix: str) -> dict[str, float]:
        """{prefix/rank-1: …, prefix/mAP: …, prefix/mINP: …}; ranks beyond the gallery's size are left out."""
        ranks = {f"{prefix}/rank-{rank}": share for rank, share in self.cmc.items() if share is not None}
        return ranks | {f"{prefix}/mAP": self.mAP, f"{prefix}/mINP": self.mINP}


def describe(embed: Callable[..., Tensor], *inputs: Tensor, flip: bool = True) -> Tensor:
    """Test descriptors [B, D] of `inputs` (images [B, 3, H, W], and whatever else `embed` takes, width last).

    The embeddings of the images and of their mirror images are added, then L2-normalised; no view is normalised alone.
    """
    features = embed(*inputs)
    if flip:
        features = features + embed(*(x.flip(-1) for x in inputs))
    return F.normalize(features, dim=1)


def describe_tracks(clip_features: Tensor, clips_of_track: Tensor) -> Tensor:
    """Test descriptors [V, D] of tracks: the mean of their clips' raw features, then L2-normalised (CAL, Sec. 5.2).

    clip_features: [C, D]. clips_of_track: int64 [V, 2], first clip and one past the last.
    """
    means = [clip_features[start:stop].mean(0) for start, stop in clips_of_track.tolist()]
    return F.normalize(torch.stack(means), dim=1)


@torch.no_grad()
def rank(
    query: Tensor,
    gallery: Gallery,
    query_labels: Labels,
    gallery_labels: Labels,
    rule: str,
    ranks: Sequence[int] = RANKS,
    block: int = BLOCK,
) -> Ranking:
    """Rank a gallery by dot product for each query, on the query's device and in its precision.

    query: [Q, D], L2-normalised. gallery: [G, D] likewise, as a tensor, an array (may be memory-mapped), a sequence of
    tensors [*, D], or a function that gives an iterable of them, called once per pass. rule: one of RULES. An entry of
    the query's person is removed if it has the query's camera; under "same-clothes" also if its clothes differ, under
    "clothes-changing" also if they are the same. What is left of that person are the matches.

    Raises: NoValidQuery. ValueError for an unknown rule, shapes that do not fit, features that are not finite, or a
    gallery that differs between two passes.
    """
    return rank_by_rules(query, gallery, query_labels, gallery_labels, (rule,), ranks, block)[rule]


@torch.no_grad()
def rank_by_rules(
    query: Tensor,
    gallery: Gallery,
    query_labels: Labels,
    gallery_labels: Labels,
    rules: Sequence[str],
    ranks: Sequence[int] = RANKS,
    block: int = BLOCK,
) -> dict[str, Ranking]:
    """As `rank`, by several rules at once: how many entries come before one is the same whatever a rule then strikes out.

    Raises: as `rank`; NoValidQuery of the first rule that has none.
    """
    query = query.detach()
    if not query.is_floating_point() or query.ndim != 2 or len(query) != len(query_labels):
        raise ValueError(
            f"query must be floating point [{len(query_labels)}, D], one row per label; "
            f"got {query.dtype} {list(query.shape)}"
        )
    query = query.float() if query.element_size() < 4 else query
    _refuse_infinite(query, "query", 0)
    pairs = _pairs_of(query_labels, gallery_labels, rules)
    query = query[torch.from_numpy(pairs.queries).to(query.device)]
    num = len(gallery_labels)
    block = min(max(block, 1), num)
    width = -(-block // 64) * 64  # whole vector registers: one kernel for all columns of a product
    blocks = partial(_blocks, gallery, num, width, query)

    def tiles(span: int) -> Iterator[_Tile]:
        for start, rows in blocks():
            for first in range(0, len(query), span):
                yield _Tile(first, start, dot_products(query[first : first + span], rows)[:, : num - start])

    span = HOST_QUERIES if query.device.type == "cpu" else DEVICE_QUERIES
    for whole in (False, True):
        found = pairs.nearest_first(_similarities(pairs, query, blocks(), span, width, whole))
        try:
            before = _count_before(found, tiles(span), span, width)
            judged = {rule: _judge(found, query_labels, gallery_labels, rule) for rule in rules}
            return {rule: _summary(by_rule, before[kept], ranks) for rule, (by_rule, kept) in judged.items()}
        except _Differs:
            continue
    raise ValueError("the gallery gave other features in the second pass than in the first")


@torch.no_grad()
def rank_distances(
    distance: Tensor,
    query_labels: Labels,
    gallery_labels: Labels,
    rule: str,
    ranks: Sequence[int] = RANKS,
    block: int = BLOCK,
) -> Ranking:
    """As `rank`, from distances [Q, G] (floating point, smaller is nearer) that exist already.

    Raises: NoValidQuery. ValueError for an unknown rule, shapes that do not fit, or distances that are not finite.
    """
    expected = (len(query_labels), len(gallery_labels))
    if not distance.is_floating_point() or distance.shape != expected:
        raise ValueError(
            f"distance must be floating point {list(expected)}; got {distance.dtype} {list(distance.shape)}"
        )
    distance = distance.detach()
    distance = distance.float() if distance.element_size() < 4 else distance
    if not torch.isfinite(distance).all():
        raise ValueError("distance holds values that are not finite, which have no place in a ranking")
    pairs = _pairs_of(query_labels, gallery_labels, (rule,))
    rows = torch.from_numpy(pairs.queries).to(distance.device)
    span, num, block = HOST_QUERIES, len(gallery_labels), max(block, 1)

    def tiles() -> Iterator[_Tile]:
        for start in range(0, num, block):
            for first in range(0, len(rows), span):
                yield _Tile(first, start, -distance[rows[first : first + span], start : start + block])

    chosen = rows[torch.from_numpy(pairs.row).to(rows.device)], torch.from_numpy(pairs.gallery).to(rows.device)
    found = pairs.nearest_first(-distance[chosen].cpu().numpy())
    return _summary(found, _count_before(found, tiles(), span, block), ranks)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Similarities [q, g] of the rows from `row` on with the gallery entries from `start` on."""

    row: int
    start: int
    similarity: Tensor


@dataclass(frozen=True, slots=True)
class _Pairs:
    """The gallery entries of each query's person. A row is a query that has a match; rows are ordered by person."""

    queries: np.ndarray  # int64 [R]: the query each row stands for
    row: np.ndarray  # int64 [N], ascending
    gallery: np.ndarray  # int64 [N]
    is_match: np.ndarray  # bool [N]; the others are junk
    num_queries: int
    num_gallery: int
    similarity: np.ndarray = field(default_factory=lambda: np.empty(0))  # floating point [N], once it is known

    def nearest_first(self, similarity: np.ndarray) -> _Pairs:
        """The pairs of each row in the order of a stable sort by decreasing similarity."""
        order = np.lexsort((self.gallery, -similarity, self.row))
        return replace(self, gallery=self.gallery[order], is_match=self.is_match[order], similarity=similarity[order])


def judge(query_labels: Labels, gallery_labels: Labels, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """What a rule makes of each pair, for the few queries of a picture: (counted, match), bool [Q, G] each.

    A removed entry is neither. Raises: NoValidQuery.
    """
    pairs = _pairs_of(query_labels, gallery_labels, (rule,))
    counted = np.ones((len(query_labels), len(gallery_labels)), dtype=bool)
    matches = np.zeros_like(counted)
    rows = pairs.queries[pairs.row]
    counted[rows, pairs.gallery] = matches[rows, pairs.gallery] = pairs.is_match
    return counted, matches


def _pairs_of(query: Labels, gallery: Labels, rules: Sequence[str]) -> _Pairs:
    """The pairs of the queries that have a match under one of the rules. `is_match` is the first rule's.

    Raises: NoValidQuery where a rule has none. ValueError for an unknown rule.
    """
    everything = _same_person_pairs(query, gallery)
    kept = [_judge(everything, query, gallery, rule)[1] for rule in rules]
    if len(rules) == 1:
        return _judge(everything, query, gallery, rules[0])[0]
    return _keep(everything, np.logical_or.reduce(kept))


def _same_person_pairs(query: Labels, gallery: Labels) -> _Pairs:
    """Those of every query whose person is in the gallery, none of them judged yet."""
    queries = np.argsort(query.person, kind="stable")  # neighbours share gallery rows, and with them products
    entries = np.argsort(gallery.person, kind="stable")
    persons, wanted = gallery.person[entries], query.person[queries]
    start = np.searchsorted(persons, wanted, "left")
    num = np.where(wanted < 0, 0, np.searchsorted(persons, wanted, "right") - start)
    row = np.repeat(np.arange(len(queries)), num)
    within = np.arange(len(row)) - np.repeat(np.cumsum(num) - num, num)
    entry = entries[np.repeat(start, num) + within]
    return _Pairs(queries, row, entry, np.zeros(len(row), dtype=bool), len(query), len(gallery))


def _judge(pairs: _Pairs, query: Labels, gallery: Labels, rule: str) -> tuple[_Pairs, np.ndarray]:
    """The pairs of the queries that have a match under a rule, judged by it, and which pairs these are, bool [N].

    Raises: NoValidQuery; ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: it is one of {', '.join(RULES)}")

    def same(query_label: np.ndarray, gallery_label: np.ndarray) -> np.ndarray:
        ours, theirs = query_label[pairs.queries[pairs.row]], gallery_label[pairs.gallery]
        return (ours == theirs) & (ours >= 0)

    is_match = ~same(query.camera, gallery.camera)
    if rule != "general":
        is_match &= same(query.clothes, gallery.clothes) == (rule == "same-clothes")
    is_valid = np.bincount(pairs.row[is_match], minlength=len(pairs.queries)) > 0
    if not is_valid.any():
        raise NoValidQuery(
            f"no valid query under the rule {rule!r}: of {len(query)} queries and {len(gallery)} gallery entries, "
            f"{len(np.unique(pairs.row))} queries have their person in the gallery ({len(pairs.row)} pairs), and the rule "
            "keeps none of these. Check cameras and clothes of the two splits, or leave this mode out of the protocol"
        )
    kept = is_valid[pairs.row]
    return _keep(replace(pairs, is_match=is_match), kept), kept


def _keep(pairs: _Pairs, kept: np.ndarray) -> _Pairs:
    """Some pairs (bool [N]), with the rows that have one, in their order."""
    is_row = np.bincount(pairs.row[kept], minlength=len(pairs.queries)) > 0
    similarity = pairs.similarity[kept] if len(pairs.similarity) else pairs.similarity
    return replace(
        pairs,
        queries=pairs.queries[is_row],
        row=(np.cumsum(is_row) - 1)[pairs.row[kept]],
        gallery=pairs.gallery[kept],
        is_match=pairs.is_match[kept],
        similarity=similarity,
    )


def _blocks(gallery: Gallery, num: int, size: int, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(index of the first row, rows [size, D]) in `like`'s dtype and device; the last is filled up with zeros.

    One size for all: then products have one shape, and equal features give equal similarities wherever they lie.
    """
    held: list[Tensor] = []
    start = num_held = 0
    for piece in _pieces(gallery, size):
        if piece.ndim != 2 or piece.shape[1] != like.shape[1]:
            raise ValueError(
                f"gallery features must be [*, {like.shape[1]}] as the queries are; got {list(piece.shape)}"
            )
        for part in piece.detach().split(size):
            part = part.to(like)
            _refuse_infinite(part, "gallery", start + num_held)
            held, num_held = [*held, part], num_held + len(part)
            if num_held >= size:
                rows = torch.cat(held) if len(held) > 1 else part
                yield start, rows[:size]
                held, num_held, start = [rows[size:]], num_held - size, start + size
    if start + num_held != num:
        raise ValueError(f"gallery has {start + num_held} features but {num} labels")
    if num_held:
        yield start, torch.cat([*held, like.new_zeros(size - num_held, like.shape[1])])


def dot_products(query: Tensor, rows: Tensor) -> Tensor:
    """Similarities [q, g]. In float32 on a processor oneDNN makes them, on AMD's in half of MKL's time.

    In the last bit, products of MKL, OpenBLAS, cuBLAS and of one row at a time all differ from each other; oneDNN adds
    in the order of the dimensions, whatever the shapes. Float64 leaves none of this visible in a metric.
    """
    if query.device.type == "cpu" and query.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return F.linear(query.to_mkldnn(), rows).to_dense()
    return query @ rows.T


def _pieces(gallery: Gallery, size: int) -> Iterable[Tensor]:
    if isinstance(gallery, np.ndarray):  # copies: a memory map may be read-only, which tensors cannot be
        return (torch.from_numpy(np.array(gallery[at : at + size])) for at in range(0, len(gallery), size))
    if isinstance(gallery, Tensor):
        return (gallery,)
    return gallery() if callable(gallery) else gallery


def _refuse_infinite(features: Tensor, name: str, start: int) -> None:
    if not torch.isfinite(features.sum()):  # cheaper than asking each; a sum of normalised features never overflows
        bad = (~torch.isfinite(features)).any(1).nonzero().flatten()
        if len(bad):
            raise ValueError(f"{name} features are not finite, first at row {start + int(bad[0])}")


def _by_tile(pairs: _Pairs, span: int, width: int) -> tuple[np.ndarray, Callable[[int, int], np.ndarray]]:
    """Number of each pair's gallery block, and (row, start) of a tile → the pairs in it."""
    of_block, num_spans = pairs.gallery // width, -(-len(pairs.queries) // span)
    tile = of_block * num_spans + pairs.row // span
    order = np.argsort(tile, kind="stable")
    bounds = np.searchsorted(tile[order], np.arange(-(-pairs.num_gallery // width) * num_spans + 1))

    def members(row: int, start: int) -> np.ndarray:
        at = start // width * num_spans + row // span
        return order[bounds[at] : bounds[at + 1]]

    return of_block, members


def _similarities(
    pairs: _Pairs, query: Tensor, blocks: Iterable[tuple[int, Tensor]], span: int, width: int, whole: bool
) -> np.ndarray:
    """Similarity of each pair [N]. `whole`: from products of the very shape that the second pass has."""
    found = np.empty(len(pairs.row), dtype=np.float64 if query.dtype == torch.float64 else np.float32)
    _, members = _by_tile(pairs, span, width)
    for start, rows in blocks:
        for first in range(0, len(query), span):
            inside = members(first, start)
            if not len(inside):
                continue
            columns = pairs.gallery[inside] - start
            needed = rows
            if not whole:
                unique, columns = np.unique(columns, return_inverse=True)
                padded = np.pad(unique, (0, -len(unique) % 64), mode="edge")
                needed = rows[torch.from_numpy(padded).to(rows.device)] if len(padded) < len(rows) else rows
                columns = columns if needed is not rows else pairs.gallery[inside] - start
            product = dot_products(query[first : first + span], needed)
            at = torch.from_numpy(pairs.row[inside] - first), torch.from_numpy(columns)
            found[inside] = product[at[0].to(product.device), at[1].to(product.device)].cpu().numpy()
    return found


def _count_before(pairs: _Pairs, tiles: Iterable[_Tile], span: int, width: int) -> np.ndarray:
    """For each pair, the gallery entries that come before it in its row's stable order, junk included: int64 [N].

    pairs: nearest first. Raises: _Differs when a tile holds another similarity for a pair.
    """
    just_below = np.nextafter(pairs.similarity, -np.inf, dtype=pairs.similarity.dtype)
    offsets = np.searchsorted(pairs.row, np.arange(len(pairs.queries) + 1))
    of_block, members = _by_tile(pairs, span, width)
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
    """Where a tile's own pairs are: number among the pairs of its rows, row and column in the tile. int64 [n] each."""

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
        raise _Differs
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
            raise _Differs
        is_equal = tile[own_row] == threshold[pair, None]
        count[pair] += (is_equal & (columns < column[:, None])).sum(1)
    return count.cpu().numpy()


def _summary(pairs: _Pairs, before: np.ndarray, ranks: Sequence[int]) -> Ranking:
    """pairs: nearest first. before: entries before each, junk included."""
    offsets = np.searchsorted(pairs.row, np.arange(len(pairs.queries) + 1))

    def running(flags: np.ndarray) -> np.ndarray:  # how many of them so far in the row, this one included
        total = np.cumsum(flags)
        return total - np.concatenate(([0], total))[offsets[pairs.row]]

    match = pairs.is_match
    row, position = pairs.row[match], (1 + before - running(~match))[match]
    number = running(match)[match]  # 1 for the row's first match
    num_matches = np.bincount(row, minlength=len(pairs.queries))
    last = np.cumsum(num_matches) - 1
    first = position[last - num_matches + 1]
    average_precision = np.bincount(row, number / position, minlength=len(pairs.queries)) / num_matches
    per_query_ap = np.full(pairs.num_queries, np.nan)
    per_query_ap[pairs.queries] = average_precision
    first_match = np.full(pairs.num_queries, -1.0)
    first_match[pairs.queries] = first
    highest = _highest_from_here(number / position, row)
    at = (
        (last - num_matches + 1)[:, None]
        + np.maximum(np.ceil(RECALLS * num_matches[:, None] - 1e-9), 1).astype(int)
        - 1
    )
    return Ranking(
        cmc={rank: float(np.mean(first <= rank)) if rank <= pairs.num_gallery else None for rank in ranks},
        mAP=float(np.nanmean(per_query_ap)),
        mINP=float(np.mean(num_matches / position[last])),
        num_valid=len(pairs.queries),
        per_query_ap=per_query_ap,
        first_match=first_match,
        precision=highest[at].mean(0),
    )


def _highest_from_here(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Of each value (0…1), the highest among it and those after it in its row; rows ascend."""
    apart = 2.0 * (row[-1] - row)  # so that a row's lowest is above the highest of the rows behind it
    return np.maximum.accumulate((values + apart)[::-1])[::-1] - apart
