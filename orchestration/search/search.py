"""`redress search`: the nearest gallery entries of query images, as a picture, a table and plain data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from datasets.errors import DataError
from datasets.protocols import protocols
from datasets.protocols.protocols import PROTOCOLS, Mode, Protocol
from datasets.shards.dataset import Dataset
from datasets.storage.address import Address, parse_address
from datasets.storage.store import StoreError, open_store
from methods.matches import Labels as RankingLabels
from methods.matches import valid_and_match
from orchestration import figures
from orchestration.config.stored import experiment_of, facts_of
from orchestration.errors import RequestError
from orchestration.evaluation import explain
from orchestration.evaluation.evaluate import check_inputs, check_method
from orchestration.figures import Shown
from orchestration.progress import Progress
from orchestration.registry.locate import Located, locate
from orchestration.search import gallery
from orchestration.search.gallery import Described, Entries, Network

TOP = 10
QUERIES = 6  # queries of the data set, where no image is named
PICTURED = 24  # rows of the picture
NAME_LENGTH = 20
LETTERS = 12  # characters of the title per image


@dataclass(frozen=True)
class Found:
    """One query's nearest entries, nearest first. is_match: None without labels."""

    query: int
    entries: np.ndarray
    similarity: np.ndarray
    is_match: np.ndarray | None


def search(
    model: str,
    where: str,
    images: Sequence[str] = (),
    *,
    split: str | None = None,
    masks: str | None = None,
    top: int = TOP,
    picture: str = "search.png",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The `top` entries of the gallery `where` nearest to each image, and a picture of them at `picture`.

    where: a data set (its gallery, or `split`), or a folder of images. images: files, or keys of a data set's queries; by
    default some queries of the data set. For queries of the data set, whose people are known, frames are green or red.
    masks: a folder with the files' parsing masks, for a model that needs them.
    Raises: RequestError before work starts.
    """
    progress = progress or Progress()
    folder, name = split_address(picture)
    located = locate(model)
    try:
        is_data = open_store(where).exists("manifest.json")
        open_store(folder).exists(name)
        entries, queries, mode = (
            in_dataset(located, where, images, split, masks, progress)
            if is_data
            else (*in_folder(located, where, images, split, masks, progress), None)
        )
    except (DataError, StoreError) as error:
        raise RequestError(str(error)) from error
    found = [nearest(entries, queries, at, top, mode) for at in range(len(queries))]
    open_store(folder).write(name, render((model, where), entries, queries, found, mode))
    return {
        "model": model,
        "checkpoint": located.checkpoint.address,
        "gallery": where,
        "searched": len(entries),
        "set_aside": list(entries.set_aside),
        "results": [result(entries, queries, one) for one in found],
        "picture": picture,
    }


def split_address(picture: str) -> tuple[Address, str]:
    """The picture's folder and name. Raises: RequestError."""
    found = parse_address(picture)
    if not found.name.lower().endswith(".png"):
        raise RequestError(f"--out {picture}: expected a name that ends in .png, such as search.png.")
    return found.parent, found.name


def in_folder(
    located: Located, where: str, images: Sequence[str], split: str | None, masks: str | None, progress: Progress
) -> tuple[Entries, Entries]:
    if split:
        raise RequestError(f"--split {split}: {where} is a folder of images, which has no splits. Omit --split.")
    if not images:
        raise RequestError(f"search {where}: no query images. Name one or more image files.")
    network = Network(located, mirrored=is_mirrored(located, None), masks=masks)
    queries = gallery.of_files(network, images)
    return gallery.of_folder(network, where, progress), queries


def in_dataset(
    located: Located, where: str, images: Sequence[str], split: str | None, masks: str | None, progress: Progress
) -> tuple[Entries, Entries, Mode | None]:
    """The gallery and the queries; and for queries of the data set, the mode whose rule says which entries are valid."""
    experiment = experiment_of(located.checkpoint, [f"data={where}"])
    dataset = Dataset.open(experiment.data)
    protocol = PROTOCOLS[dataset.manifest.protocol]
    mode = explain.mode_of(protocol)
    split = split or mode.gallery
    trained = experiment_of(located.checkpoint)
    check_method(trained.method.name, protocol, where)
    files = [image for image in images if os.path.exists(image)]
    if files and len(files) < len(images):
        missing = next(image for image in images if image not in files)
        raise RequestError(f"image {missing}: no such file. Name either files or keys of the data set's queries.")
    searched = replace(mode, query=split if files else mode.query, gallery=split)
    check_inputs(trained, facts_of(located.checkpoint)["label_map"], dataset, replace(protocol, modes=(searched,)))
    described = Described(located, experiment, dataset, protocol)
    if files:
        network = Network(located, mirrored=is_mirrored(located, protocol), masks=masks)
        queries = gallery.of_files(network, files)
        return gallery.of_split(described, dataset.index(split), progress), queries, None
    check_keys(dataset, mode, images)
    both = {  # indexes opened together: a person has the same number in each
        index.split: gallery.of_split(described, index, progress)
        for index in dataset.indexes(*dict.fromkeys((mode.query, split)))
    }
    everyone, entries = both[mode.query], both[split]
    chosen = by_key(everyone, images) if images else default_queries(everyone, entries, mode)
    return entries, subset(everyone, chosen), mode


def is_mirrored(located: Located, protocol: Protocol | None) -> bool:
    """Whether descriptors add the mirror image's embedding: as evaluated, never for clips."""
    is_video = protocol is not None and protocol.sample == "tracklet"
    return experiment_of(located.checkpoint).evaluate.flip and not is_video


def check_keys(dataset: Dataset, mode: Mode, images: Sequence[str]) -> None:
    keys = dataset.index(mode.query).keys() if images else []
    if missing := [image for image in images if image not in set(keys)]:
        raise RequestError(
            f"image {missing[0]}: neither a file nor a key of split {mode.query!r} in {dataset.address}. An example of a key "
            f"is {keys[0]}."
        )


def by_key(everyone: Entries, images: Sequence[str]) -> list[int]:
    """The entries of some keys. Raises: RequestError for a frame that is not the middle of its tracklet."""
    at = {name: number for number, name in enumerate(everyone.names)}
    if missing := [image for image in images if image not in at]:
        raise RequestError(
            f"image {missing[0]} does not represent a tracklet. Expected the key of a middle frame, like {everyone.names[0]}."
        )
    return [at[image] for image in images]


def default_queries(everyone: Entries, entries: Entries, mode: Mode) -> list[int]:
    """A query each of a few people who are in the gallery, the same at every call. Raises: RequestError."""
    assert everyone.labels is not None
    assert entries.labels is not None
    first: dict[int, int] = {}
    is_valid = protocols.valid_queries(mode.rule, everyone.labels, entries.labels)
    for at in np.flatnonzero(is_valid).tolist():
        first.setdefault(int(everyone.labels.person[at]), at)
    if not first:
        raise RequestError(f"no query has a match in the gallery in mode {mode.name!r}. Name images to search for.")
    people = list(first.values())
    return [people[at] for at in np.linspace(0, len(people) - 1, min(QUERIES, len(people))).round().astype(int)]


def subset(everyone: Entries, chosen: Sequence[int]) -> Entries:
    assert everyone.labels is not None
    return Entries(
        [everyone.names[at] for at in chosen],
        everyone.features[list(chosen)],
        lambda at: everyone.image(chosen[at]),
        lambda at: everyone.facts(chosen[at]),
        everyone.labels.take(np.array(chosen)),
    )


def valid_entries(queries: Entries, entries: Entries, at: int, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
    """The entries that are valid for a query, and those of its person: bool [N] each."""
    assert queries.labels is not None
    assert entries.labels is not None
    one = queries.labels.take(np.array([at]))
    if not protocols.valid_queries(mode.rule, one, entries.labels)[0]:
        return entries.labels.person != one.person[0], np.zeros(len(entries), dtype=bool)
    asked, there = (RankingLabels(of.person, of.camera, of.clothes) for of in (one, entries.labels))
    valid, matches = valid_and_match(asked, there, mode.rule)
    return valid[0], matches[0]


def nearest(entries: Entries, queries: Entries, at: int, top: int, mode: Mode | None) -> Found:
    """The `top` nearest valid entries of a query; ties in the order of the gallery."""
    similarity = (entries.features @ queries.features[at]).numpy()
    valid, is_match = np.ones(len(entries), dtype=bool), None
    if mode:
        valid, is_match = valid_entries(queries, entries, at, mode)
    order = np.argsort(np.where(valid, -similarity, np.inf), kind="stable")
    order = order[valid[order]][:top]
    return Found(at, order, similarity[order], None if is_match is None else is_match[order])


def result(entries: Entries, queries: Entries, found: Found) -> dict[str, Any]:
    listed = []
    for rank, (at, similarity) in enumerate(zip(found.entries.tolist(), found.similarity.tolist(), strict=True), 1):
        facts: dict[str, Any] = {"rank": rank, "similarity": round(similarity, 6), "image": entries.names[at]}
        if found.is_match is not None:
            facts["is_match"] = bool(found.is_match[rank - 1])
        listed.append(facts | entries.facts(at))
    return {"image": queries.names[found.query], **queries.facts(found.query), "found": listed}


def render(
    names: tuple[str, str], entries: Entries, queries: Entries, found: Sequence[Found], mode: Mode | None
) -> bytes:
    """names: the model's and the gallery's."""
    rows = []
    for one in found[:PICTURED]:
        row = [Shown(gallery.pixels(queries.image(one.query)), caption(queries, one.query, "query"), None)]
        for place, at in enumerate(one.entries.tolist()):
            right = None if one.is_match is None else bool(one.is_match[place])
            text = caption(entries, at, f"{one.similarity[place]:.2f}")
            row.append(
                Shown(gallery.pixels(entries.image(at)), text, right, figures.UNKNOWN if right is None else None)
            )
        rows.append(row)
    width = LETTERS * max(map(len, rows))
    model, where = (name if len(name) <= width else f"…{name[1 - width :]}" for name in names)
    lines = [model, where]
    if mode:
        lines.append(f"{mode.name}: green the same person, red another")
    if len(found) > PICTURED:
        lines.append(f"the first {PICTURED} of {len(found)} images")
    return figures.ranked_lists("\n".join(lines), rows)


def caption(entries: Entries, at: int, first: str) -> str:
    """`first`, and below it the labelled person or else the file's name."""
    person = entries.facts(at).get("person")
    name = f"person {person}" if person else Path(entries.names[at]).stem
    return f"{first}\n{name if len(name) <= NAME_LENGTH else '…' + name[1 - NAME_LENGTH :]}"
