"""Dot products of queries with a gallery, in tiles [queries, gallery block] of one shape: a pair has the same bits always."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from methods.matches import Pairs

Gallery: TypeAlias = Tensor | np.ndarray | Sequence[Tensor] | Callable[[], Iterable[Tensor]]


@dataclass(frozen=True, slots=True)
class Tile:
    """Similarities [q, g] of the rows from `row` on with the gallery entries from `start` on."""

    row: int
    start: int
    similarity: Tensor


def gallery_blocks(gallery: Gallery, num: int, size: int, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(index of the first row, rows [size, D]) in `like`'s dtype and device; the last is filled up with zeros.

    One size for all, so that products have one shape: `dot_products` says what depends on it.
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
            refuse_infinite(part, "gallery", start + num_held)
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

    In the last bit, products of MKL, OpenBLAS, cuBLAS and of one row at a time all differ from each other, and those of
    copies in one matrix may; oneDNN adds in the order of the dimensions, whatever the shapes. In float64 sums are exact. So
    equal features give equal similarities wherever they lie; in float32 on a GPU that is left to cuBLAS.
    """
    if query.dtype == torch.float64:
        return exact_sums(query, rows)
    if query.device.type == "cpu" and query.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return F.linear(query.to_mkldnn(), rows).to_dense()
    return query @ rows.T


def exact_sums(query: Tensor, rows: Tensor) -> Tensor:
    """Dot products [q, g] of float64 rows whose sums over the dimensions are exact, whatever adds them up and in which order.

    Ozaki et al., Numerical Algorithms 2012: each row is split into three parts of so few bits that products of parts, and
    their sums, fit into the 53 bits of a float64. It costs six matrix products; what is left out is below the rounding.
    """
    bits = (53 - (query.shape[1] - 1).bit_length()) // 2
    (q1, q2, q3), query_scale = parts_of(query, bits)
    (g1, g2, g3), row_scale = parts_of(rows.to(query.device), bits)
    third = q2 @ g2.T + q1 @ g3.T + q3 @ g1.T
    second = q1 @ g2.T + q2 @ g1.T
    return (third + second + q1 @ g1.T) * (query_scale * row_scale.T)


def parts_of(rows: Tensor, bits: int) -> tuple[list[Tensor], Tensor]:
    """Three parts of `bits` bits each that add up to float64 rows [N, D] over their scales, the powers of two [N, 1] that
    are just above each row's largest number."""
    largest = rows.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest / torch.frexp(largest).mantissa, torch.ones_like(largest))
    rest, parts = rows / scale, []
    for part in range(1, 4):
        unit = 2.0 ** (part * bits)
        parts.append((rest * unit).round() / unit)
        rest = rest - parts[-1]
    return parts, scale


def _pieces(gallery: Gallery, size: int) -> Iterable[Tensor]:
    if isinstance(gallery, np.ndarray):  # copies: a memory map may be read-only, which tensors cannot be
        return (torch.from_numpy(np.array(gallery[at : at + size])) for at in range(0, len(gallery), size))
    if isinstance(gallery, Tensor):
        return (gallery,)
    return gallery() if callable(gallery) else gallery


def refuse_infinite(features: Tensor, name: str, start: int) -> None:
    if not torch.isfinite(features.sum()):  # cheaper than asking each; a sum of normalised features never overflows
        bad = (~torch.isfinite(features)).any(1).nonzero().flatten()
        if len(bad):
            raise ValueError(f"{name} features are not finite, first at row {start + int(bad[0])}")


def by_tile(pairs: Pairs, span: int, width: int) -> tuple[np.ndarray, Callable[[int, int], np.ndarray]]:
    """Number of each pair's gallery block, and (row, start) of a tile → the pairs in it."""
    of_block, num_spans = pairs.gallery // width, -(-len(pairs.queries) // span)
    tile = of_block * num_spans + pairs.row // span
    order = np.argsort(tile, kind="stable")
    bounds = np.searchsorted(tile[order], np.arange(-(-pairs.num_gallery // width) * num_spans + 1))

    def members(row: int, start: int) -> np.ndarray:
        at = start // width * num_spans + row // span
        return order[bounds[at] : bounds[at + 1]]

    return of_block, members


def pair_similarities(
    pairs: Pairs, query: Tensor, blocks: Iterable[tuple[int, Tensor]], span: int, width: int, whole: bool
) -> np.ndarray:
    """Similarity of each pair [N]. `whole`: from products of the very shape that the second pass has."""
    found = np.empty(len(pairs.row), dtype=np.float64 if query.dtype == torch.float64 else np.float32)
    _, members = by_tile(pairs, span, width)
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
