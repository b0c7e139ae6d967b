"""A public data set's folder or archive → a data set: everything is checked first, then written, images byte for byte."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import pyarrow as pa

from datasets.errors import CorruptData, DataError
from datasets.findings import Findings, ahead, check_all, plan_digest, twins
from datasets.grouping import cluster_key
from datasets.layouts import LAYOUTS, Entry, Layout, Offender, Reading
from datasets.layouts.reading import read_layout
from datasets.manifest import MANIFEST, Manifest
from datasets.masks import Masks, in_size_of, mask_name, open_masks
from datasets.protocols import PROTOCOLS
from datasets.schema import LABEL_MAPS, Sample
from datasets.source_checks import MAX_FILE_BYTES, digest
from datasets.source_counts import Count, counts, lonely_queries, same_images, shared_clothes
from datasets.sources import Source
from datasets.store import PATIENT, Store, open_store
from datasets.unfinished import Unfinished, forget
from datasets.writer import ROW_GROUP_BYTES, SHARD_BYTES, Resumption, write_dataset

Progress = Callable[[str, int, int], None]
_SHOWN, _WARNINGS_SHOWN = 5, 50
_CHECKS = "checks"
_FORMAT = 1  # of what is written; another one does not go on where this one ended


class DamagedSource(DataError):  # noqa: N818  (what it is, said plainly)
    """The source has offenders; nothing was written. The message lists every one with its path, problem and remedy."""

    def __init__(self, text: str, offenders: Sequence[Offender]) -> None:
        super().__init__(text)
        self.offenders = tuple(offenders)


@dataclass(frozen=True)
class Conversion:
    """What was converted, or would be.

    counts: found beside official. notes: what is no mistake, but may be wondered at. passed_over: reason → paths of files
    that are no samples. quarantined: set aside. taken_up: images in shards that an interrupted conversion had finished.
    manifest: of the data set written; None after a dry run.
    """

    layout: str
    counts: list[Count]
    warnings: list[str]
    notes: list[str]
    passed_over: dict[str, list[str]]
    quarantined: list[Offender]
    taken_up: int
    manifest: Manifest | None

    def lines(self) -> list[str]:
        """For people: counts beside the official ones, then what to know."""
        told = [str(count) for count in self.counts]
        told += [f"note: {note}" for note in self.notes]
        told += [f"warning: {warning}" for warning in self.warnings[:_WARNINGS_SHOWN]]
        if (more := len(self.warnings) - _WARNINGS_SHOWN) > 0:
            told.append(f"warning: and {more:,} more (--json has them all)")
        told += [f"passed over, {reason}: {_some(paths)}" for reason, paths in self.passed_over.items()]
        told += [f"set aside: {offender}" for offender in self.quarantined]
        if self.taken_up:
            told.append(
                f"went on where a conversion was interrupted: {self.taken_up:,} images were there already, verified"
            )
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
    """Converts `source`, a folder as its authors hand it out or an archive of it, to a data set at the address `destination`.

    layout: a name of LAYOUTS. parsing: folder or archive of masks; labels: their label map. quarantine: set offenders aside
    and record them in the manifest. resize_masks: bring masks to their images' sizes, nearest. without: splits to leave out.
    protocol, version, licence: in place of the layout's own. threads: default one per processor at hand.
    progress: called with what is done ("read" an archive, "check", "resume", "write"), how much of it, and how much in all:
    bytes of the archive, else images.

    A conversion that was killed leaves shards and notes (`datasets.unfinished`); the same conversion, run again, keeps the
    shards that are whole and gives the same data set as an undisturbed one. Memory holds labels and digests, two row groups,
    and a few images on their way.

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
    with contextlib.closing(reading.source):
        masks = None
        if parsing is not None and label_map is not None:
            images = [entry.path for entry in reading.entries]
            masks = open_masks(
                parsing, label_map, resize=resize_masks, images=images, of=reading.source, progress=tell.bytes_read
            )
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
            raise DamagedSource(_report(layout, reading, offenders, masks), offenders)

        kept = [number for number in range(len(entries)) if number not in findings.offenders]
        samples = [entries[number] for number in kept]
        _refuse_empty(plan, reading, protocol, samples, tuple(without))
        conversion = Conversion(
            layout,
            counts(plan, samples),
            reading.warnings + _warnings(protocol, reading, samples, masks, _same(entries, findings, kept)),
            _notes(reading, samples),
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
            extra=reading.extra | _record(plan, offenders, masks),
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


def _report(layout: str, reading: Reading, offenders: Sequence[Offender], masks: Masks | None) -> str:
    num = len(offenders)
    missing = sum(offender.problem.startswith("mask missing") for offender in offenders)
    hint = ""
    if masks is not None and missing and missing == len(reading.entries):
        hint = (
            f"\nNo image has its mask in {masks.source.where()}: is it the right folder? "
            "A mask has its image's path, with .png."
        )
    return (
        f"{layout} at {reading.source.where()} has {num} offender{'s' if num > 1 else ''}; nothing was written"
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
            f"{reading.source.where()} has no usable image for {' or '.join(empty) or 'any split'}{where}; "
            "nothing was written. Look at the source, or leave the split out"
        )


def _warnings(
    protocol: str,
    reading: Reading,
    samples: Sequence[Entry],
    masks: Masks | None,
    same: Iterable[Sequence[Entry]],
) -> list[str]:
    found = lonely_queries(PROTOCOLS[protocol], samples) + same_images(same)
    if masks is None:
        return found
    if not masks.source.is_same(reading.source):
        found += masks.source.warnings
    if orphans := masks.orphans((entry.path for entry in reading.entries), reading.source):
        found.append(f"masks without an image: {_some(orphans)}")
    return found


def _notes(reading: Reading, samples: Sequence[Entry]) -> list[str]:
    pseudo = reading.extra.get("clothes")
    shared = None if pseudo else shared_clothes(samples)
    return ([f"clothes are {pseudo}"] if pseudo else []) + ([shared] if shared else [])


def _record(plan: Layout, offenders: Sequence[Offender], masks: Masks | None) -> dict[str, Any]:
    """What the manifest keeps of a conversion; no path of this machine."""
    here = "" if masks is None else masks.source.where("x").removesuffix("x")
    aside = [
        {"path": offender.path, "problem": offender.problem.replace(here, "") if here else offender.problem}
        for offender in offenders
    ]
    return {"layout": plan.name, "official": dict(plan.official)} | ({"quarantined": aside} if aside else {})


def _some(paths: Sequence[str]) -> str:
    rest = len(paths) - _SHOWN
    return f"{len(paths)} ({', '.join(paths[:_SHOWN])}{f' and {rest} more' if rest > 0 else ''})"
