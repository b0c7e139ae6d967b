"""Plans and pieces that processes share are the ones that each would make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasets.sampling.clips import Pieces
from datasets.sampling.plan import Plan
from datasets.sampling.shared_plan import shared_pieces, shared_plan
from datasets.storage.shared_arrays import SharedArrays

ROWS = np.random.default_rng(0).permutation(48).reshape(3, 16)


def unmade() -> Plan:
    raise AssertionError("made twice")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("clip", [None, 4])
def test_a_plan_comes_back(tmp_path: Path, dtype: type, clip: int | None) -> None:
    plan = Plan(ROWS.astype(dtype), people=4, images=4 if clip is None else 1, lanes=2, num_rows=48, clip=clip)
    for make in (lambda: plan, unmade):
        found = shared_plan(SharedArrays(tmp_path), "epoch 3", make)
        assert found.rows.dtype == dtype
        assert np.array_equal(found.rows, plan.rows)
        assert (found.people, found.images, found.lanes, found.num_rows, found.clip) == (
            plan.people, plan.images, plan.lanes, plan.num_rows, plan.clip,
        )  # fmt: skip
        assert np.array_equal(found.share(1, 2), plan.share(1, 2))
        assert found.never_drawn() == 0


def test_pieces_come_back(tmp_path: Path) -> None:
    pieces = Pieces(np.arange(9)[::-1], np.array([0, 4, 9]), np.array([0, 1]), np.array([2, 3]), length=3, stride=2)
    for make in (lambda: pieces, unmade):
        found = shared_pieces(SharedArrays(tmp_path), "some", make)  # type: ignore[arg-type]
        ours, theirs = (one.draw(np.array([1, 0, 1]), np.random.default_rng(5)) for one in (found, pieces))
        assert np.array_equal(ours, theirs)
        assert (found.length, found.stride) == (3, 2)
        assert found.person.tolist() == [0, 1]
        assert found.clothes.tolist() == [2, 3]
