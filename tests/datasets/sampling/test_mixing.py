"""Mixing: against loops over all pairs of meetings, and where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sampling.mixing import effective_partners, mixing, people_of
from tests.datasets.sampling.simulated import simulated_index
from tests.datasets.sampling.test_plan import plan


def by_loops(epochs: list[np.ndarray]) -> dict[bool, float]:
    """Partners within (True) and between epochs, from the definition."""
    meetings = [
        (e, b, one, other)
        for e, people in enumerate(epochs)
        for b, batch in enumerate(people.tolist())
        for i, one in enumerate(batch)
        for j, other in enumerate(batch)
        if i != j and one != other
    ]
    pairs, same = {True: 0, False: 0}, {True: 0, False: 0}
    for e, b, one, other in meetings:
        for f, c, person, another in meetings:
            if one == person and (e, b) != (f, c):
                pairs[e == f] += 1
                same[e == f] += other == another
    return {key: pairs[key] / same[key] if same[key] else math.nan for key in pairs}


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 5), st.integers(2, 4), st.integers(3, 9))
def test_partners_are_those_of_the_definition(seed: int, num: int, batches: int, people: int, persons: int) -> None:
    """Also where a batch shows a person twice."""
    rng = np.random.default_rng(seed)
    epochs = [rng.integers(0, persons, (batches, people)) for _ in range(num)]
    found, expected = effective_partners(epochs), by_loops(epochs)
    assert [found.within, found.between] == pytest.approx([expected[True], expected[False]], nan_ok=True)


@pytest.mark.parametrize(("groups", "size"), [(10, 4), (4, 16), (1, 8)])
def test_isolated_groups_of_m_have_log_m_over_log_n(groups: int, size: int) -> None:
    """A batch is always one group: m - 1 partners, whatever the number of batches."""
    rng = np.random.default_rng(0)
    people = np.arange(groups * size).reshape(groups, size)
    epochs = [rng.permuted(np.concatenate([people] * 3), axis=1) for _ in range(2)]
    found = effective_partners(epochs)
    assert (found.within, found.between) == pytest.approx((size - 1, size - 1))
    num = groups * size
    assert mixing(found.within, num - 1) == pytest.approx(math.log(size) / math.log(num))


def test_batches_at_random_mix_everybody() -> None:
    rng = np.random.default_rng(0)
    epochs = [np.stack([rng.choice(200, 8, replace=False) for _ in range(1500)]) for _ in range(2)]
    found = effective_partners(epochs)
    assert (found.within, found.between) == pytest.approx((199, 199), rel=0.01)
    assert mixing(found.within, 199) == pytest.approx(1, abs=0.002)


def test_a_larger_window_mixes_more_up_to_the_full_sampler() -> None:
    """Within an epoch, 60 row groups of about 10 people each on 2 lanes; epochs of their own bring other people."""
    index = simulated_index(12_000, 600, group_rows=200)

    def partners(window: int | str) -> tuple[float, float]:
        epochs = [people_of(index, plan(index, window=window, lanes=2, images=2, epoch=epoch)) for epoch in range(2)]
        found = effective_partners(epochs)
        return found.within, found.between

    full = partners("all")
    assert full[0] == pytest.approx(full[1], rel=0.15)  # who has many images is drawn to the end, and meets the same
    found = [partners(window) for window in (1, 4, 16)]
    within = [mixing(one, full[0]) for one, _ in found]
    assert within == sorted(within)
    assert within[0] < 0.8
    assert within[-1] > 0.9
    assert found[0][0] < 2 * 2 * 10 * 2  # hardly more people than are open at once
    assert found[0][1] > 2 * found[0][0]


def test_nothing_to_tell_from_is_not_a_number() -> None:
    found = effective_partners([np.array([[0, 1, 2]])])
    assert math.isnan(found.within)
    assert math.isnan(found.between)
