"""The plan of an epoch: the same for any number of workers, every row group in one lane, each image as promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.errors import DataError
from datasets.format.index import GroupPlace, SplitIndex
from datasets.sampling.clips import cut_pieces
from datasets.sampling.plan import Plan, find_units, plan_epoch
from datasets.sampling.samplers import SAMPLERS

FINGERPRINT = "5e" * 32


def index_of(person: np.ndarray, group: np.ndarray, group_bytes: int = 1000) -> SplitIndex:
    """An index with these labels. A person's first half of rows is one outfit; each outfit has two tracklets."""
    person, group = person.astype(np.int64), group.astype(np.int64)
    rows = np.bincount(group)
    firsts = np.concatenate([[0], np.cumsum(rows)])
    unknown = np.full(len(person), -1)
    counts = np.bincount(person)
    in_person = np.arange(len(person)) - (np.cumsum(counts) - counts)[person]
    sequence = 4 * person + 4 * in_person // counts[person]
    places = tuple(
        GroupPlace("train/0.parquet", g, g * group_bytes, group_bytes, "", int(n)) for g, n in enumerate(rows)
    )
    names = [str(who) for who in range(int(person.max()) + 1)]
    return SplitIndex(
        "train", person, sequence // 2, unknown, sequence, group, np.arange(len(group)) - firsts[group],
        names, [], [], [], places, False, lambda split, column: pa.chunked_array([[str(i) for i in range(len(person))]]),
    )  # fmt: skip


def simulated(persons: int, seed: int = 0, persons_per_group: int = 3, largest: int = 9) -> SplitIndex:
    """Whole persons per row group; every seventh one alone has three row groups, as a large person does."""
    rng = np.random.default_rng(seed)
    where: list[list[int]]
    who, where, group = [], [], 0
    for person in range(persons):
        pieces = 3 if person % 7 == 3 else 1
        if pieces > 1 and where:
            group = max(where[-1]) + 1
        for piece in range(pieces):
            num = int(rng.integers(1, largest))
            who.append([person] * num)
            where.append([group + piece] * num)
        if pieces > 1 or (person + 1) % persons_per_group == 0:
            group = max(where[-1]) + 1
    return index_of(np.concatenate(who), np.unique(np.concatenate(where), return_inverse=True)[1])


def plan(index: SplitIndex, **changes: object) -> Plan:
    """clip: (length, stride). appearances is 2 where the sampler needs it."""
    arguments: dict = {"sampler": "distinct", "people": 8, "images": 3, "window": 4, "lanes": 4, "seed": 1, "epoch": 0}
    arguments |= changes
    clip = arguments.pop("clip", None)
    arguments["pieces"] = None if clip is None else cut_pieces(index, *clip)
    if arguments["sampler"] == "appearance":
        arguments.setdefault("appearances", 2)
    return plan_epoch(index, FINGERPRINT, **arguments)


SHAPES = st.fixed_dictionaries(
    {
        "sampler": st.sampled_from(sorted(SAMPLERS)),
        "clip": st.sampled_from([None, None, (2, 1), (4, 2)]),
        "window": st.one_of(st.just("all"), st.integers(1, 12)),
        "lanes": st.sampled_from([1, 2, 4]),
        "seed": st.integers(0, 9),
        "epoch": st.integers(0, 3),
    }
)


@settings(max_examples=60)
@given(SHAPES, st.integers(60, 90))
def test_batches_hold_people_times_images_with_each_row_in_its_lane(shape: dict, persons: int) -> None:
    index = simulated(persons, shape["seed"])
    found = plan(index, **shape)
    assert found.num_batches >= 1
    samples = found.rows.reshape(found.num_batches, 24, -1)  # [batches, people × images, frames]
    assert samples.shape[2] == (shape["clip"] or (1, 1))[0]
    assert (index.sequence[samples] == index.sequence[samples[:, :, :1]]).all()
    assert (np.diff(samples, axis=2) >= 0).all()  # in the order of their frames
    who = index.person[samples[:, :, 0]].reshape(found.num_batches, 8, 3)
    assert (who == who[:, :, :1]).all()
    if shape["sampler"] != "chunks":
        assert all(len(set(batch[:, 0])) == 8 for batch in who)
    counts = np.bincount(index.person)
    if shape["clip"] is not None:  # each of a person's tracklets is one piece
        counts = np.bincount(index.person[np.unique(index.sequence, return_index=True)[1]])
    elif shape["sampler"] != "appearance":
        times = np.bincount(found.rows.ravel(), minlength=len(index))
        assert times[counts[index.person] >= 3].max() <= 1
    drawn_chunks = np.bincount(who[:, :, 0].ravel(), minlength=index.num_persons)
    assert (drawn_chunks <= np.maximum(counts // 3, 1)).all()


@settings(max_examples=60)
@given(SHAPES.filter(lambda shape: shape["window"] != "all"), st.integers(60, 90))
def test_with_a_window_each_row_group_and_each_person_is_in_one_lane(shape: dict, persons: int) -> None:
    index = simulated(persons, shape["seed"])
    lanes = np.split(plan(index, **shape).rows, shape["lanes"], axis=1)
    for classes in (index.group, index.person):
        of_lane = [set(np.unique(classes[lane]).tolist()) for lane in lanes]
        assert sum(map(len, of_lane)) == len(set().union(*of_lane))


@settings(max_examples=25)
@given(SHAPES, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_every_number_of_workers_that_divides_the_lanes_shares_out_the_same_batches(shape: dict, lanes: int) -> None:
    index = simulated(90)
    shape = shape | {"lanes": lanes, "people": 12, "window": shape["window"] if lanes < 6 else "all"}
    found = plan(index, **shape)
    assert (plan(index, **shape).rows == found.rows).all()  # whoever plans
    for workers in (n for n in range(1, lanes + 1) if lanes % n == 0):
        shares = [found.share(worker, workers) for worker in range(workers)]
        assert (np.concatenate(shares, axis=1) == found.rows).all()


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("lanes", [1, 4])
def test_no_more_row_groups_are_open_than_the_window_allows(sampler: str, lanes: int) -> None:
    """With persons of equal size nothing needs more than the window; a group is read between its first and last use."""
    index = index_of(np.repeat(np.arange(400), 6), np.repeat(np.arange(40), 60))
    found = plan(index, sampler=sampler, window=3, lanes=lanes)
    for lane in np.split(index.group[found.rows], lanes, axis=1):
        used = [np.flatnonzero((lane == g).any(axis=1)) for g in np.unique(lane)]
        is_open = np.zeros(len(lane), dtype=int)
        for batches in used:
            is_open[batches[0] : batches[-1] + 1] += 1
        assert is_open.max() <= 3 + 1  # one may close and the next open within a batch


def test_a_window_over_everything_draws_like_the_papers_sampler() -> None:
    """One lane with room for all row groups: as many batches, and persons meet as often, within sampling error."""
    index = simulated(30)

    def meetings(**shape: object) -> tuple[float, np.ndarray]:
        together, batches = np.zeros((30, 30)), 0
        for epoch in range(150):
            found = plan(index, lanes=1, epoch=epoch, **shape)
            batches += found.num_batches
            for batch in index.person[found.rows[:, ::3]]:
                together[np.ix_(batch, batch)] += 1
        return batches / 150, together / batches

    (num_all, all_), (num_window, window) = meetings(window="all"), meetings(window=10_000)
    assert num_window == pytest.approx(num_all, rel=0.02)
    assert np.abs(all_ - window).max() < 0.06


def test_epochs_and_seeds_and_data_sets_differ() -> None:
    index = simulated(70)
    plans = [
        plan(index),
        plan(index, epoch=1),
        plan(index, seed=2),
        plan_epoch(index, "77" * 32, sampler="distinct", people=8, images=3, window=4, lanes=4, seed=1, epoch=0),
    ]
    assert (plan(index).rows == plans[0].rows).all()
    contents = {found.rows.tobytes() for found in plans}
    assert len(contents) == len(plans)
    lanes = [frozenset(index.group[np.split(found.rows, 4, axis=1)[0]].ravel().tolist()) for found in plans]
    assert len(set(lanes)) == len(plans)  # row groups are dealt afresh


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_what_a_window_leaves_out_changes_from_epoch_to_epoch(sampler: str) -> None:
    """Over epochs every image is used, and images of persons of one size about equally often."""
    index = index_of(np.repeat(np.arange(44), 6), np.repeat(np.arange(22), 12))
    times = np.zeros(len(index))
    epochs = 200
    for epoch in range(epochs):
        found = plan(index, sampler=sampler, window=2, people=4, lanes=4, epoch=epoch)
        tail = len(index) - found.rows.size
        assert tail <= 4 / 22 * len(index)  # lanes over units
        assert sampler == "appearance" or found.never_drawn() == tail
        times += np.bincount(found.rows.ravel(), minlength=len(index))
    frequency = times / epochs
    assert frequency.mean() > 0.8
    assert np.abs(frequency - frequency.mean()).max() < 5 * 0.5 / np.sqrt(epochs)


@pytest.mark.parametrize("window", ["all", 2])
def test_pieces_of_tracklets_are_drawn_equally_often_and_so_are_their_frames(window: str | int) -> None:
    """Tracklets of five frames, clips of two drawn from two parts: of three frames and of two."""
    index = index_of(np.repeat(np.arange(44), 20), np.repeat(np.arange(22), 40))
    epochs = 150
    times = np.zeros(len(index))
    for epoch in range(epochs):
        found = plan(index, clip=(2, 3), images=2, people=4, lanes=2, window=window, epoch=epoch)
        times += np.bincount(found.rows.ravel(), minlength=len(index))
    pieces = times.reshape(-1, 5).sum(1) / 2 / epochs
    assert np.abs(pieces - pieces.mean()).max() < 5 * 0.5 / np.sqrt(epochs)
    of_frame = times.reshape(-1, 5).sum(0) / times.sum()
    assert of_frame == pytest.approx([1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6], abs=0.02)


def test_other_epochs_draw_other_frames_and_no_clip_depends_on_how_many_draw() -> None:
    index = simulated(70)
    one, same, other = (plan(index, clip=(2, 1), epoch=epoch).rows for epoch in (0, 0, 1))
    assert (one == same).all()
    assert one.tobytes() != other.tobytes()
    assert (
        plan(index, clip=(2, 1), window="all", lanes=1).rows.tobytes()
        == plan(index, clip=(2, 1), window="all", lanes=8).rows.tobytes()
    )


def test_row_groups_that_share_a_person_form_one_unit() -> None:
    person = np.array([0, 0, 1, 1, 2, 3, 3, 4, 4])
    group = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4])
    units = find_units(person, group, 5)
    persons = [set(units.persons[a:b]) for a, b in zip(units.first, units.first[1:], strict=False)]
    assert persons == [{0, 1}, {2, 3}, {4}]
    assert units.groups.tolist() == [2, 2, 1]


def test_units_chain_over_many_row_groups_and_any_order_of_rows() -> None:
    """Persons 0 … 9 each lie in row groups i and i + 1: all eleven belong together."""
    person = np.repeat(np.arange(10), 2)
    group = np.stack([np.arange(10), np.arange(10) + 1], 1).ravel()
    order = np.random.default_rng(0).permutation(20)
    units = find_units(person[order], group[order], 11)
    assert units.groups.tolist() == [11]
    assert sorted(units.persons.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"people": 10}, r"batch.lanes=4 cannot share batch.people=10 equally.*one of 1, 2, 5, 10.*multiple of 4"),
        ({"people": 80}, r"80 people × 3 images is larger.*has 70 identities"),
        ({"window": 0}, r"batch.window=0"),
        ({"sampler": "random"}, r"no sampler 'random'; there are distinct, chunks, appearance"),
        ({"images": 0}, r"set batch.images to at least 1"),
        ({"people": 0}, r"set batch.people to at least 1"),
        ({"lanes": 0}, r"cannot share"),
        ({"sampler": "appearance", "appearances": None}, r"needs batch.appearances"),
        ({"sampler": "appearance", "appearances": 4}, r"3 images of a person cannot show 4 outfits"),
    ],
)
def test_impossible_batches_are_refused_with_the_numbers_and_the_mend(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan(simulated(70), **changes)


def test_clips_of_a_data_set_without_tracklets_and_outfits_without_labels_are_refused() -> None:
    index = simulated(70)
    unknown = np.full(len(index), -1)
    with pytest.raises(DataError, match=r"without sequence or frame.*batch.clip=null"):
        plan(replace(index, sequence=unknown), clip=(8, 4))
    with pytest.raises(DataError, match=r"clothes label of every image.*batch.sampler=distinct"):
        plan(replace(index, clothes=unknown), sampler="appearance")


def test_lanes_that_do_not_divide_over_the_workers_are_refused() -> None:
    with pytest.raises(DataError, match=r"3 workers cannot share batch.lanes=4 equally.*one of 1, 2, 4"):
        plan(simulated(70)).share(0, 3)
    with pytest.raises(DataError, match=r"no worker 2 of 2"):
        plan(simulated(70)).share(2, 2)


def test_too_few_row_groups_for_the_lanes_are_refused() -> None:
    index = index_of(np.repeat(np.arange(8), 3), np.zeros(24))
    with pytest.raises(DataError, match=r"1 row groups of 'train' form only 1 units.*window=all or fewer lanes.*1, 2"):
        plan(index)
    assert plan(index, window="all").num_batches == 1
