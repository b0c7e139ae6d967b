"""A public data set's folder or archive → a data set: everything is checked first, then written, images byte for byte."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa

from datasets.conversion.checks import digest
from datasets.conversion.counts import counts
from datasets.conversion.findings import Findings, check_all, duplicates, output_digest
from datasets.conversion.labels import EntryLabels
from datasets.conversion.masks import Masks, in_size_of, open_masks
from datasets.conversion.report import (
    Conversion,
    notes_of,
    partly_labelled,
    record,
    refuse_empty,
    report,
    unused_splits,
    warnings_of,
)
from datasets.conversion.settings import ConversionSettings, check_texts, find_by_name
from datasets.errors import CorruptData, DamagedSource, DataError
from datasets.format.manifest import MANIFEST, Manifest
from datasets.format.schema import Sample
from datasets.images.decode import MAX_FILE_BYTES
from datasets.images.label_maps import LABEL_MAPS, LabelMap
from datasets.layouts import LAYOUTS, Entry, Layout, Offender, Reading
from datasets.layouts.reading import read_layout
from datasets.ordered_map import chunked_map
from datasets.protocols.prospects import prospects, protocol_warnings
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.exclusive import exclusive
from datasets.shards.grouping import cluster_key
from datasets.shards.unfinished import Unfinished, forget
from datasets.shards.writer import Resumption, write_dataset
from datasets.storage.store import PATIENT, Store, open_store

__all__ = ["Conversion", "ConversionSettings", "DamagedSource", "convert"]

Progress = Callable[[str, int, int], None]
DEFAULTS = ConversionSettings()
PERSON_AS_CLOTHES = "person"  # the label; classes are pairs of person and label
_CHECKS = "checks"
_FORMAT = 1  # of the output; a conversion does not resume one of another format


def convert(
    layout: str,
    source: str | Path,
    destination: str,
    settings: ConversionSettings = DEFAULTS,
    *,
    progress: Progress | None = None,
) -> Conversion:
    """Converts a public data set to a data set at the address `destination`.

    layout: a name of LAYOUTS. source: the folder as its authors distribute it, or an archive of it. settings: see
    `ConversionSettings`.
    progress: called with the stage ("read" an archive, "check", "resume", "write"), the amount done and the total: bytes of
    the archive, else images.

    A killed conversion leaves shards and notes (`datasets.shards.unfinished`). The same conversion, run again, keeps
    the shards that are whole and gives the same data set as an undisturbed one. Memory holds labels and digests, two row
    groups, and the few images that are being read.

    Raises: DamagedSource, a DataError, with every offender; DataError when the source is not the layout's, a
    split is empty, or a data set is there already; both before anything is written. CorruptData when a file changes
    between check and write; StoreError.
    """
    chosen = find_by_name("layout", layout, LAYOUTS)
    check_texts(settings)
    label_map = None if settings.parsing is None else find_by_name("label map", settings.labels, LABEL_MAPS)
    if settings.protocol is not None:
        find_by_name("protocol", settings.protocol, PROTOCOLS)
    store = open_store(destination)
    if not settings.dry_run:
        _refuse_source(store, source, settings.parsing)
        if not settings.overwrite:
            _refuse_finished(store)
    store = open_store(destination, retry=PATIENT)
    adapter = ProgressAdapter(progress)

    with contextlib.ExitStack() as opened:
        if not settings.dry_run:
            opened.enter_context(exclusive(store.address))
        inputs = _open_inputs(chosen, source, label_map, settings, adapter, opened)
        findings = _check_inputs(inputs, store, settings, adapter)
        offenders = _offenders(inputs, findings)
        if offenders and not settings.quarantine:
            raise DamagedSource(report(layout, inputs.reading, offenders, inputs.masks), offenders)
        kept = [number for number in range(len(inputs.entries)) if number not in findings.offenders]
        conversion = _summarise(inputs, findings, kept, offenders, settings.without)
        if settings.dry_run:
            return conversion
        resumption = _find_resumption(inputs, findings, kept, store, adapter)
        description = {
            "name": settings.name or layout,
            "version": settings.version or chosen.version,
            "licence": settings.licence or chosen.licence,
            "label_map": None if label_map is None else label_map.name,
            "protocol": inputs.protocol,
            "extra": inputs.reading.extra | record(chosen, offenders, inputs.masks),
        }
        manifest = _write(inputs, findings, kept, resumption, destination, description, settings, adapter)
    num_resumed = sum(map(resumption.num_rows, resumption.kept))
    return dataclasses.replace(conversion, num_resumed=num_resumed, manifest=manifest)


class ProgressAdapter:
    """Adapts the callback of a conversion to those of its stages; None where there is no callback."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def of_stage(self, stage: str, total: int) -> Callable[[int], None] | None:
        progress = self._progress
        return None if progress is None else lambda done: progress(stage, done, total)

    @property
    def of_archive(self) -> Callable[[int, int], None] | None:
        progress = self._progress
        return None if progress is None else lambda done, total: progress("read", done, total)


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a conversion. entries: in the order in which they are written. recipe: see `_recipe`."""

    layout: Layout
    protocol: str
    reading: Reading
    masks: Masks | None
    entries: Sequence[Entry]
    threads: int
    recipe: str

    def checks_digest(self) -> bytes:
        """A digest of the paths of all files that are checked, whatever their content."""
        places = self.reading.source.where(), self.masks and self.masks.source.where()
        whole = hashlib.sha256(repr((self.recipe, *places)).encode())
        for entry in self.entries:
            whole.update(entry.path.encode() + b"\0")
        return whole.digest()


def _refuse_source(store: Store, source: str | Path, masks: str | Path | None) -> None:
    """Raises: DataError when shards would be written into a folder that is read."""
    if not store.is_local:
        return
    destination = Path(store.address).resolve()
    for what, place in (("source", source), ("folder of masks", masks)):
        if place is not None and os.path.isdir(place) and destination.is_relative_to(Path(place).resolve()):
            raise DataError(f"{store.address} is in the {what} {place}; choose a destination outside of it")


def _refuse_finished(store: Store) -> None:
    if store.exists(MANIFEST):
        forget(store)  # notes of a conversion that was killed between its manifest and its end
        raise DataError(
            f"{store.address} holds a finished data set; choose another address, or replace it with --overwrite"
        )


def _open_inputs(
    layout: Layout,
    source: str | Path,
    label_map: LabelMap | None,
    settings: ConversionSettings,
    adapter: ProgressAdapter,
    opened: contextlib.ExitStack,
) -> _Inputs:
    """Reads names and lists, opens the masks, and sorts the entries; `opened` closes both sources."""
    reading = read_layout(layout, source, known=LAYOUTS.values(), without=settings.without, progress=adapter.of_archive)
    opened.callback(reading.source.close)
    protocol = settings.protocol or layout.protocol_of(reading.entries)
    if settings.person_as_clothes:
        reading = _with_person_as_clothes(layout, reading)
    masks = None
    if settings.parsing is not None and label_map is not None:
        masks = open_masks(
            settings.parsing,
            label_map,
            resize=settings.resize_masks,
            images=[entry.path for entry in reading.entries],
            of=reading.source,
            progress=adapter.of_archive,
        )
        opened.callback(masks.source.close)
    order = {split: at for at, split in enumerate(layout.places)}
    entries = sorted(reading.entries, key=lambda e: (order.get(e.split, len(order)), e.split, cluster_key(e)))
    threads = settings.threads or len(os.sched_getaffinity(0))
    return _Inputs(layout, protocol, reading, masks, entries, threads, _recipe(layout, masks, settings))


def _with_person_as_clothes(layout: Layout, reading: Reading) -> Reading:
    """Raises: DataError when the layout's images have clothes labels."""
    if labelled := next((entry for entry in reading.entries if entry.clothes is not None), None):
        raise DataError(
            f"{layout.name} labels clothes ({labelled.path}: {labelled.clothes}); leave out --clothes person"
        )
    entries = [dataclasses.replace(entry, clothes=PERSON_AS_CLOTHES) for entry in reading.entries]
    note = "not labelled: each person's images count as one outfit (--clothes person)"
    return dataclasses.replace(reading, entries=entries, extra=reading.extra | {"clothes": note})


def _recipe(layout: Layout, masks: Masks | None, settings: ConversionSettings) -> str:
    """Everything except a sample's own bytes that decides which bytes are written for it."""
    libraries = pa.__version__, PIL.__version__ if masks is not None and masks.resize else None
    label_map = None if masks is None else (masks.label_map.name, masks.resize)
    return repr((_FORMAT, libraries, layout.name, label_map, settings.row_group_bytes, settings.shard_bytes))


def _check_inputs(inputs: _Inputs, store: Store, settings: ConversionSettings, adapter: ProgressAdapter) -> Findings:
    """Checks every entry; what a killed conversion has checked already is not read again."""
    num = len(inputs.entries)
    before = None
    if not settings.dry_run:
        before = Findings.of_bytes(Unfinished(store, inputs.checks_digest()).recall(_CHECKS) or b"", num)
    return check_all(
        inputs.reading.source,
        inputs.entries,
        inputs.masks,
        threads=inputs.threads,
        before=before,
        progress=adapter.of_stage("check", num),
    )


def _offenders(inputs: _Inputs, findings: Findings) -> list[Offender]:
    reading, masks = inputs.reading, inputs.masks
    of_masks = [] if masks is None or masks.source.is_same(reading.source) else list(masks.source.offenders)
    return reading.offenders + of_masks + [one for found in findings.offenders.values() for one in found]


def _summarise(
    inputs: _Inputs,
    findings: Findings,
    kept: Sequence[int],
    offenders: list[Offender],
    without: tuple[str, ...],
) -> Conversion:
    """Counts, warnings and notes of the entries `kept`. Raises: DataError when a needed split has none."""
    entries, reading, protocol = inputs.entries, inputs.reading, inputs.protocol
    samples = [entries[number] for number in kept]
    refuse_empty(inputs.layout, reading, protocol, samples, without)
    same = ([entries[number] for number in numbers] for numbers in duplicates(findings, kept))
    labels, scored = EntryLabels(samples), PROTOCOLS[protocol]
    foreseen = prospects(scored, labels)
    warnings = reading.warnings + warnings_of(protocol, reading, samples, inputs.masks, same)
    warnings += unused_splits(inputs.layout, protocol, samples) + protocol_warnings(scored, labels, foreseen)
    warnings += partly_labelled(labels)
    return Conversion(
        layout=inputs.layout.name,
        protocol=protocol,
        prospects=foreseen,
        counts=counts(inputs.layout, samples),
        warnings=warnings,
        notes=notes_of(reading, samples, findings.orientations[np.asarray(kept, dtype=np.int64)]),
        passed_over=reading.passed_over,
        quarantined=offenders,
        num_resumed=0,
        manifest=None,
    )


def _find_resumption(
    inputs: _Inputs, findings: Findings, kept: Sequence[int], store: Store, adapter: ProgressAdapter
) -> Resumption:
    """The shards that a killed conversion of the same entries has finished; the findings are noted for the next."""
    notes = Unfinished(store, output_digest(inputs.recipe, inputs.entries, findings, kept))
    splits = dict.fromkeys(inputs.entries[number].split for number in kept)
    resumption = Resumption(notes, notes.finished(splits, adapter.of_stage("resume", len(kept))))
    if not any(map(resumption.num_rows, splits)):
        forget(store)
    Unfinished(store, inputs.checks_digest()).remember(_CHECKS, findings.to_bytes())
    return resumption


def _write(
    inputs: _Inputs,
    findings: Findings,
    kept: Sequence[int],
    resumption: Resumption,
    destination: str,
    description: dict[str, Any],
    settings: ConversionSettings,
    adapter: ProgressAdapter,
) -> Manifest:
    """Writes the samples that follow the finished shards, then index and manifest."""
    splits = {
        split: list(numbers)
        for split, numbers in itertools.groupby(kept, key=lambda number: inputs.entries[number].split)
    }
    return write_dataset(
        destination,
        {split: _samples(inputs, findings, numbers[resumption.num_rows(split) :]) for split, numbers in splits.items()},
        **description,
        row_group_bytes=settings.row_group_bytes,
        shard_bytes=settings.shard_bytes,
        progress=adapter.of_stage("write", len(kept)),
        overwrite=settings.overwrite,
        resumption=resumption,
    )


def _samples(inputs: _Inputs, findings: Findings, numbers: Sequence[int]) -> Iterator[Sample]:
    """The samples of some entries, read ahead. Raises: CorruptData where a file is not what was checked."""
    source, masks = inputs.reading.source, inputs.masks

    def sample(number: int) -> Sample:
        entry = inputs.entries[number]
        try:
            image = source.read(entry.path, MAX_FILE_BYTES)
            mask = None if masks is None else masks.source.read(masks.path_of(entry.path), MAX_FILE_BYTES)
        except OSError as error:
            raise CorruptData(
                f"{source.where(entry.path)} or its mask was removed after it was checked: {error}; convert again"
            ) from error
        if (digest(image), digest(mask)) != (findings.image(number), findings.mask(number)):
            raise CorruptData(f"{source.where(entry.path)} or its mask changed after it was checked; convert again")
        if masks is not None and mask is not None and masks.resize:
            mask = in_size_of(image, mask, entry.path)
        labels = entry.person, entry.clothes, entry.camera, entry.sequence, entry.frame
        return Sample(image, mask, *labels, key=entry.path)

    for samples in chunked_map(sample, numbers, inputs.threads):
        yield from samples
