"""P×K sampling: the published samplers' counted properties, and what every draw promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import DataError
from datasets.sampling.chunks import cut
from datasets.sampling.samplers import SAMPLERS, BatchShape, Labels
from tests import golden


def sample(name: str, person: np.ndarray, people: int, images: int, rng: np.random.Generator) -> np.ndarray:
    """An epoch of batches, everything at hand: int [batches, people × images]. Everybody has two outfits."""
    labels = Labels(person, 2 * person + np.arange(len(person)) % 2)
    shape = BatchShape(people, images, min(2, images))
    chunks = SAMPLERS[name].chunks(labels, shape, rng)
    return chunks.rows[SAMPLERS[name].batches(chunks, people, rng)].reshape(-1, people * images)


REFERENCES = {  # which of ours gives the properties of which published sampler, and over how many workers that ran
    "cal_distributed_world1": ("chunks", 1),
    "cal_distributed_world2": ("chunks", 2),
    "cal_distributed_world3": ("chunks", 3),
    "torchreid": ("distinct", 1),
    "clip_reid_and_sps_and_bot": ("distinct", 1),
    "clip_reid_ddp_world1": ("distinct", 1),
}
DOCUMENTED = {"cal_inference_sampler"}  # who embeds which test images: ours share them out another way
CASES = golden.parts("samplers", documented=DOCUMENTED)
SEEDS = range(300)


@pytest.mark.parametrize(("case", "name"), CASES)
def test_golden_properties_of_the_published_samplers(case: golden.Case, name: str) -> None:
    """The reference drew once (seed 0): its counts must be among ours, and what does not vary must be equal."""
    sampler, workers = case.choose(REFERENCES, name)
    reference = case.expected[name]
    images = int(case.params["num_instances"])
    people = workers * int(case.params["batch_size"]) // images
    person = np.asarray(case.raw_inputs["labels"])
    if isinstance(reference, golden.Raises) or reference["full_batches"] == 0:
        with pytest.raises(DataError, match="identities"):
            sample(sampler, person, people, images, np.random.default_rng(0))
        return
    drawn = [sample(sampler, person, people, images, np.random.default_rng(seed)) for seed in SEEDS]
    assert reference["each_run_of_K_is_one_identity"]
    for rows in drawn:
        of_chunk = person[rows].reshape(-1, images)
        assert (of_chunk == of_chunk[:, :1]).all()
    assert _is_one_of(reference["full_batches"], [len(rows) for rows in drawn])
    if workers > 1:  # the published ranks draw apart; ours are slices of one global batch
        return
    distinct_ids = [[len(np.unique(batch)) for batch in person[rows]] for rows in drawn]
    everywhere = [count for counts in distinct_ids for count in counts]
    assert min(everywhere) <= reference["distinct_ids_per_batch_min"]
    assert max(everywhere) >= reference["distinct_ids_per_batch_max"]
    if sampler == "distinct":
        assert set(everywhere) == {people} == {reference["distinct_ids_per_batch_min"]}
        _check_left_out(reference, drawn, len(person))
        assert _is_one_of(reference["len_actual"], [rows.size for rows in drawn])


@pytest.mark.parametrize("case", golden.cases("samplers"))
def test_golden_lengths_and_images_left_out_by_the_shuffled_chunks(case: golden.Case) -> None:
    """CAL's own count goes over all chunks, the last partial batch included."""
    reference = case.expected.get("cal_distributed_world1")
    if reference is None or isinstance(reference, golden.Raises):
        return
    person = np.asarray(case.raw_inputs["labels"])
    pieces = [cut(person, int(case.params["num_instances"]), np.random.default_rng(seed)).rows for seed in SEEDS]
    assert {rows.size for rows in pieces} == {reference["len_actual"]}
    _check_left_out(reference, pieces, len(person))


def _check_left_out(reference: Mapping[str, int], drawn: list[np.ndarray], num: int) -> None:
    never, twice = zip(*(_never_and_twice(rows, num) for rows in drawn), strict=True)
    assert _is_one_of(reference["images_never_drawn"], never)
    assert _is_one_of(reference["images_drawn_twice_or_more"], twice)


def _is_one_of(value: int, ours: Sequence[int]) -> bool:
    """Equal where ours never varies; else it could have been a draw of ours, by six standard deviations."""
    return value in ours or abs(value - np.mean(ours)) < 6 * np.std(ours)


def _never_and_twice(rows: np.ndarray, num: int) -> tuple[int, int]:
    times = np.bincount(rows.ravel(), minlength=num)
    return int((times == 0).sum()), int((times > 1).sum())


COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@settings(max_examples=60)
@given(COUNTS, st.integers(1, 5), st.integers(1, 4), st.integers(0, 99), st.sampled_from(sorted(SAMPLERS)))
def test_every_batch_has_people_times_images_rows(
    counts: list[int], people: int, images: int, seed: int, name: str
) -> None:
    person = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rng = np.random.default_rng(seed)
    num_chunks = np.maximum(np.array(counts) // images, 1)
    if people > (num_chunks.sum() if name == "chunks" else len(counts)):
        with pytest.raises(DataError):
            sample(name, person, people, images, rng)
        return
    rows = sample(name, person, people, images, rng)
    assert rows.shape[1] == people * images
    who = person[rows].reshape(len(rows), people, images)
    assert (who == who[:, :, :1]).all()
    if name != "chunks":
        assert all(len(set(batch[:, 0])) == people for batch in who)
    if name != "appearance":
        times = np.bincount(rows.ravel(), minlength=len(person))
        has_enough = np.array(counts)[person] >= images
        assert times[has_enough].max(initial=0) <= 1  # without replacement
    drawn_chunks = np.bincount(who[:, :, 0].ravel(), minlength=len(counts))
    assert (drawn_chunks <= num_chunks).all()
    if name == "chunks":
        assert num_chunks.sum() - drawn_chunks.sum() < people  # only the last, partial batch is lost
    else:
        assert (drawn_chunks < num_chunks).sum() < people  # fewer than P persons have chunks left


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_image_of_a_person_is_drawn_equally_often(name: str) -> None:
    """Within 5 standard deviations over 2,000 epochs, for remainders (7 images, K = 3) and replacement (2 images)."""
    person = np.repeat(np.arange(4), [7, 7, 7, 2])
    epochs = 2000
    times = np.zeros(len(person))
    for seed in range(epochs):
        drawn = sample(name, person, 2, 3, np.random.default_rng(seed))
        times += np.bincount(drawn.ravel(), minlength=len(person))
    for who in range(4):
        frequency = times[person == who] / epochs
        assert np.abs(frequency - frequency.mean()).max() < 5 * 0.9 / np.sqrt(epochs)
    if name == "chunks":  # 7 chunks, of which 6 fill batches: each person's are drawn in 6 of 7 cases
        assert times[person == 0].sum() / epochs == pytest.approx(6 * 6 / 7, rel=0.05)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_a_pool_gives_every_chunk_once(name: str) -> None:
    first = np.array([0, 3, 4, 4, 9])
    pool = SAMPLERS[name].pool(first, np.random.default_rng(3))
    pool.admit([0, 1])
    drawn = pool.draw(2)
    pool.admit([2, 3])
    while pool.holds(1):
        drawn += pool.draw(1)
    assert sorted(drawn) == list(range(9))


def test_a_person_with_few_images_is_drawn_with_replacement_to_exactly_k() -> None:
    pieces = cut(np.array([0, 0, 1]), 4, np.random.default_rng(0))
    assert pieces.rows.shape == (2, 4)
    assert set(pieces.rows[0]) <= {0, 1}
    assert set(pieces.rows[1]) == {2}


def test_the_seed_decides() -> None:
    person = np.repeat(np.arange(10), 6)
    one, same, other = (sample("distinct", person, 4, 2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (one == same).all()
    assert one.shape != other.shape or (one != other).any()


def test_too_few_identities_are_named_with_the_numbers() -> None:
    person = np.array([0, 0, 5, 7])
    with pytest.raises(DataError, match=r"8 people × 4 images is larger.* has 3 identities; .*at most 3"):
        sample("distinct", person, 8, 4, np.random.default_rng(0))
    with pytest.raises(DataError, match=r"has 3 identities in 4 chunks of 1; .*at most 4"):
        sample("chunks", person, 5, 1, np.random.default_rng(0))
    assert sample("chunks", person, 4, 1, np.random.default_rng(0)).shape == (1, 4)  # a person may come twice
