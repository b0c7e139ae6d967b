"""Ranking against the usual evaluators, distances included: `python -m benchmarks.methods.ranking [--threads 2] [--json]`.

1,000 queries × 100,000 entries × 256 dimensions, in CPU seconds, so that a shared machine disturbs little (with
several threads, which wait for each other at full speed, in seconds). First comes a gallery of 1,000,000 entries in a
memory-mapped file, with the peak of resident memory (the mapped file included).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import options, peak_gib, run
from methods.matches import Labels
from methods.ranking import rank

PERSONS, CAMERAS, OUTFITS, DIMENSIONS = 1000, 12, 3, 256
RULE = "clothes-changing"
TARGETS = {
    "faster than masked argsort, numpy": (">=", 3),
    "faster than masked argsort, torch": (">=", 3),
    "faster than per-query loop": (">=", 5),
    "from a file, peak GiB": ("<=", 3),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000, help="entries in the file; 0 leaves this part out")
    parser.add_argument("--threads", type=int, default=1)
    run(parser, TARGETS, figures)


def figures(args: argparse.Namespace) -> dict[str, float]:
    """Seconds, ratios and peak memory."""
    torch.set_num_threads(args.threads)
    results = large(args.queries, args.large) if args.large else {}  # first: a process's peak never falls
    return results | against_usual(args.queries, args.gallery)


def against_usual(num_queries: int, num_gallery: int) -> dict[str, float]:
    query_labels, gallery_labels = labels(num_queries, 1), labels(num_gallery, 2)
    query, gallery = features(query_labels, 3), features(gallery_labels, 4)
    ways: dict[str, Callable[[], float]] = {
        "redress": lambda: rank(query, gallery, query_labels, gallery_labels, RULE).mAP,
        "masked argsort, numpy": lambda: masked_argsort(query, gallery, query_labels, gallery_labels, numpy_order),
        "masked argsort, torch": lambda: masked_argsort(query, gallery, query_labels, gallery_labels, torch_order),
        "per-query loop": lambda: per_query_loop(query, gallery, query_labels, gallery_labels),
    }
    results, values = {}, {}
    for name, way in ways.items():
        times = []
        for _ in range(3 if name == "redress" else 2):
            start = now()
            values[name] = way()
            times.append(now() - start)
        results[f"{name}, s"] = min(times)
    assert np.ptp(list(values.values())) < 1e-5, values  # the last bit of a float32 product is its library's
    ours = results["redress, s"]
    return results | {f"faster than {name}": results[f"{name}, s"] / ours for name in list(ways)[1:]}


def large(num_queries: int, num_gallery: int, piece: int = 50_000) -> dict[str, float]:
    query_labels, gallery_labels = labels(num_queries, 1), labels(num_gallery, 2)
    query = features(query_labels, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gallery.npy")
        file = np.lib.format.open_memmap(path, "w+", np.float32, (num_gallery, DIMENSIONS))
        for start in range(0, num_gallery, piece):
            part = slice(start, start + piece)
            mine = Labels(gallery_labels.person[part], gallery_labels.camera[part], gallery_labels.clothes[part])
            file[part] = features(mine, 5 + start).numpy()
        file.flush()
        del file  # or its pages would count twice
        gallery = np.load(path, mmap_mode="r")
        start_s = now()
        result = rank(query, gallery, query_labels, gallery_labels, RULE)
        spent_s = now() - start_s
    peak = peak_gib()
    return {"from a file, s": spent_s, "from a file, peak GiB": peak, "from a file, mAP": result.mAP}


def now() -> float:
    """Seconds from some point on, by the clock that suits the number of threads."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def labels(num: int, seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    person = rng.integers(0, PERSONS, num)
    return Labels(person, rng.integers(0, CAMERAS, num), person * OUTFITS + rng.integers(0, OUTFITS, num))


def features(of: Labels, seed: int) -> Tensor:
    centres = torch.randn(PERSONS * OUTFITS, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(len(of), DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    person = centres[torch.from_numpy(of.person * OUTFITS)]
    return F.normalize(0.4 * person + 0.4 * centres[torch.from_numpy(of.clothes)] + noise, dim=1)


def numpy_order(distance: Tensor) -> np.ndarray:
    return np.argsort(distance.numpy(), axis=1)


def torch_order(distance: Tensor) -> np.ndarray:
    return torch.argsort(distance, dim=1, stable=True).numpy()


def masked_argsort(
    query: Tensor, gallery: Tensor, q: Labels, g: Labels, order_of: Callable[[Tensor], np.ndarray]
) -> float:
    """The vectorised form: sort, masks, cumulative sums. In parts of 250 queries, which saves it memory and time."""
    found = []
    for part in torch.arange(len(query)).split(250):
        rows = part.numpy()
        order = order_of(-(query[part] @ gallery.T))
        same_person = g.person[order] == q.person[rows, None]
        same_camera = g.camera[order] == q.camera[rows, None]
        same_clothes = g.clothes[order] == q.clothes[rows, None]
        keep = ~(same_person & (same_camera | same_clothes))
        match = same_person & keep
        position = np.cumsum(keep, axis=1)
        number = np.cumsum(match, axis=1)
        num = number[:, -1]
        average_precision = np.where(match, number / np.maximum(position, 1), 0).sum(1)[num > 0] / num[num > 0]
        found.append(average_precision)
    return float(np.mean(np.concatenate(found)))


def per_query_loop(query: Tensor, gallery: Tensor, q: Labels, g: Labels) -> float:
    """The form of the published evaluators (Simple-CCReID's): one sort, then set operations query by query.

    They also multiply query by query; one product for all is kinder to them.
    """
    curve = np.zeros(len(gallery))
    index = np.argsort(-(query @ gallery.T).numpy(), axis=1)
    found = []
    for i in range(len(query)):
        person, camera = np.argwhere(g.person == q.person[i]), np.argwhere(g.camera == q.camera[i])
        clothes = np.argwhere(g.clothes == q.clothes[i])
        good = np.setdiff1d(np.setdiff1d(person, camera, assume_unique=True), clothes, assume_unique=True)
        junk = np.union1d(np.intersect1d(person, clothes), np.intersect1d(person, camera))
        if not len(good):
            continue
        order = index[i][~np.isin(index[i], junk)]
        positions = np.flatnonzero(np.isin(order, good))
        hit = np.zeros(len(gallery))
        hit[positions[0] :] = 1
        curve += hit
        found.append(np.mean((np.arange(len(positions)) + 1.0) / (positions + 1.0)))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
