"""The report of a conversion: counts beside the published ones, warnings, offenders; or why nothing was written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets.conversion.counts import Count, queries_without_match, same_images, shared_clothes, turned_images
from datasets.conversion.masks import Masks
from datasets.errors import DataError
from datasets.format.manifest import Manifest
from datasets.layouts import Entry, Layout, Offender, Reading
from datasets.protocols.prospects import Prospect
from datasets.protocols.protocols import PROTOCOLS, Labelled

_SHOWN, _WARNINGS_SHOWN, _LINES_SHOWN = 5, 50, 10
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion, or of a dry run.

    layout: its name. protocol: the name of the one by which the data set is scored. prospects: what it does with each mode.
    counts: found, beside the published ones. warnings: likely mistakes. notes: what is no mistake, but
    worth knowing. passed_over: reason → paths of files that are no samples. quarantined: the offenders left out.
    num_resumed: images in shards that an interrupted conversion had finished. manifest: of the data set written, None after
    a dry run.
    """

    layout: str
    protocol: str
    prospects: list[Prospect]
    counts: list[Count]
    warnings: list[str]
    notes: list[str]
    passed_over: dict[str, list[str]]
    quarantined: list[Offender]
    num_resumed: int
    manifest: Manifest | None

    def lines(self) -> list[str]:
        """The report as lines of text: counts, notes, warnings, files passed over, offenders."""
        lines = [str(count) for count in self.counts]
        if self.prospects:
            lines.append(f"protocol {self.protocol}, valid queries: {', '.join(map(str, self.prospects))}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings[:_WARNINGS_SHOWN]]
        if (more := len(self.warnings) - _WARNINGS_SHOWN) > 0:
            lines.append(f"warning: and {more:,} more (--json has them all)")
        lines += [f"passed over, {reason}: {_some(paths)}" for reason, paths in self.passed_over.items()]
        lines += [f"quarantined: {line}" for line in grouped(self.quarantined)]
        if self.num_resumed:
            lines.append(
                f"resumed an interrupted conversion: {self.num_resumed:,} images were written already, and verified"
            )
        return lines


def report(layout: str, reading: Reading, offenders: Sequence[Offender], masks: Masks | None) -> str:
    num = len(offenders)
    missing = sum(offender.problem.startswith("mask missing") for offender in offenders)
    hint = ""
    if masks is not None and missing and missing == len(reading.entries):
        hint = (
            f"\nNo image has its mask in {masks.source.where()}: check that it is the folder of masks. "
            "A mask has its image's path, with .png."
        )
    return (
        f"{layout} at {reading.source.where()} has {num} offender{'s' if num > 1 else ''}; nothing was written"
        + "".join(f"\n  {line}" for line in grouped(offenders))
        + hint
        + "\nCorrect the source, or leave the offenders out with --quarantine."
    )


def grouped(offenders: Sequence[Offender]) -> list[str]:
    """A line for each problem with its first path, at most _LINES_SHOWN of them, and how many there are more."""
    groups: dict[tuple[str, str], list[Offender]] = {}
    for offender in offenders:
        kind = offender.problem.replace(offender.path, "")  # a path in the problem makes no other kind of it
        groups.setdefault((_NUMBER.sub("", kind), offender.remedy), []).append(offender)
    lines = []
    for same in list(groups.values())[:_LINES_SHOWN]:
        shown = same[: max(1, _LINES_SHOWN // len(groups))]
        lines += [str(offender) for offender in shown]
        if (more := len(same) - len(shown)) > 0:
            lines.append(f"and {more:,} more like it")
    if (more := sum(map(len, list(groups.values())[_LINES_SHOWN:]))) > 0:
        lines.append(f"and {more:,} more (--json and --result have them all)")
    return lines


def refuse_empty(
    layout: Layout, reading: Reading, protocol: str, samples: list[Entry], without: tuple[str, ...]
) -> None:
    """Raises: DataError when a split that training or a mode needs has no samples."""
    there = {entry.split for entry in samples}
    of_modes = dict.fromkeys(split for mode in PROTOCOLS[protocol].modes for split in (mode.query, mode.gallery))
    needed = [split for split in layout.places or ("train", *of_modes) if split in {"train", *of_modes}]
    empty = [split for split in needed if split not in there and split not in without]
    if empty or not samples:
        places = [place for split in empty for place in layout.places.get(split, ())]
        where = f" in {', '.join(dict.fromkeys(places))}" if places else ""
        splits = f". It has {', '.join(sorted(there)) or 'none'}; protocol {protocol} needs {', '.join(needed)}"
        raise DataError(
            f"{reading.source.where()} has no usable image for {' or '.join(empty) or 'any split'}{where}; "
            f"nothing was written{'' if layout.places else splits}. Check the source, or leave the split out with --without"
        )


def unused_splits(layout: Layout, protocol: str, samples: Sequence[Entry]) -> list[str]:
    """A warning for each split of the user's own that nothing will read."""
    scored = PROTOCOLS[protocol]
    modes = (*scored.modes, *scored.validation().modes)
    used = {"train", *layout.places, *(split for mode in modes for split in (mode.query, mode.gallery))}
    others = dict.fromkeys(entry.split for entry in samples if entry.split not in used)
    own = [] if layout.places else others
    return [f"split {split} is neither trained on nor in a mode of protocol {protocol}" for split in own]


def partly_labelled(labels: Labelled) -> list[str]:
    """A warning for each split where only part of the images have clothes, or a camera: then they count as unlabelled."""
    found = []
    for split in labels.splits:
        [index] = labels.indexes(split)
        for what, column in (("clothes", index.clothes), ("a camera", index.camera)):
            if 0 < (column < 0).sum() < len(index):
                found.append(f"{split} has {index.lacking(column)} without {what}: what needs {what} will refuse it")
    return found


def warnings_of(
    protocol: str,
    reading: Reading,
    samples: Sequence[Entry],
    masks: Masks | None,
    same: Iterable[Sequence[Entry]],
) -> list[str]:
    found = queries_without_match(PROTOCOLS[protocol], samples) + same_images(same)
    if masks is None:
        return found
    if not masks.source.is_same(reading.source):
        found += masks.source.warnings
    if orphans := masks.orphans((entry.path for entry in reading.entries), reading.source):
        found.append(f"masks without an image: {_some(orphans)}")
    return found


def notes_of(reading: Reading, samples: Sequence[Entry], orientations: NDArray[np.uint8]) -> list[str]:
    """orientations: uint8 [N], of the samples' EXIF."""
    pseudo = reading.extra.get("clothes")
    found = [f"clothes are {pseudo}" if pseudo else shared_clothes(samples), turned_images(samples, orientations)]
    return [note for note in found if note]


def record(layout: Layout, offenders: Sequence[Offender], masks: Masks | None) -> dict[str, Any]:
    """What the manifest records of a conversion, without any path of this machine."""
    here = "" if masks is None else masks.source.where("x").removesuffix("x")
    quarantined = [
        {"path": offender.path, "problem": offender.problem.replace(here, "") if here else offender.problem}
        for offender in offenders
    ]
    return {"layout": layout.name, "official": dict(layout.official)} | (
        {"quarantined": quarantined} if quarantined else {}
    )


def _some(paths: Sequence[str]) -> str:
    rest = len(paths) - _SHOWN
    return f"{len(paths)} ({', '.join(paths[:_SHOWN])}{f' and {rest} more' if rest > 0 else ''})"
