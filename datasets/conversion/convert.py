"""A public data set's folder or archive → a data set: everything is checked first, then written, images byte for byte."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa

from datasets.conversion.checks import MAX_FILE_BYTES, digest
from datasets.conversion.counts import counts
from datasets.conversion.findings import Findings, ahead, check_all, plan_digest, twins
from datasets.conversion.masks import Masks, in_size_of, mask_name, open_masks
from datasets.conversion.report import Conversion, DamagedSource, notes_of, record, refuse_empty, report, warnings_of
from datasets.errors import CorruptData, DataError
from datasets.format.manifest import MANIFEST
from datasets.format.schema import Sample
from datasets.images.label_maps import LABEL_MAPS
from datasets.layouts import LAYOUTS, Entry, Layout, Offender, Reading
from datasets.layouts.reading import read_layout
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.grouping import cluster_key
from datasets.shards.unfinished import Unfinished, forget
from datasets.shards.writer import ROW_GROUP_BYTES, SHARD_BYTES, Resumption, write_dataset
from datasets.sources import Source
from datasets.storage.store import PATIENT, Store, open_store

__all__ = ["Conversion", "DamagedSource", "convert"]

Progress = Callable[[str, int, int], None]
_CHECKS = "checks"
_FORMAT = 1  # of what is written; another one does not go on where this one ended


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
    """Converts `source`, a folder as its authors hand it out or an archive of it, to a data set at the address `destination`.

    layout: a name of LAYOUTS. parsing: folder or archive of masks; labels: their label map. quarantine: set offenders aside
    and record them in the manifest. resize_masks: bring masks to their images' sizes, nearest. without: splits to leave out.
    protocol, version, licence: in place of the layout's own. threads: default one per processor at hand.
    progress: called with what is done ("read" an archive, "check", "resume", "write"), how much of it, and how much in all:
    bytes of the archive, else images.

    A conversion that was killed leaves shards and notes (`datasets.shards.unfinished`); the same conversion, run again, keeps
    the shards that are whole and gives the same data set as an undisturbed one. Memory holds labels and digests, two row
    groups, and a few images on their way.

    Raises: DamagedSource, a DataError, listing every offender; DataError when the source is not the layout's, a
    split is empty, or a data set is there already; both before anything is written. CorruptData when a file changes
    between check and write; StoreError.
    """
    plan = _layout(layout)
    label_map = None if parsing is None else _chosen("label map", labels, LABEL_MAPS)
    protocol = _chosen("protocol", protocol or plan.protocol, PROTOCOLS).name
    store = open_store(destination)
    if not (dry_run or overwrite):
        _refuse_finished(store)
    store = open_store(destination, retry=PATIENT)
    threads = threads or len(os.sched_getaffinity(0))
    tell = _Teller(progress)

    reading = read_layout(plan, source, known=LAYOUTS.values(), without=without, progress=tell.bytes_read)
    with contextlib.ExitStack() as opened:
        opened.callback(reading.source.close)
        masks = None
        if parsing is not None and label_map is not None:
            images = [entry.path for entry in reading.entries]
            masks = open_masks(
                parsing, label_map, resize=resize_masks, images=images, of=reading.source, progress=tell.bytes_read
            )
            opened.callback(masks.source.close)
        order = {split: at for at, split in enumerate(plan.places)}
        entries = sorted(reading.entries, key=lambda e: (order.get(e.split, len(order)), e.split, cluster_key(e)))
        how = _how(plan, masks, row_group_bytes, shard_bytes)
        checks = Unfinished(store, _checks_plan(how, reading, masks, entries))
        before = None if dry_run else Findings.of_bytes(checks.recall(_CHECKS) or b"", len(entries))
        findings = check_all(
            reading.source, entries, masks, threads=threads, before=before, progress=tell.of("check", len(entries))
        )
        offenders = _offenders(reading, masks, findings)
        if offenders and not quarantine:
            raise DamagedSource(report(layout, reading, offenders, masks), offenders)

        kept = [number for number in range(len(entries)) if number not in findings.offenders]
        samples = [entries[number] for number in kept]
        refuse_empty(plan, reading, protocol, samples, tuple(without))
        conversion = Conversion(
            layout,
            counts(plan, samples),
            reading.warnings + warnings_of(protocol, reading, samples, masks, _same(entries, findings, kept)),
            notes_of(reading, samples),
            reading.passed_over,
            offenders,
            0,
            None,
        )
        if dry_run:
            return conversion
        notes = Unfinished(store, plan_digest(how, entries, findings, kept))
        splits = {
            split: list(numbers) for split, numbers in itertools.groupby(kept, key=lambda number: entries[number].split)
        }
        resumption = Resumption(notes, notes.finished(splits, tell.of("resume", len(kept))))
        taken_up = sum(map(resumption.num_rows, splits))
        if not taken_up:
            forget(store)
        checks.remember(_CHECKS, findings.to_bytes())
        manifest = write_dataset(
            destination,
            {
                split: _read(reading.source, entries, findings, numbers[resumption.num_rows(split) :], masks, threads)
                for split, numbers in splits.items()
            },
            name=layout,
            version=version or plan.version,
            licence=licence or plan.licence,
            label_map=None if label_map is None else label_map.name,
            protocol=protocol,
            extra=reading.extra | record(plan, offenders, masks),
            row_group_bytes=row_group_bytes,
            shard_bytes=shard_bytes,
            progress=tell.of("write", len(kept)),
            overwrite=overwrite,
            resumption=resumption,
        )
    return dataclasses.replace(conversion, taken_up=taken_up, manifest=manifest)


class _Teller:
    """Hands a stage's progress on, where anybody listens."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def of(self, stage: str, total: int) -> Callable[[int], None] | None:
        progress = self._progress
        return None if progress is None else lambda done: progress(stage, done, total)

    @property
    def bytes_read(self) -> Callable[[int, int], None] | None:
        progress = self._progress
        return None if progress is None else lambda done, total: progress("read", done, total)


def _refuse_finished(store: Store) -> None:
    if store.exists(MANIFEST):
        forget(store)  # of a conversion that was killed after its last step but one
        raise DataError(f"{store.address} holds a finished data set; choose another address or ask to overwrite it")


def _how(plan: Layout, masks: Masks | None, row_group_bytes: int, shard_bytes: int) -> str:
    """All that decides which bytes a sample becomes, beside its own."""
    libraries = pa.__version__, PIL.__version__ if masks is not None and masks.resize else None
    label_map = None if masks is None else (masks.label_map.name, masks.resize)
    return repr((_FORMAT, libraries, plan.name, label_map, row_group_bytes, shard_bytes))


def _checks_plan(how: str, reading: Reading, masks: Masks | None, entries: Sequence[Entry]) -> bytes:
    """Stands for the files that are checked, whatever is in them."""
    whole = hashlib.sha256(repr((how, reading.source.where(), masks and masks.source.where())).encode())
    for entry in entries:
        whole.update(entry.path.encode() + b"\0")
    return whole.digest()


def _offenders(reading: Reading, masks: Masks | None, findings: Findings) -> list[Offender]:
    of_masks = [] if masks is None or masks.source.is_same(reading.source) else list(masks.source.offenders)
    return reading.offenders + of_masks + [one for found in findings.offenders.values() for one in found]


def _same(entries: Sequence[Entry], findings: Findings, kept: Sequence[int]) -> Iterator[list[Entry]]:
    """Entries with one image, byte for byte."""
    return ([entries[number] for number in numbers] for numbers in twins(findings, kept))


def _layout(name: str) -> Layout:
    return _chosen("layout", name, LAYOUTS)


def _chosen(kind: str, name: str, known: Any) -> Any:
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 1)
    meant = f" Meant {close[0]}?" if close else ""
    raise DataError(f"there is no {kind} {name!r}; there are {', '.join(known)}.{meant}")


def _read(
    source: Source,
    entries: Sequence[Entry],
    findings: Findings,
    numbers: Sequence[int],
    masks: Masks | None,
    threads: int,
) -> Iterator[Sample]:
    """The samples of some entries, read ahead."""

    def sample(number: int) -> Sample:
        entry = entries[number]
        try:
            image = source.read(entry.path, MAX_FILE_BYTES)
            mask = None if masks is None else masks.source.read(mask_name(entry.path), MAX_FILE_BYTES)
        except OSError as error:
            raise CorruptData(
                f"{source.where(entry.path)} or its mask went away after it was checked: {error}"
            ) from error
        if (digest(image), digest(mask)) != (findings.image(number), findings.mask(number)):
            raise CorruptData(f"{source.where(entry.path)} or its mask changed after it was checked; convert again")
        if masks is not None and mask is not None and masks.resize:
            mask = in_size_of(image, mask, entry.path)
        labels = entry.person, entry.clothes, entry.camera, entry.sequence, entry.frame
        return Sample(image, mask, *labels, key=entry.path)

    for samples in ahead(numbers, sample, threads):
        yield from samples
