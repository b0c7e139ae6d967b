"""The published evaluator (CAL's), written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]  # of a published parser: path, pid, camid, clothes


def reference(distance: np.ndarray, query: Sequence[Row], gallery: Sequence[Row], rule: str) -> dict[str, float]:
    """rank-k and mAP: sort, take out junk, walk down. distance: [Q, G], smaller is nearer."""
    ap, first = [], []
    for row, q in zip(distance, query, strict=True):
        hits, position = [], 0
        for at in np.argsort(row, kind="stable"):
            g = gallery[at]
            if g["pid"] == q["pid"]:
                same_clothes = g.get("clothes") == q.get("clothes")
                if g["camid"] == q["camid"] or (rule == "same-clothes" and not same_clothes):
                    continue
                if rule == "clothes-changing" and same_clothes:
                    continue
            position += 1
            if g["pid"] == q["pid"]:
                hits.append(position)
        if hits:
            ap.append(np.mean([(n + 1) / at for n, at in enumerate(hits)]))
            first.append(hits[0])
    ranks = {f"rank-{k}": float(np.mean(np.array(first) <= k)) for k in (1, 5, 10, 20) if k <= len(gallery)}
    return ranks | {"mAP": float(np.mean(ap))}
