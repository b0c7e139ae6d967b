"""A public data set's directory → a data set: everything is checked first, then written, images byte for byte."""

from __future__ import annotations

import difflib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets.errors import CorruptData, DataError
from datasets.grouping import cluster_key
from datasets.layouts import LAYOUTS, Entry, Layout, Offender, Reading
from datasets.layouts.reading import read_layout
from datasets.manifest import MANIFEST, Manifest
from datasets.masks import Masks, in_size_of, mask_name, open_masks
from datasets.protocols import PROTOCOLS
from datasets.schema import LABEL_MAPS, Sample
from datasets.source_checks import Checked, check, digest
from datasets.source_counts import Count, counts, lonely_queries, same_images
from datasets.store import open_store
from datasets.writer import ROW_GROUP_BYTES, SHARD_BYTES, write_dataset

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[str, int, int], None]
_CHUNK = 32  # entries of one piece of work
_SHOWN = 5


class DamagedSource(DataError):  # noqa: N818  (what it is, said plainly)
    """The source has offenders; nothing was written. The message lists every one with its path, problem and remedy."""

    def __init__(self, text: str, offenders: Sequence[Offender]) -> None:
        super().__init__(text)
        self.offenders = tuple(offenders)


@dataclass(frozen=True)
class Conversion:
    """What was converted, or would be.

    counts: found beside official. passed_over: reason → paths of files that are no samples. quarantined: set aside.
    manifest: of the data set written; None after a dry run.
    """

    layout: str
    counts: list[Count]
    warnings: list[str]
    passed_over: dict[str, list[str]]
    quarantined: list[Offender]
    manifest: Manifest | None

    def lines(self) -> list[str]:
        """For people: counts beside the official ones, then what to know."""
        told = [str(count) for count in self.counts]
        told += [f"warning: {warning}" for warning in self.warnings]
        told += [f"passed over, {reason}: {_some(paths)}" for reason, paths in self.passed_over.items()]
        told += [f"set aside: {offender}" for offender in self.quarantined]
        return told


def convert(
    layout: str,
    source: str | Path,
    destination: str,
    *,
    parsing: str | Path | None = None,
    labels: str = "lip20",
    quarantine: bool = False,
    resize_masks: bool = False,
    dry_run: bool = False,
    without: Iterable[str] = (),
    protocol: str | None = None,
    version: str | None = None,
    licence: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    row_group_bytes: int = ROW_GROUP_BYTES,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> Conversion:
    """Converts the directory `source`, as its authors hand it out, to a data set at the address `destination`.

    layout: a name of LAYOUTS. parsing: folder of masks; labels: their label map. quarantine: set offenders aside and
    record them in the manifest. resize_masks: bring masks to their images' sizes, nearest. without: splits to leave out.
    protocol, version, licence: in place of the layout's own. threads: default one per processor at hand.
    progress: called with "check" or "write", images done, images in all.

    Memory holds labels and digests, one row group, and a few images on their way.

    Raises: DamagedSource, a DataError, listing every offender; DataError when the directory is not the layout's, a
    split is empty, or a data set is there already; both before anything is written. CorruptData when a file changes
    between check and write; StoreError.
    """
    plan = _layout(layout)
    label_map = None if parsing is None else _chosen("label map", labels, LABEL_MAPS)
    protocol = _chosen("protocol", protocol or plan.protocol, PROTOCOLS).name
    store = open_store(destination)
    if not (dry_run or overwrite) and store.exists(MANIFEST):
        raise DataError(f"{store.address} holds a finished data set; choose another address or ask to overwrite it")
    reading = read_layout(plan, source, known=LAYOUTS.values(), without=without)
    masks = None if parsing is None or label_map is None else open_masks(parsing, label_map, resize=resize_masks)
    threads = threads or len(os.sched_getaffinity(0))

    order = {split: at for at, split in enumerate(plan.places)}
    entries = sorted(reading.entries, key=lambda e: (order.get(e.split, len(order)), e.split, cluster_key(e)))
    checked = _check(reading.root, entries, masks, threads, progress)
    offenders = reading.offenders + [offender for found in checked for offender in found.offenders]
    if offenders and not quarantine:
        raise DamagedSource(_report(layout, reading, offenders, masks), offenders)

    kept = [(entry, found) for entry, found in zip(entries, checked, strict=True) if not found.offenders]
    samples = [entry for entry, _ in kept]
    _refuse_empty(plan, reading, protocol, samples, tuple(without))
    conversion = Conversion(
        layout,
        counts(plan, samples),
        reading.warnings + _warnings(protocol, reading, kept, masks),
        reading.passed_over,
        offenders,
        None,
    )
    if dry_run:
        return conversion
    manifest = write_dataset(
        destination,
        {
            split: _read(reading.root, list(rows), masks, threads)
            for split, rows in itertools.groupby(kept, key=lambda pair: pair[0].split)
        },
        name=layout,
        version=version or plan.version,
        licence=licence or plan.licence,
        label_map=None if label_map is None else label_map.name,
        protocol=protocol,
        extra=reading.extra | _record(plan, offenders, masks),
        row_group_bytes=row_group_bytes,
        shard_bytes=shard_bytes,
        progress=None if progress is None else lambda done: progress("write", done, len(kept)),
        overwrite=overwrite,
    )
    return Conversion(**{**vars(conversion), "manifest": manifest})


def _layout(name: str) -> Layout:
    return _chosen("layout", name, LAYOUTS)


def _chosen(kind: str, name: str, known: Any) -> Any:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    meant = f" Meant {close[0]}?" if close else ""
    raise DataError(f"there is no {kind} {name!r}; there are {', '.join(known)}.{meant}")


def _check(
    root: Path, entries: list[Entry], masks: Masks | None, threads: int, progress: Progress | None
) -> list[Checked]:
    """Every entry's findings, in order."""
    found: list[Checked] = []
    for some in _ahead(entries, lambda entry: check(root, entry, masks), threads):
        found += some
        if progress is not None:
            progress("check", len(found), len(entries))
    return found


def _read(root: Path, rows: Sequence[tuple[Entry, Checked]], masks: Masks | None, threads: int) -> Iterator[Sample]:
    """The samples of a split, read ahead."""
    for samples in _ahead(rows, lambda row: _sample(root, row[0], row[1], masks), threads):
        yield from samples


def _sample(root: Path, entry: Entry, checked: Checked, masks: Masks | None) -> Sample:
    try:
        image = (root / entry.path).read_bytes()
        mask = None if masks is None else (masks.root / mask_name(entry.path)).read_bytes()
    except OSError as error:
        raise CorruptData(f"{root / entry.path} or its mask went away after it was checked: {error}") from error
    if (digest(image), digest(mask)) != (checked.image, checked.mask):
        raise CorruptData(f"{root / entry.path} or its mask changed after it was checked; convert again")
    if masks is not None and mask is not None and masks.resize:
        mask = in_size_of(image, mask, entry.path)
    labels = entry.person, entry.clothes, entry.camera, entry.sequence, entry.frame
    return Sample(image, mask, *labels, key=entry.path)


def _ahead(items: Sequence[T], work: Callable[[T], R], threads: int) -> Iterator[list[R]]:
    """The results in order, some at a time, a few times ahead of the one who takes them."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[list[R]]] = deque()
        try:
            for at in range(0, len(items), _CHUNK):
                pending.append(pool.submit(_each, work, items[at : at + _CHUNK]))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]


def _report(layout: str, reading: Reading, offenders: Sequence[Offender], masks: Masks | None) -> str:
    num = len(offenders)
    missing = sum(offender.problem.startswith("mask missing") for offender in offenders)
    hint = ""
    if masks is not None and missing and missing == len(reading.entries):
        hint = (
            f"\nNo image has its mask in {masks.root}: is it the right folder? A mask has its image's path, with .png."
        )
    return (
        f"{layout} at {reading.root} has {num} offender{'s' if num > 1 else ''}; nothing was written"
        + "".join(f"\n  {offender}" for offender in offenders)
        + hint
        + "\nMend the source, or set them aside with --quarantine."
    )


def _refuse_empty(
    plan: Layout, reading: Reading, protocol: str, samples: list[Entry], without: tuple[str, ...]
) -> None:
    """A split that training or a mode needs has samples."""
    there = {entry.split for entry in samples}
    of_modes = {split for mode in PROTOCOLS[protocol].modes for split in (mode.query, mode.gallery)}
    needed = [split for split in plan.places if split == "train" or split in of_modes]
    empty = [split for split in needed if split not in there and split not in without]
    if empty or not samples:
        places = [place for split in empty for place in plan.places[split]]
        where = f" in {', '.join(dict.fromkeys(places))}" if places else ""
        raise DataError(
            f"{reading.root} has no usable image for {' or '.join(empty) or 'any split'}{where}; nothing was written. "
            f"Look at the source, or leave the split out"
        )


def _warnings(protocol: str, reading: Reading, kept: Sequence[tuple[Entry, Checked]], masks: Masks | None) -> list[str]:
    by_bytes: dict[bytes, list[Entry]] = {}
    for entry, checked in kept:
        by_bytes.setdefault(checked.image, []).append(entry)
    found = lonely_queries(PROTOCOLS[protocol], (entry for entry, _ in kept)) + same_images(by_bytes)
    if masks is not None and (orphans := masks.orphans((entry.path for entry in reading.entries), reading.root)):
        found.append(f"masks without an image: {_some(orphans)}")
    return found


def _record(plan: Layout, offenders: Sequence[Offender], masks: Masks | None) -> dict[str, Any]:
    """What the manifest keeps of a conversion; no path of this machine."""
    here = "" if masks is None else f"{masks.root}/"
    aside = [
        {"path": offender.path, "problem": offender.problem.replace(here, "") if here else offender.problem}
        for offender in offenders
    ]
    return {"layout": plan.name, "official": dict(plan.official)} | ({"quarantined": aside} if aside else {})


def _some(paths: Sequence[str]) -> str:
    rest = len(paths) - _SHOWN
    return f"{len(paths)} ({', '.join(paths[:_SHOWN])}{f' and {rest} more' if rest > 0 else ''})"
