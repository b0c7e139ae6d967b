"""Chunks that show a person's outfits in proportion: IFD's modification of RAS (Xu et al., Sec. II-B).

RAS draws A outfits of each person and the same number of images of each; where most images show one outfit, most are never
drawn. IFD draws a number in proportion instead. The paper says no more; the following is our rule and its guarantee.

1. The number of chunks of K is unchanged: floor(n / K) of a person with n images, one where n < K.
2. A chunk shows A outfits, or all of a person with fewer. The first is the outfit of an image drawn at random, the others are
   drawn uniformly. So a set of outfits is drawn in proportion to its images (Midzuno's scheme).
3. The K places are allocated in proportion to the outfits' images. An outfit whose share is below one place gets one, and the
   others share the rest. One random number per chunk rounds the fractions up or down (systematic rounding): a
   count is within 1 of its share, the counts add up to K, and the expectation of each is its share.
4. An outfit's images are all drawn, in random order, before one is repeated; a chunk that needs more repeats them too.

Guarantee: within an outfit every image is drawn equally often. So it is between the outfits of a person, exactly, unless
step 3 raised a share to one place; rare outfits are then drawn more often than in proportion to their images.

Example: 18 images in outfit a, 9 in b, 3 in c; K = 4, A = 2, so 7 chunks an epoch. {a, b} is drawn with probability
0.6/2 + 0.3/2 = 0.45, {a, c} with 0.35, {b, c} with 0.2. In {a, b} a's share is 4 × 18/27 = 2.67 places: 3 + 1 in two
of three cases, else 2 + 2. In {a, c} c's share, 0.57, is raised: 3 + 1; {b, c} is 3 + 1 exactly. Together b has
0.45 × 1.33 + 0.2 × 3 = 1.2 of 4 places, in proportion to 9 of 30 images; c has 0.55 instead of 0.4, a 2.25 instead of 2.4.
"""

from __future__ import annotations

import numpy as np

from datasets.errors import DataError
from datasets.sampling.chunks import Chunks, grouped, num_chunks, starts

BLOCK_CHUNKS = 1 << 17  # processed at once: bounds the memory beside the result


def cut_by_appearance(
    person: np.ndarray, clothes: np.ndarray, images: int, appearances: int, rng: np.random.Generator
) -> Chunks:
    """Chunks of `images` samples from `appearances` outfits of a person. Samples of one outfit are contiguous.

    person, clothes: int [N], classes from 0; a clothes class belongs to one person.
    Raises: DataError when a sample has no clothes label, or `appearances` is not within 1 … `images`.
    """
    if (clothes < 0).any():
        raise DataError(
            f"the sampler by appearance needs a clothes label of every image, and {int((clothes < 0).sum())} of "
            f"{len(clothes)} have none; set batch.sampler=distinct and batch.appearances=null, or use a data set with "
            "clothes labels"
        )
    if not 1 <= appearances <= images:
        raise DataError(
            f"{images} images of a person cannot show {appearances} outfits; set batch.appearances to 1 … {images}, or "
            f"batch.images to at least {appearances}"
        )
    outfit, first_outfit = _by_person(person, clothes)
    order = grouped(outfit, rng)  # outfit by outfit, so person by person
    size = np.bincount(outfit, minlength=first_outfit[-1])  # images of each outfit
    begin = starts(size)
    counts = np.diff(begin[first_outfit])
    first = starts(num_chunks(counts, images))
    owner = np.repeat(np.arange(len(counts)), np.diff(first))
    rows = np.empty((first[-1], images), order.dtype)
    used = np.zeros(len(size), dtype=np.int64)  # how many of an outfit's images were drawn
    for start in range(0, len(owner), BLOCK_CHUNKS):
        who = owner[start : start + BLOCK_CHUNKS]
        at = begin[first_outfit[who]] + (rng.random(len(who)) * counts[who]).astype(np.int64)
        shown = np.searchsorted(begin, at, side="right") - 1 - first_outfit[who]
        shown = _with_others(shown, np.diff(first_outfit)[who], appearances, rng)
        is_there = shown >= 0
        shown = np.where(is_there, shown + first_outfit[who, None], 0)
        places = allocate_places(np.where(is_there, size[shown], 0), images, rng)
        rows[start : start + len(who)] = order[_in_turn(shown.ravel(), places.ravel(), begin, size, used)].reshape(
            -1, images
        )
    return Chunks(rows, first)


def allocate_places(weights: np.ndarray, places: int, rng: np.random.Generator) -> np.ndarray:
    """Allocates `places` in each row in proportion, at least one to every positive weight: int64 [C, A].

    weights: int64 [C, A], at most `places` of a row positive. Integers throughout, so that sums and shares are exact.
    """
    has_one = np.zeros(weights.shape, dtype=np.bool_)
    while True:
        rest = places - has_one.sum(1, keepdims=True)
        shared = np.where(has_one, 0, weights)
        total = shared.sum(1, keepdims=True)
        is_low = (shared > 0) & (rest * shared < total)
        if not is_low.any():
            break
        has_one |= is_low
    offset = (rng.random((len(weights), 1)) * total).astype(np.int64)
    return has_one + np.diff((rest * shared.cumsum(1) + offset) // total, axis=1, prepend=0)


def _by_person(person: np.ndarray, clothes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each sample's outfit, int64 [N], numbered person by person; person i has first[i] … first[i + 1] - 1."""
    owner = np.full(int(clothes.max()) + 1, -1)
    owner[clothes] = person
    worn = np.argsort(owner, kind="stable")[np.count_nonzero(owner < 0) :]
    number = np.empty(len(owner), dtype=np.int64)
    number[worn] = np.arange(len(worn))
    return number[clothes], starts(np.bincount(owner[worn], minlength=int(person.max()) + 1))


def _with_others(one: np.ndarray, num: np.ndarray, appearances: int, rng: np.random.Generator) -> np.ndarray:
    """Adds distinct random outfits to `one` of each row's `num` outfits: int64 [C, appearances], -1 beyond num."""
    beyond = np.iinfo(np.int64).max
    shown = np.full((len(one), appearances), beyond)
    shown[:, 0] = one
    for i in range(1, appearances):
        another = (rng.random(len(one)) * (num - i)).astype(np.int64)  # among those not shown yet
        for before in np.sort(shown[:, :i], axis=1).T:
            another += another >= before
        shown[:, i] = np.where(i < num, another, beyond)
    return np.where(shown == beyond, -1, shown)


def _in_turn(
    outfit: np.ndarray, places: np.ndarray, begin: np.ndarray, size: np.ndarray, used: np.ndarray
) -> np.ndarray:
    """The next images of each outfit, cyclically: positions in the order by outfit, int64 [sum of places].

    outfit, places: int64 [M], the requests in order. begin, size: int64, of each outfit. used: int64, advanced in place.
    """
    by_outfit = np.argsort(outfit, kind="stable")
    before = starts(places[by_outfit])
    runs = np.flatnonzero(np.diff(outfit[by_outfit], prepend=-1))
    in_run = before[:-1] - np.repeat(before[runs], np.diff(runs, append=len(outfit)))
    turn = np.empty(len(outfit), dtype=np.int64)
    turn[by_outfit] = in_run + used[outfit[by_outfit]]
    used += np.bincount(outfit, places, len(used)).astype(np.int64)
    each = np.repeat(np.arange(len(outfit)), places)
    turn = turn[each] + np.arange(len(each)) - starts(places)[:-1][each]
    return begin[outfit[each]] + turn % size[outfit[each]]
