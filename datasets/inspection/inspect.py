"""What is in a data set: counts, sizes, clothes per person, a contact sheet, colour baselines."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from datasets.format.index import SplitIndex
from datasets.images.decode import decode_image, decode_parsing, image_size
from datasets.images.label_maps import LABEL_MAPS
from datasets.inspection.colour_baselines import clothes_colour, has_skin_labels, rank1, skin_colour, stack
from datasets.inspection.contact_sheet import Row, contact_sheet
from datasets.protocols.prospects import prospects, protocol_warnings
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset

SHEET_PERSONS, SHEET_OUTFITS, SHEET_IMAGES = 8, 4, 3
SIZES_FROM = 2000  # rows per split, at most, whose image sizes are counted


def inspect(address: str, *, sheet: str | Path | None = None) -> dict[str, Any]:
    """Facts about the data set at `address`, as plain data.

    sheet: where to write the contact sheet, a PNG; None for none. The keys are address, name, version, licence, clothes
    (what replaces outfits, None where they are labelled), quarantined (the offenders of the conversion: path, problem),
    fingerprint, label_map, protocol, modes (what the protocol will do: `datasets.protocols.prospects`), warnings, splits,
    trivial (the colour baselines by mode; empty without masks) and sheet.

    Raises: DataError when there is no finished data set; CorruptData when its bytes were altered.
    """
    dataset = Dataset.open(address)
    manifest = dataset.manifest
    protocol = PROTOCOLS.get(manifest.protocol)
    modes = prospects(protocol, dataset) if protocol else []
    return {
        "address": dataset.address,
        "name": manifest.name,
        "version": manifest.version,
        "licence": manifest.licence,
        "clothes": manifest.extra.get("clothes"),
        "quarantined": manifest.extra.get("quarantined", []),
        "fingerprint": dataset.fingerprint,
        "label_map": manifest.label_map,
        "protocol": manifest.protocol,
        "modes": [asdict(one) for one in modes],
        "warnings": protocol_warnings(protocol, dataset, modes) if protocol else [],
        "splits": {name: _split_facts(dataset, name) for name in dataset.splits},
        "trivial": colour_baselines(dataset),
        "sheet": None if sheet is None else str(_write_sheet(dataset, Path(sheet))),
    }


def _split_facts(dataset: Dataset, split: str) -> dict[str, Any]:
    index, entry = dataset.index(split), dataset.manifest.splits[split]
    sizes = Counter(_size(sample.image) for sample in dataset.samples(split, _spaced(len(index), SIZES_FROM)))
    return {
        "images": len(index),
        "persons": index.num_persons,
        "clothes": index.num_clothes or None,
        "without_clothes": int((index.clothes < 0).sum()),
        "clothes_per_person": _clothes_per_person(index),
        "cameras": entry.cameras,
        "sequences": entry.sequences,
        "masks": entry.masks,
        "sizes": {f"{width}x{height}": count for (width, height), count in sizes.most_common(5)},
        "bytes": sum(shard.bytes for shard in entry.shards),
    }


def _spaced(rows: int, most: int) -> np.ndarray:
    """int64: all row numbers below `rows`, or `most` of them, evenly spaced."""
    return np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).astype(np.int64)


def _size(image: bytes) -> tuple[int, int]:
    height, width = image_size(image) or decode_image(image).shape[1:]
    return width, height


def _clothes_per_person(index: SplitIndex) -> dict[str, int] | None:
    """The number of persons that have 1, 2, 3 … outfits; None where no outfit is labelled."""
    if not index.num_clothes:
        return None
    pairs = np.unique(np.stack([index.person, index.clothes])[:, index.clothes >= 0], axis=1)
    outfits = Counter(np.unique(pairs[0], return_counts=True)[1].tolist())
    return {str(number): outfits[number] for number in sorted(outfits)}


def colour_baselines(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The colour baselines of each mode: rank-1 by clothes colour, and by skin and hair colour, as plain data.

    Single-shot modes are left out. Empty where a split of the protocol is missing or lacks masks.
    """
    protocol = PROTOCOLS.get(dataset.manifest.protocol)
    name = dataset.manifest.label_map
    if protocol is None or name is None:
        return {}
    modes = [m for m in protocol.modes if not m.draws and {m.query, m.gallery} <= set(dataset.splits)]
    used = {split for mode in modes for split in (mode.query, mode.gallery)}
    if any(dataset.manifest.splits[split].masks < dataset.manifest.splits[split].rows for split in used):
        return {}
    colours = {split: _colours(dataset, split) for split in used}
    scores: dict[str, dict[str, Any]] = {}
    for mode in modes:
        query, gallery = dataset.indexes(mode.query, mode.gallery)
        for kind in colours[mode.query]:
            score = rank1(
                colours[mode.query][kind], colours[mode.gallery][kind], query, gallery, mode.rule, protocol.camera
            )
            if score is not None:
                scores.setdefault(mode.name, {})[kind] = asdict(score)
    return scores


def _colours(dataset: Dataset, split: str) -> dict[str, np.ndarray]:
    labels = LABEL_MAPS[dataset.manifest.label_map or "lip20"]
    kinds = {"clothes colour": clothes_colour} | (
        {"skin and hair colour": skin_colour} if has_skin_labels(labels) else {}
    )
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for sample in dataset.samples(split):
        image = decode_image(sample.image, sample.key).permute(1, 2, 0).contiguous().numpy()
        parsing = decode_parsing(sample.parsing or b"", sample.key).numpy()
        for kind, measure in kinds.items():
            rows[kind].append(measure(image, parsing, labels))
    return {kind: stack(table) for kind, table in rows.items()}


def _write_sheet(dataset: Dataset, path: Path) -> Path:
    split = "train" if "train" in dataset.splits else dataset.splits[0]
    index = dataset.index(split)
    people = _spaced(index.num_persons, SHEET_PERSONS).tolist()
    rows = [_row(dataset, split, index, person) for person in people]
    manifest = dataset.manifest
    title = (
        f"{manifest.name} · {split} · {index.num_persons} persons · {len(index)} images · {dataset.fingerprint[:12]}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(title, rows).save(path)
    return path


def _row(dataset: Dataset, split: str, index: SplitIndex, person: int) -> Row:
    mine = np.flatnonzero(index.person == person)
    outfits = []
    for clothes in np.unique(index.clothes[mine])[:SHEET_OUTFITS].tolist():
        worn = mine[index.clothes[mine] == clothes]
        rows = worn[_spaced(len(worn), SHEET_IMAGES)]
        outfits.append((index.clothes_names[clothes][1] if clothes >= 0 else "", list(dataset.samples(split, rows))))
    return Row(index.person_names[person], outfits)
