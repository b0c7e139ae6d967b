"""The checks of a whole source: a small record per entry, from which the run after a kill resumes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.conversion.checks import DIGEST_BYTES, Checked, check
from datasets.conversion.masks import Masks
from datasets.layouts.layout import Entry
from datasets.ordered_map import chunked_map
from datasets.sources import Offender, Source

_SETTLED_NS = 2_000_000_000  # file systems keep coarse time: a file changed just now may change again unnoticed


@dataclass(frozen=True)
class Findings:
    """The findings of N entries, in their order.

    digests: uint8 [N, 2, 16], of image and mask, zeros where unread. stamps: int64 [N, 4], size in bytes and time of change
    in ns of image and mask when they were checked; -1 where unknown. offenders: by the entry's number, where there are any.
    orientations: uint8 [N], of the images' EXIF, 1 where there is none.
    """

    digests: NDArray[np.uint8]
    stamps: NDArray[np.int64]
    offenders: dict[int, tuple[Offender, ...]]
    orientations: NDArray[np.uint8]

    @classmethod
    def empty(cls, num: int) -> Findings:
        """Of `num` entries that are not checked yet."""
        digests, stamps = np.zeros((num, 2, DIGEST_BYTES), np.uint8), np.full((num, 4), -1, np.int64)
        return cls(digests, stamps, {}, np.ones(num, np.uint8))

    def image(self, number: int) -> bytes:
        return self.digests[number, 0].tobytes()

    def mask(self, number: int) -> bytes:
        return self.digests[number, 1].tobytes()

    def to_bytes(self) -> bytes:
        """Digests, stamps and orientations. Offenders are left out: their entries count as unchecked."""
        stamps = self.stamps.copy()
        stamps[list(self.offenders)] = -1
        return self.digests.tobytes() + stamps.tobytes() + self.orientations.tobytes()

    @classmethod
    def of_bytes(cls, data: bytes, num: int) -> Findings | None:
        """The findings in `to_bytes`' bytes, None where they are not those of `num` entries."""
        if len(data) != num * (2 * DIGEST_BYTES + 32 + 1):
            return None
        digests = np.frombuffer(data, np.uint8, num * 2 * DIGEST_BYTES).reshape(num, 2, DIGEST_BYTES)
        stamps = np.frombuffer(data, np.int64, num * 4, offset=digests.size).reshape(num, 4)
        return cls(digests, stamps, {}, np.frombuffer(data, np.uint8, offset=digests.nbytes + stamps.nbytes))


def check_all(
    source: Source,
    entries: Sequence[Entry],
    masks: Masks | None,
    *,
    threads: int,
    before: Findings | None = None,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Checks every entry; entries unchanged since the findings `before` are not read again.

    progress: called with the number of entries done.
    """
    found = Findings.empty(len(entries))
    latest = time.time_ns() - _SETTLED_NS

    def check_one(number: int) -> tuple[tuple[int, int, int, int] | None, Checked | None]:
        stamp = _stamp(source, entries[number], masks, latest)
        if before is not None and stamp is not None and tuple(before.stamps[number]) == stamp:
            return stamp, None
        return stamp, check(source, entries[number], masks)

    done = 0
    for results in chunked_map(check_one, range(len(entries)), threads):
        for number, (stamp, checked) in enumerate(results, start=done):
            if stamp is not None:
                found.stamps[number] = stamp
            if checked is None and before is not None:
                found.digests[number] = before.digests[number]
                found.orientations[number] = before.orientations[number]
            elif checked is not None:
                found.digests[number] = np.frombuffer(checked.image + checked.mask, np.uint8).reshape(2, -1)
                found.orientations[number] = checked.orientation
                if checked.offenders:
                    found.offenders[number] = checked.offenders
        done += len(results)
        if progress is not None:
            progress(done)
    return found


def _stamp(source: Source, entry: Entry, masks: Masks | None, latest: int) -> tuple[int, int, int, int] | None:
    """The stamps of image and mask; None where a file is missing or changed too recently."""
    try:
        image = source.stamp(entry.path)
        mask = (0, 0) if masks is None else masks.source.stamp(masks.path_of(entry.path))
    except OSError:
        return None
    return None if max(image[1], mask[1]) > latest else (*image, *mask)


def duplicates(findings: Findings, numbers: Sequence[int]) -> Iterator[list[int]]:
    """Groups of two and more entries, out of `numbers`, whose images are the same byte for byte."""
    wanted = np.asarray(numbers, dtype=np.int64)
    images = np.ascontiguousarray(findings.digests[wanted, 0]).view(f"V{DIGEST_BYTES}").ravel()
    order = np.argsort(images, kind="stable")
    begins = np.flatnonzero(np.append(True, images[order][1:] != images[order][:-1]))
    ends = np.append(begins[1:], len(order))
    for begin, end in zip(begins[ends - begins > 1], ends[ends - begins > 1], strict=True):
        yield wanted[order[begin:end]].tolist()


def output_digest(recipe: str, entries: Sequence[Entry], findings: Findings, numbers: Sequence[int]) -> bytes:
    """A digest of 32 bytes of all that is to be written: labels and bytes of the entries `numbers`, and the `recipe`."""
    whole = hashlib.sha256(recipe.encode())
    whole.update(findings.digests[np.asarray(numbers, dtype=np.int64)].tobytes())
    for number in numbers:
        whole.update(repr(entries[number]).encode())
    return whole.digest()
