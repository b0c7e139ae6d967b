"""The published evaluation protocols as plain tables: query, gallery and the rule of each mode.

The rules (reference: CAL's evaluator) say when a gallery entry of the query's person is a match. general: its camera
differs. same-clothes: its camera differs, its clothes are the same. clothes-changing: camera and clothes differ.
Other entries of that person are left out of the ranking; other persons always stay. An unknown label equals nothing.
"""

import typing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from datasets.errors import DataError
from datasets.format.index import SplitIndex
from datasets.format.manifest import Manifest
from datasets.format.tracklets import Tracklets, find_tracklets
from datasets.protocols import single_shot

Rule = Literal["general", "same-clothes", "clothes-changing"]
RULES: tuple[Rule, ...] = typing.get_args(Rule)


@dataclass(frozen=True)
class Mode:
    """One line of a protocol's results: metrics are called `<name>/rank-1` and so on.

    query, gallery: names of splits. cameras: images of other cameras are left out (numbers without leading zeros); None is
    all. draws: 0 ranks the whole gallery; else metrics are means over this number of draws of one image per person
    (single-shot).
    """

    name: str
    query: str
    gallery: str
    rule: Rule
    cameras: tuple[str, ...] | None = None
    draws: int = 0


@dataclass(frozen=True)
class Protocol:
    """How a data set is scored.

    camera: the column that the rules compare as camera; None where no image is excluded for its camera.
    source: where the protocol comes from. merged_cameras: (prefix, replacement) for camera names that the reference treats as
    one. sample: what is ranked, an image or a tracklet (all frames of a sequence).
    """

    name: str
    modes: tuple[Mode, ...]
    camera: Literal["camera", "sequence"] | None
    source: str
    merged_cameras: tuple[tuple[str, str], ...] = ()
    sample: Literal["image", "tracklet"] = "image"

    def validation(self) -> "Protocol":
        """The same modes on val_query and val_gallery.

        Some test splits define a mode by their queries or cameras (PRCC, VC-Clothes). Held-out persons have one query set, so
        here the rule of that name defines it. Single-shot modes are left out: the gallery has every outfit from every
        camera, so the outfit of a single drawn image would be random.
        """
        modes = tuple(
            Mode(mode.name, "val_query", "val_gallery", mode.name if mode.name in RULES else mode.rule)
            for mode in self.modes
            if not mode.draws
        )
        return replace(self, modes=modes)


def _plain(rules: tuple[Rule, ...] = RULES) -> tuple[Mode, ...]:
    return tuple(Mode(rule, "query", "gallery", rule) for rule in rules)


_CAL = "Gu et al., CVPR 2022 (CAL) and its published evaluator"
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("general", _plain(("general",)), "camera", "Market-1501's rule, for data sets without a protocol"),
        Protocol("ltcc", _plain(), "camera", f"Qian et al., ACCV 2020 (LTCC); {_CAL}, Sec. 5.1"),
        Protocol(
            "prcc",
            (
                Mode("same-clothes", "query_same", "gallery", "general"),
                Mode("clothes-changing", "query_diff", "gallery", "general"),
                Mode("same-clothes-single-shot", "query_same", "gallery", "general", draws=single_shot.DRAWS),
                Mode("clothes-changing-single-shot", "query_diff", "gallery", "general", draws=single_shot.DRAWS),
            ),
            "camera",
            "Yang et al., PAMI 2019 (PRCC): gallery camera A, queries B and C, one image per person in ten draws "
            f"(single-shot); all of A (multi-shot): {_CAL}",
        ),
        Protocol(
            "vcclothes",
            (
                Mode("general", "query", "gallery", "general"),
                Mode("same-clothes", "query", "gallery", "general", ("2", "3")),
                Mode("clothes-changing", "query", "gallery", "general", ("3", "4")),
            ),
            "camera",
            f"Wan et al., CVPRW 2020 (VC-Clothes): cameras 2 and 3, 3 and 4; {_CAL}",
        ),
        Protocol(
            "deepchange",
            _plain(("general",)),
            "sequence",
            f"Xu and Zhu, 2021 (DeepChange): the same camera counts, the same tracklet does not; {_CAL}",
        ),
        Protocol("last", _plain(("general",)), None, f"Shu et al., TCSVT 2021 (LaST): no cameras; {_CAL}"),
        Protocol("celebreid", _plain(("general",)), None, "Huang et al., TCSVT 2019 (Celeb-reID): no cameras"),
        Protocol(
            "ccvid",
            _plain(),
            "camera",
            f"{_CAL}, Sec. 4: tracklets; walks of sessions 1 and 2 are numbered alike, those of session 3 apart",
            merged_cameras=(("session2/", "session1/"),),
            sample="tracklet",
        ),
        Protocol("market1501", _plain(("general",)), "camera", "Zheng et al., ICCV 2015 (Market-1501)"),
        Protocol("msmt17", _plain(("general",)), "camera", "Wei et al., CVPR 2018 (MSMT17)"),
    )
}


@dataclass(frozen=True)
class Labels:
    """The labels that the rules compare, int64 [N] each; -1 is unknown and equals nothing."""

    person: np.ndarray
    camera: np.ndarray
    clothes: np.ndarray

    def take(self, rows: np.ndarray) -> "Labels":
        return Labels(self.person[rows], self.camera[rows], self.clothes[rows])


def labels(protocol: Protocol, index: SplitIndex) -> Labels:
    """The labels of a split's rows as the protocol compares them."""
    camera = np.full(len(index), -1)
    if protocol.camera == "sequence":
        camera = index.sequence
    elif protocol.camera == "camera":
        merged = [_merged(protocol, name) for name in index.camera_names]
        numbers = {name: number for number, name in enumerate(sorted(set(merged)))}
        camera = np.array([*(numbers[name] for name in merged), -1], dtype=np.int64)[index.camera]
    return Labels(index.person, camera, index.clothes)


def samples(protocol: Protocol, index: SplitIndex) -> np.ndarray:
    """int64, ascending: the rows that are ranked; a tracklet is represented by its middle frame.

    Raises: DataError where tracklets are ranked and rows have no sequence or frame.
    """
    if protocol.sample == "image":
        return np.arange(len(index))
    return middle_frames(find_tracklets(index))


def middle_frames(tracklets: Tracklets) -> np.ndarray:
    """int64 [T], ascending: the row of each tracklet's middle frame."""
    return tracklets.rows[(tracklets.first[:-1] + tracklets.first[1:]) // 2]


def rows(protocol: Protocol, mode: Mode, index: SplitIndex) -> np.ndarray:
    """int64, ascending: those of a split's `samples` that belong to the mode. Raises: as `samples`."""
    there = samples(protocol, index)
    if mode.cameras is None:
        return there
    wanted = [number for number, name in enumerate(index.camera_names) if (name.lstrip("0") or "0") in mode.cameras]
    return there[np.isin(index.camera[there], wanted)]


def galleries(protocol: Protocol, mode: Mode, index: SplitIndex, manifest: Manifest) -> list[np.ndarray]:
    """The rows (int64, ascending) of each gallery of the mode: one gallery, or one per draw."""
    whole = rows(protocol, mode, index)
    return single_shot.galleries(index, whole, mode.draws, manifest.extra) if mode.draws else [whole]


def valid_queries(rule: Rule, query: Labels, gallery: Labels) -> np.ndarray:
    """bool [Q]: whether a query has a match in the gallery. By counting, without a Q × G matrix."""
    person, camera, clothes = (
        (query.person, gallery.person),
        (query.camera, gallery.camera),
        (query.clothes, gallery.clothes),
    )
    if rule == "general":
        return _shared(person) - _shared(person, camera) > 0
    if rule == "same-clothes":
        return _shared(person, clothes) - _shared(person, camera, clothes) > 0
    either = _shared(person, camera) + _shared(person, clothes) - _shared(person, camera, clothes)
    return _shared(person) - either > 0


class Labelled(typing.Protocol):
    """The labels of a data set, or of one that is still to be written."""

    @property
    def splits(self) -> tuple[str, ...]: ...
    def indexes(self, *splits: str) -> tuple[SplitIndex, ...]: ...


class Indexed(Labelled, typing.Protocol):
    """The part of a data set that `check` needs (datasets.shards.dataset.Dataset)."""

    @property
    def address(self) -> str: ...
    @property
    def manifest(self) -> Manifest: ...


def check(protocol: Protocol, dataset: Indexed) -> None:
    """Checks that every mode can be scored: its splits exist, have the labels of its rule, and some query is valid.

    Raises: DataError naming mode, rule and reason.
    """
    for mode in protocol.modes:
        where = (
            f"{dataset.address} cannot be scored by protocol {protocol.name!r}, mode {mode.name!r} "
            f"({mode.query} → {mode.gallery}, {mode.rule} rule)"
        )
        missing = [split for split in (mode.query, mode.gallery) if split not in dataset.splits]
        if missing:
            advice = "; make them from train with `redress data holdout`" if mode.query.startswith("val_") else ""
            raise DataError(
                f"{where}: there is no split {' and no '.join(missing)}; there are {', '.join(dataset.splits)}{advice}"
            )
        query, gallery = dataset.indexes(mode.query, mode.gallery)
        reason = unlabelled(protocol, mode, query) or unlabelled(protocol, mode, gallery)
        reason = reason or _reason_against(protocol, mode, query, gallery, dataset.manifest)
        if reason:
            raise DataError(f"{where}: {reason}")


def unlabelled(protocol: Protocol, mode: Mode, index: SplitIndex) -> str | None:
    """The labels of the mode's rule that a split lacks, None where it has them."""
    if mode.rule != "general" and not index.has_clothes:
        return f"{index.split} has {index.lacking(index.clothes)} without a clothes label"
    column = {"camera": index.camera, "sequence": index.sequence, None: None}[protocol.camera]
    if column is not None and (column < 0).any() and protocol.name != "general":
        return f"{index.split} has {index.lacking(column)} without a {protocol.camera}"
    if protocol.sample == "image":
        return None
    if (index.sequence < 0).any():
        return f"{index.split} has {index.lacking(index.sequence)} without a sequence, and tracklets need one"
    if num := index.frames().count(None):
        return f"{index.split} has {num} images without a frame, which orders a tracklet's images"
    kinds = np.unique(np.stack([index.sequence, index.person, index.clothes, index.camera]), axis=1)[0]
    mixed = kinds[1:][kinds[1:] == kinds[:-1]]
    if len(mixed):
        name = index.sequence_names[mixed[0]]
        return f"sequence {name!r} of {index.split} has several persons, outfits or cameras; a tracklet has one of each"
    return None


def _reason_against(
    protocol: Protocol, mode: Mode, query: SplitIndex, gallery: SplitIndex, manifest: Manifest
) -> str | None:
    """Why labelled splits have no valid query of a mode, None where they have some."""
    query_rows, drawn = rows(protocol, mode, query), galleries(protocol, mode, gallery, manifest)
    if not len(query_rows) or not len(drawn[0]):
        split, index = (mode.query, query) if not len(query_rows) else (mode.gallery, gallery)
        return (
            f"{split} has no image of cameras {', '.join(mode.cameras or ())}; it has {', '.join(index.camera_names)}"
        )
    of_query, of_gallery = labels(protocol, query).take(query_rows), labels(protocol, gallery)
    if all(valid_queries(mode.rule, of_query, of_gallery.take(chosen)).any() for chosen in drawn):
        return None
    if not np.isin(of_query.person, of_gallery.person).any():
        return f"no valid query: no person of {mode.query} is in {mode.gallery}"
    needed = {"general": "", "same-clothes": " in the same clothes", "clothes-changing": " in other clothes"}[mode.rule]
    draw = " in some draw of one image per person" if mode.draws else ""
    return (
        f"no valid query: none of the {len(query_rows)} queries has an image of its person from another "
        f"{protocol.camera or 'image'}{needed} in {mode.gallery}{draw}"
    )


def _merged(protocol: Protocol, name: str) -> str:
    for prefix, counts_as in protocol.merged_cameras:
        if name.startswith(prefix):
            return counts_as + name[len(prefix) :]
    return name


def _shared(*columns: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """int64 [Q]: the number of gallery rows that equal the query's in all columns; unknown equals nothing."""
    query, gallery = (np.stack(side) for side in zip(*columns, strict=True))  # [columns, Q], [columns, G]
    joined = np.concatenate([query, gallery], axis=1)
    codes = np.zeros(joined.shape[1], dtype=np.int64)
    for column in joined:
        codes = np.unique(codes * (column.max(initial=0) + 2) + column + 1, return_inverse=True)[1]
    is_known = joined.min(axis=0) >= 0
    num_query = query.shape[1]
    counts = np.bincount(codes[num_query:][is_known[num_query:]], minlength=codes.max(initial=0) + 1)
    return counts[codes[:num_query]] * is_known[:num_query]
