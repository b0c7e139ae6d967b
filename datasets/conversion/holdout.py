"""Makes a validation set of held-out train persons, so that models are selected without the test set."""

from collections.abc import Callable

import numpy as np

from datasets.errors import DataError
from datasets.format.index import SplitIndex
from datasets.format.manifest import Manifest
from datasets.protocols.division import QueryGalleryDivision, divide_query_gallery
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset, write_dataset
from datasets.shards.writer import ROW_GROUP_BYTES, SHARD_BYTES
from datasets.storage.store import open_store


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
    """Writes the data set at `address` to `destination` with some train persons moved to val_query and val_gallery.

    persons: a share of train's persons (float) or their number (int). seed: of the random choice. Only persons are chosen
    that have a valid query in every mode of the protocol; `datasets.protocols.division` divides their images into query and
    gallery. The choice is stratified by the numbers of outfits and cameras. The same arguments give the same data set on any
    machine. progress: called with the number of images written. overwrite: replace a data set at `destination`.

    Raises: DataError, before anything is written, when there is a validation set already, or too few persons have a valid
    query in every mode; StoreError.
    """
    source = Dataset.open(address)
    if open_store(destination).address == source.address:
        raise DataError(f"{destination} is the data set itself; choose another address for the copy with a holdout")
    if taken := [split for split in ("val_query", "val_gallery") if split in source.splits]:
        raise DataError(
            f"{address} has a split {taken[0]} already; validate on it, or start from the original data set"
        )
    index = source.index("train")
    protocol = PROTOCOLS[source.manifest.protocol]
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    count = _num_held_out(persons, index, address)
    division = divide_query_gallery(protocol, index, rng)
    if count > division.is_able.sum():
        raise DataError(_too_few(count, division, index, protocol.name, address))
    people = choose_persons(index, np.flatnonzero(division.is_able), count, rng)
    is_out = np.isin(index.person, people)
    rows = {
        "train": np.flatnonzero(~is_out),
        "val_query": np.flatnonzero(is_out & division.is_query),
        "val_gallery": np.flatnonzero(is_out & ~division.is_query),
    }
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


def choose_persons(index: SplitIndex, able: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [count], ascending: a random sample of the persons `able` (int64), stratified by outfits and cameras.

    Each number of outfits and cameras occurs in proportion, to within one person.
    """
    outfits, cameras = (_num_values(index, column)[able] for column in (index.clothes, index.camera))
    alike = able[np.lexsort((rng.random(len(able)), cameras, outfits))]
    step = len(able) / count  # every so-many-th, from a random start
    places = np.floor((rng.random() + np.arange(count)) * step).astype(np.int64)
    return np.sort(alike[np.minimum(places, len(able) - 1)])


def _num_held_out(persons: float | int, index: SplitIndex, address: str) -> int:
    count = persons if isinstance(persons, int) else max(2, round(persons * index.num_persons))
    if not 2 <= count <= index.num_persons - 2:
        raise DataError(
            f"{persons} of the {index.num_persons} persons in train of {address} cannot be held out: at least 2 must "
            "move and at least 2 remain; give a share such as 0.1 or a number"
        )
    return count


def _num_values(index: SplitIndex, column: np.ndarray) -> np.ndarray:
    """int64 [num_persons]: distinct values of a column that each person has."""
    return np.bincount(np.unique(np.stack([index.person, column]), axis=1)[0], minlength=index.num_persons)


def _too_few(count: int, division: QueryGalleryDivision, index: SplitIndex, protocol: str, address: str) -> str:
    num_able = int(division.is_able.sum())
    why = "; ".join(f"{int(who.sum())} {reason}" for reason, who in division.reasons.items() if who.any())
    fix = f"Hold out {num_able} or fewer" if num_able >= 2 else "Select models without a validation set (select=last)"
    return (
        f"{count} persons of train of {address} cannot be held out: only {num_able} of its {index.num_persons} have a valid "
        f"query in every mode of protocol {protocol!r}. Of the others, {why}. {fix}; `redress data inspect` shows "
        "outfits and cameras per person"
    )
