"""The checks of a whole source: what was found of each entry, held small, and taken up again by the run after a kill."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets.conversion.checks import DIGEST_BYTES, Checked, check
from datasets.conversion.masks import Masks, mask_name
from datasets.layouts.layout import Entry
from datasets.ordered_map import chunked_map
from datasets.sources import Offender, Source

_SETTLED_NS = 2_000_000_000  # file systems keep time coarsely: what changed just now may change again unseen


@dataclass(frozen=True)
class Findings:
    """Of N entries, in their order.

    digests: uint8 [N, 2, 16], of image and mask as they are, zeros where unread. stamps: int64 [N, 4], bytes and time of
    change of image and mask when they were checked; -1 where they say nothing. offenders: by entry, of those that have any.
    """

    digests: NDArray[np.uint8]
    stamps: NDArray[np.int64]
    offenders: dict[int, tuple[Offender, ...]]

    def image(self, number: int) -> bytes:
        return self.digests[number, 0].tobytes()

    def mask(self, number: int) -> bytes:
        return self.digests[number, 1].tobytes()

    def to_bytes(self) -> bytes:
        """Offenders are left out: their entries count as unchecked."""
        stamps = self.stamps.copy()
        stamps[list(self.offenders)] = -1
        return self.digests.tobytes() + stamps.tobytes()

    @classmethod
    def of_bytes(cls, data: bytes, num: int) -> Findings | None:
        """None where the bytes are not those of `num` entries."""
        if len(data) != num * (2 * DIGEST_BYTES + 32):
            return None
        digests = np.frombuffer(data, np.uint8, num * 2 * DIGEST_BYTES).reshape(num, 2, DIGEST_BYTES)
        return cls(digests, np.frombuffer(data, np.int64, offset=digests.size).reshape(num, 4), {})


def check_all(
    source: Source,
    entries: Sequence[Entry],
    masks: Masks | None,
    *,
    threads: int,
    before: Findings | None = None,
    progress: Callable[[int], None] | None = None,
) -> Findings:
    """Checks every entry; those that did not change since `before` was found are not read again.

    progress: called with the entries done.
    """
    found = Findings(np.zeros((len(entries), 2, DIGEST_BYTES), np.uint8), np.full((len(entries), 4), -1, np.int64), {})
    latest = time.time_ns() - _SETTLED_NS

    def look(number: int) -> tuple[tuple[int, int, int, int] | None, Checked | None]:
        stamp = _stamp(source, entries[number], masks, latest)
        if before is not None and stamp is not None and tuple(before.stamps[number]) == stamp:
            return stamp, None
        return stamp, check(source, entries[number], masks)

    done = 0
    for results in chunked_map(look, range(len(entries)), threads):
        for number, (stamp, checked) in enumerate(results, start=done):
            if stamp is not None:
                found.stamps[number] = stamp
            if checked is None and before is not None:
                found.digests[number] = before.digests[number]
            elif checked is not None:
                found.digests[number] = np.frombuffer(checked.image + checked.mask, np.uint8).reshape(2, -1)
                if checked.offenders:
                    found.offenders[number] = checked.offenders
        done += len(results)
        if progress is not None:
            progress(done)
    return found


def _stamp(source: Source, entry: Entry, masks: Masks | None, latest: int) -> tuple[int, int, int, int] | None:
    """Of image and mask; None where a file is not there or changed too lately to say."""
    try:
        image = source.stamp(entry.path)
        mask = (0, 0) if masks is None else masks.source.stamp(mask_name(entry.path))
    except OSError:
        return None
    return None if max(image[1], mask[1]) > latest else (*image, *mask)


def duplicates(findings: Findings, numbers: Sequence[int]) -> Iterator[list[int]]:
    """Entries out of `numbers` whose images are the same byte for byte, in groups of two and more."""
    asked = np.asarray(numbers, dtype=np.int64)
    images = np.ascontiguousarray(findings.digests[asked, 0]).view(f"V{DIGEST_BYTES}").ravel()
    order = np.argsort(images, kind="stable")
    begins = np.flatnonzero(np.append(True, images[order][1:] != images[order][:-1]))
    ends = np.append(begins[1:], len(order))
    for begin, end in zip(begins[ends - begins > 1], ends[ends - begins > 1], strict=True):
        yield asked[order[begin:end]].tolist()


def plan_digest(about: str, entries: Sequence[Entry], findings: Findings, numbers: Sequence[int]) -> bytes:
    """32 bytes that stand for all that is to be written: labels and bytes of the entries `numbers`, and `about`."""
    whole = hashlib.sha256(about.encode())
    whole.update(findings.digests[np.asarray(numbers, dtype=np.int64)].tobytes())
    for number in numbers:
        whole.update(repr(entries[number]).encode())
    return whole.digest()
