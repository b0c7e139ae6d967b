"""Whole persons lie together in row groups of a size."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.shards.dataset import DataError
from datasets.shards.grouping import payload, row_groups
from tests.datasets.samples import EXAMPLES, sample, splits


class TestGrouping:
    @EXAMPLES
    @given(splits, st.integers(1, 400))
    def test_groups_are_the_samples_in_order_within_the_size(self, clustered, target):
        groups = list(row_groups(clustered, target))
        assert [sample for group in groups for sample in group] == clustered
        assert all(len(group) == 1 or sum(map(payload, group)) <= target for group in groups)

    @EXAMPLES
    @given(splits, st.integers(1, 400))
    def test_a_group_holds_whole_persons_or_a_part_of_a_large_one_alone(self, clustered, target):
        size: Counter[str] = Counter()
        for one in clustered:
            size[one.person] += payload(one)
        groups = list(row_groups(clustered, target))
        for person, total in size.items():
            inside = [group for group in groups if any(sample.person == person for sample in group)]
            if total <= target:
                assert len(inside) == 1
            else:
                assert all(sample.person == person for group in inside for sample in group)

    def test_small_neighbours_share_a_group(self):
        clustered = [sample(person=str(person), image=b"x" * 10) for person in range(10)]
        assert [len(group) for group in row_groups(clustered, 35)] == [3, 3, 3, 1]

    def test_a_large_person_is_cut_between_outfits_before_sequences_before_images(self):
        outfits = [sample(clothes=c, sequence=s, image=b"x" * 10) for c, s in ("a1", "a1", "b1", "b2", "b2")]
        assert [len(group) for group in row_groups(outfits, 40)] == [2, 3]
        sequences = [sample(clothes="a", sequence=s, image=b"x" * 10) for s in "11222"]
        assert [len(group) for group in row_groups(sequences, 40)] == [2, 3]
        images = [sample(clothes="a", sequence="1", image=b"x" * 10) for _ in range(5)]
        assert [len(group) for group in row_groups(images, 40)] == [4, 1]

    def test_a_row_group_is_given_up_before_the_next_is_collected(self):
        alive = []

        def stream():
            for person in range(20):
                alive.append(person)
                yield sample(person=f"{person:02d}", image=b"x" * 10)

        for group in row_groups(stream(), 40):
            assert len(alive) <= int(group[-1].person) + 2

    @pytest.mark.parametrize(
        ("order", "complaint"),
        [
            ([("1", "a"), ("2", "a"), ("1", "a")], "person '1' recurs"),
            ([("1", "a"), ("1", "b"), ("1", "a")], "clothes 'a' recurs"),
        ],
    )
    def test_samples_out_of_order_are_refused(self, order, complaint):
        with pytest.raises(DataError, match=f"not clustered: {complaint}.*sort the samples by person"):
            list(row_groups([sample(person=p, clothes=c) for p, c in order], 100))

    def test_one_outfit_name_may_occur_with_every_person(self):
        mixed = [sample(person=p, clothes=c, sequence="1") for p in "12" for c in "ab"]
        assert sum(map(len, row_groups(mixed, 100))) == 4
