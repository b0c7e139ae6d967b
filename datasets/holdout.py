"""Makes a validation set out of train: other people, so that models are chosen without looking at the test set."""

from collections.abc import Callable

import numpy as np

from datasets.errors import DataError
from datasets.index import SplitIndex
from datasets.manifest import Manifest
from datasets.protocols import PROTOCOLS, Protocol, labels, valid_queries
from datasets.shards import Dataset, write_dataset
from datasets.store import open_store
from datasets.writer import ROW_GROUP_BYTES, SHARD_BYTES


def holdout(
    address: str,
    destination: str,
    *,
    persons: float | int = 0.1,
    seed: int = 1,
    row_group_bytes: int = ROW_GROUP_BYTES,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes the data set at `address` to `destination` with some train people moved to val_query and val_gallery.

    persons: a share of train's (float) or their number (int). People who change clothes and cameras keep their share.
    Query: of each person, outfit and camera one image (or tracklet); of those with a single one, every second.
    The same arguments give the same data set, whatever the machine.

    Raises: DataError, before anything is written, when there is a validation set already, too few people, or a mode
    of the protocol would have no valid query; StoreError.
    """
    source = Dataset.open(address)
    if open_store(destination).address == source.address:
        raise DataError(f"{destination} is the data set itself; choose another address for the one with a holdout")
    if taken := [split for split in ("val_query", "val_gallery") if split in source.splits]:
        raise DataError(f"{address} has a split {taken[0]} already; score on that, or start from the original")
    index = source.index("train")
    protocol = PROTOCOLS[source.manifest.protocol]
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    people = choose_persons(index, _how_many(persons, index, address), rng)
    query, gallery = split_rows(protocol, index, people, rng)
    _check_modes(protocol, index, query, gallery, address)
    rows = {"train": np.flatnonzero(~np.isin(index.person, people)), "val_query": query, "val_gallery": gallery}
    splits = {split: source.samples("train", chosen) for split, chosen in rows.items()}
    splits |= {split: source.samples(split) for split in source.splits if split != "train"}
    manifest = source.manifest
    record = {"from": manifest.fingerprint, "seed": seed, "persons": [index.person_names[p] for p in people.tolist()]}
    return write_dataset(
        destination,
        splits,
        name=manifest.name,
        version=f"{manifest.version}+holdout.{len(people)}.{seed}",
        licence=manifest.licence,
        label_map=manifest.label_map,
        protocol=manifest.protocol,
        captions=manifest.captions,
        extra=manifest.extra | {"holdout": record},
        row_group_bytes=row_group_bytes,
        shard_bytes=shard_bytes,
        progress=progress,
        overwrite=overwrite,
    )


def choose_persons(index: SplitIndex, count: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [count], ascending: people drawn so that those with several outfits and cameras keep their share."""
    able = (_num_values(index, index.clothes) > 1) & (_num_values(index, index.camera) > 1)
    num_able = min(int(able.sum()), max(round(count * able.mean()), min(1, int(able.sum()))))
    num_able = max(num_able, count - int((~able).sum()))
    changing, steady = rng.permutation(np.flatnonzero(able)), rng.permutation(np.flatnonzero(~able))
    return np.sort(np.concatenate([changing[:num_able], steady[: count - num_able]]))


def split_rows(
    protocol: Protocol, index: SplitIndex, people: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The rows (int64, ascending) of the chosen people that become query, and gallery."""
    camera = labels(protocol, index).camera
    unit = index.sequence if protocol.sample == "tracklet" else np.arange(len(index))
    queries = []
    for person in people.tolist():
        rows = np.flatnonzero(index.person == person)
        cells = np.unique(np.stack([index.clothes[rows], camera[rows]]), axis=1, return_inverse=True)[1].ravel()
        single = []
        for cell in range(cells.max() + 1):
            units = rng.permutation(np.unique(unit[rows[cells == cell]]))
            if len(units) > 1:
                queries.append(rows[unit[rows] == units[0]])
            else:
                single.append(rows[unit[rows] == units[0]])
        queries += [single[at] for at in rng.permutation(len(single))[1::2]]
    query = np.sort(np.concatenate(queries)) if queries else np.empty(0, dtype=np.int64)
    everything = np.flatnonzero(np.isin(index.person, people))
    return query, np.setdiff1d(everything, query)


def _how_many(persons: float | int, index: SplitIndex, address: str) -> int:
    count = persons if isinstance(persons, int) else max(2, round(persons * index.num_persons))
    if not 2 <= count <= index.num_persons - 2:
        raise DataError(
            f"{persons} persons of the {index.num_persons} in train of {address} cannot be held out: at least 2 must "
            "be moved and 2 remain; give a share such as 0.1 or a number"
        )
    return count


def _num_values(index: SplitIndex, column: np.ndarray) -> np.ndarray:
    """int64 [num_persons]: distinct values of a column that each person has."""
    return np.bincount(np.unique(np.stack([index.person, column]), axis=1)[0], minlength=index.num_persons)


def _check_modes(protocol: Protocol, index: SplitIndex, query: np.ndarray, gallery: np.ndarray, address: str) -> None:
    everything = labels(protocol, index)
    for mode in protocol.validation().modes:
        if not valid_queries(mode.rule, everything.take(query), everything.take(gallery)).any():
            raise DataError(
                f"the people drawn from train of {address} give mode {mode.name!r} ({mode.rule} rule) no valid query: "
                "hold out more persons, or others with another seed; see `redress data inspect` for outfits and "
                "cameras per person"
            )
