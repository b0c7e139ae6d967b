"""Re-ranking against the dense form of the published code: `python -m benchmarks.methods.reranking [--threads 2] [--json]`.

3,000 queries × 20,000 entries × 512 dimensions, and both forms on 500 × 3,500, which a dense matrix still fits. Each in a
process of its own, for the peak of resident memory (imports and features included), in CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import options, peak_gib, run
from methods.matches import Labels
from methods.ranking_parts import rank_blocks
from methods.reranking import rerank

PERSONS, DIMENSIONS, K1, K2, WEIGHT = 1500, 512, 20, 6, 0.3
TARGETS = {
    "large, peak GiB": ("<=", 1.5),
    "faster than the dense form": (">=", 3),
    "dense form's memory over ours": (">=", 2),
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--queries", type=int, default=3_000)
    parser.add_argument("--gallery", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=1)
    run(parser, TARGETS, figures)


def figures(args: argparse.Namespace) -> dict[str, float]:
    """Seconds, ratios and peak memory."""
    results: dict[str, float] = {}
    measured = {
        "large": apart(ours, args.queries, args.gallery, args.threads),
        "small": apart(ours, 500, 3_500, args.threads),
        "small, dense form": apart(dense, 500, 3_500, args.threads),
        "nothing": apart(nothing, 500, 3_500, args.threads),
    }
    assert abs(measured["small"]["mAP"] - measured["small, dense form"]["mAP"]) < 1e-3, (
        measured
    )  # theirs is half precise
    for name, found in measured.items():
        results |= {f"{name}, {key}": value for key, value in found.items() if name != "nothing"}
    bytes_of_pair = 4 + 4 + 2 + 2  # distance, order, and descriptions before and after their averaging
    results["large, dense form would hold GiB"] = (args.queries + args.gallery) ** 2 * bytes_of_pair / 2**30
    small, slow, idle = (measured[name] for name in ("small", "small, dense form", "nothing"))
    results["faster than the dense form"] = slow["s"] / small["s"]
    results["dense form's memory over ours"] = (slow["peak GiB"] - idle["peak GiB"]) / (
        small["peak GiB"] - idle["peak GiB"]
    )
    return results


Way = Callable[[Tensor, Tensor], Iterable[Tensor]]


def apart(way: Way, num_query: int, num_gallery: int, threads: int) -> dict[str, float]:
    """Seconds, peak memory and mAP of a way, in another process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (way, num_query, num_gallery, threads))


def measure(way: Way, num_query: int, num_gallery: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    query_labels, gallery_labels = labels(num_query, 1), labels(num_gallery, 2)
    query, gallery = features(query_labels, 3), features(gallery_labels, 4)
    clock = time.process_time if threads == 1 else time.perf_counter
    start = clock()
    ranking = rank_blocks(way(query, gallery), query_labels, gallery_labels, "general")
    return {
        "s": clock() - start,
        "peak GiB": peak_gib(),
        "mAP": ranking.mAP,
    }


def labels(num: int, seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    return Labels(rng.integers(0, PERSONS, num), rng.integers(0, 12, num), np.full(num, -1))


def features(of: Labels, seed: int) -> Tensor:
    centres = torch.randn(PERSONS, DIMENSIONS, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(len(of), DIMENSIONS, generator=torch.Generator().manual_seed(seed))
    return F.normalize(centres[torch.from_numpy(of.person)] + 2.5 * noise, dim=1)


def ours(query: Tensor, gallery: Tensor) -> Iterable[Tensor]:
    return rerank(query, gallery, k1=K1, k2=K2, weight=WEIGHT).blocks()


def nothing(query: Tensor, gallery: Tensor) -> list[Tensor]:
    """Imports, features and one ranking."""
    return [1 - query @ gallery.T]


def dense(query: Tensor, gallery: Tensor) -> list[Tensor]:
    """The form of the published code: N × N distances, order and descriptions, these in half precision."""
    x = torch.cat([query, gallery])
    num, num_query = len(x), len(query)
    distance = (2 - 2 * x @ x.T).numpy()
    distance = np.transpose(distance / distance.max(axis=0))
    order = np.argsort(distance).astype(np.int32)

    def reciprocal(i: int, k: int) -> np.ndarray:
        near = order[i, : k + 1]
        return near[np.nonzero(order[near, : k + 1] == i)[0]]

    described = np.zeros_like(distance, dtype=np.float16)
    for i in range(num):
        members = reciprocal(i, K1)
        expanded = members
        for j in members:
            theirs = reciprocal(j, round(K1 / 2))
            if len(np.intersect1d(theirs, members)) > 2 / 3 * len(theirs):
                expanded = np.append(expanded, theirs)
        expanded = np.unique(expanded)
        weight = np.exp(-distance[i, expanded])
        described[i, expanded] = weight / weight.sum()
    distance = distance[:num_query]
    mean = np.zeros_like(described)
    for i in range(num):
        mean[i] = described[order[i, :K2]].mean(axis=0)
    inverted = [np.nonzero(mean[:, j])[0] for j in range(num)]
    jaccard = np.zeros_like(distance)
    for i in range(num_query):
        common = np.zeros(num, dtype=np.float32)
        for j in np.nonzero(mean[i])[0]:
            common[inverted[j]] += np.minimum(mean[i, j], mean[inverted[j], j])
        jaccard[i] = 1 - common / (2 - common)
    return [torch.from_numpy(((1 - WEIGHT) * jaccard + WEIGHT * distance)[:, num_query:].copy())]


if __name__ == "__main__":
    main()
