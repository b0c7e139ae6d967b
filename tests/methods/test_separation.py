"""Own against other similarities: the AUC against a count over all pairs, ties, histograms, uneven shares of workers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from methods import separation as module
from methods.separation import BINS, Separation, separation
from tests.orchestration.processes import in_processes


def counted(features: Tensor, labels: Tensor, vectors: Tensor) -> float:
    """The AUC over all pairs of an own and another similarity, one by one."""
    own = [float(f @ vectors[label]) for f, label in zip(features, labels, strict=True)]
    other = [float(f @ v) for f, c in zip(features, labels, strict=True) for k, v in enumerate(vectors) if k != c]
    return sum((a > b) + 0.5 * (a == b) for a in own for b in other) / (len(own) * len(other))


@given(st.integers(1, 12), st.integers(2, 5), st.integers(1, 3), st.integers(1, 7), st.integers(0, 10**6))
def test_the_auc_counts_every_pair_and_ties_half(n: int, classes: int, dim: int, chunk: int, seed: int) -> None:
    """Small whole numbers, of which many products are equal."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randint(-2, 3, (n, dim), generator=random).double()
    vectors = torch.randint(-2, 3, (classes, dim), generator=random).double()
    labels = torch.randint(0, classes, (n,), generator=random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAIRS_AT_ONCE", chunk * classes)
        found = separation("", features, labels, vectors, cosine=False)
    assert found is not None
    assert found.auc == pytest.approx(counted(features, labels, vectors), abs=1e-12)
    assert int(found.own.sum()) == n
    assert int(found.other.sum()) == n * (classes - 1)


def example() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    vectors = torch.randn(6, 4, dtype=torch.float64, generator=random)
    labels = torch.randint(0, 6, (40,), generator=random)
    return vectors[labels] + torch.randn(40, 4, dtype=torch.float64, generator=random), labels, vectors


def test_cosines_do_not_depend_on_lengths_and_histograms_hold_their_values() -> None:
    features, labels, vectors = example()
    found = separation("", features, labels, vectors)
    scaled = separation("", features * torch.rand(40, 1, dtype=torch.float64).add(0.5), labels, vectors * 3)
    assert found is not None
    assert scaled is not None
    assert found.auc == scaled.auc
    unit = [x / x.norm(dim=1, keepdim=True) for x in (features, vectors)]
    assert found.auc == pytest.approx(counted(unit[0], labels, unit[1]), abs=1e-12)
    own = (unit[0] * unit[1][labels]).sum(1)
    centres = (torch.arange(BINS) + 0.5) * 2 * found.bound / BINS - found.bound
    assert found.bound == pytest.approx(1)
    torch.testing.assert_close(
        centres.repeat_interleave(found.own), own.sort().values.float(), atol=1.01 / BINS, rtol=0
    )


def test_vectors_that_are_all_alike_tell_nothing() -> None:
    features, labels, vectors = example()
    found = separation("", features, labels, vectors[:1].expand(6, 4))
    assert found is not None
    assert found.auc == 0.5


def test_without_an_image_or_with_one_class_there_is_nothing_to_compare() -> None:
    features, labels, vectors = example()
    assert separation("", features[:0], labels[:0], vectors) is None
    assert separation("", features, torch.zeros_like(labels), vectors[:1]) is None


def share_of(workers: int) -> Separation | None:
    """The last worker has nothing, the others uneven shares."""
    import torch.distributed as dist

    features, labels, vectors = example()
    ends = [0, 11, 40, 40][: workers + 1]
    part = slice(ends[dist.get_rank()], ends[dist.get_rank() + 1])
    return separation("", features[part], labels[part], vectors)


def test_workers_compare_the_images_of_all() -> None:
    features, labels, vectors = example()
    alone = separation("", features, labels, vectors)
    assert alone is not None
    for found in in_processes(3, share_of, 3):
        assert found.auc == alone.auc
        assert torch.equal(found.own, alone.own)
        assert torch.equal(found.other, alone.other)
