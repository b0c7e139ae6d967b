"""A plan that one process of a node makes and all of them map: its rows are as many numbers as the epoch has images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datasets.sampling.clips import Pieces
from datasets.sampling.plan import Plan
from datasets.storage.shared_arrays import SharedArrays

VERSION = 1  # of plans: increased where the same settings give other batches


def shared_plan(shared: SharedArrays, described: str, make: Callable[[], Plan]) -> Plan:
    """The plan that `make` gives, its rows mapped. described: all that it depends on, with the data set's fingerprint.

    Raises: what `make` raises.
    """
    arrays = shared.fetch(f"plan {VERSION} by numpy {np.__version__}: {described}", lambda: _of_plan(make()))
    people, images, lanes, num_rows, clip = arrays["sizes"].tolist()
    return Plan(arrays["rows"], people, images, lanes, num_rows, clip or None)


def shared_pieces(shared: SharedArrays, described: str, make: Callable[[], Pieces]) -> Pieces:
    """The pieces of tracklets that `make` gives, mapped. described, Raises: as `shared_plan`."""
    arrays = shared.fetch(f"pieces {VERSION}: {described}", lambda: _of_pieces(make()))
    length, stride = arrays["sizes"].tolist()
    return Pieces(arrays["rows"], arrays["first"], arrays["person"], arrays["clothes"], length, stride)


def _of_plan(plan: Plan) -> dict[str, np.ndarray]:
    sizes = (plan.people, plan.images, plan.lanes, plan.num_rows, plan.clip or 0)
    return {"rows": plan.rows, "sizes": np.array(sizes, np.int64)}


def _of_pieces(pieces: Pieces) -> dict[str, np.ndarray]:
    arrays = {name: getattr(pieces, name) for name in ("rows", "first", "person", "clothes")}
    return arrays | {"sizes": np.array((pieces.length, pieces.stride), np.int64)}
