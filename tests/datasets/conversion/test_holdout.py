"""A validation set of other people, made from train."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from datasets.conversion.holdout import choose_persons, holdout
from datasets.format.schema import Sample
from datasets.protocols.protocols import PROTOCOLS, check, labels, valid_queries
from datasets.shards.dataset import DataError, Dataset, write_dataset
from tests.tiny import tiny_dataset


def by_key(dataset: Dataset, *splits: str) -> dict[str, Sample]:
    return {sample.key: sample for split in splits for sample in dataset.samples(split)}


@pytest.mark.parametrize("splits", ["ltcc", "prcc", "general"])
def test_every_mode_can_be_scored_and_no_image_is_lost_or_changed(tmp_path, splits):
    source = Dataset.open(tiny_dataset(tmp_path / "source", persons=10, splits=splits))
    holdout(source.address, str(tmp_path / "held"), persons=0.3)
    held = Dataset.open(str(tmp_path / "held"))
    assert held.splits == ("train", "val_query", "val_gallery", *source.splits[1:])
    assert by_key(held, "train", "val_query", "val_gallery") == by_key(source, "train")
    for split in source.splits[1:]:
        assert list(held.samples(split)) == list(source.samples(split))
    check(PROTOCOLS[splits], held)
    check(PROTOCOLS[splits].validation(), held)
    assert held.verify() == []


def test_held_out_people_are_others_than_trains(tmp_path):
    manifest = holdout(tiny_dataset(tmp_path / "source", persons=10), str(tmp_path / "held"), persons=3)
    held = Dataset.open(str(tmp_path / "held"))
    query, gallery = held.indexes("val_query", "val_gallery")
    assert query.person_names == gallery.person_names == manifest.extra["holdout"]["persons"]
    assert len(query.person_names) == 3
    assert not set(held.index("train").person_names) & set(query.person_names)
    assert held.index("train").num_persons == 7


def test_of_each_outfit_and_camera_one_image_asks(tmp_path):
    source = tiny_dataset(tmp_path / "source", images=6)
    holdout(source, str(tmp_path / "held"), persons=2)
    held = Dataset.open(str(tmp_path / "held"))
    query, gallery = held.indexes("val_query", "val_gallery")
    cells = np.stack([query.clothes, query.camera])
    assert len(query) == len(np.unique(cells, axis=1).T) == 2 * 2 * 3
    assert len(gallery) == 2 * 2 * 6 - len(query)


def test_the_same_seed_gives_the_same_data_set_and_another_other_people(tmp_path):
    source = tiny_dataset(tmp_path / "source", persons=12)
    made = [holdout(source, str(tmp_path / str(n)), persons=0.2, seed=seed) for n, seed in enumerate((1, 1, 2))]
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].extra["holdout"]["persons"] != made[2].extra["holdout"]["persons"]
    assert made[0].version == "1+holdout.2.1"
    assert made[0].extra["holdout"]["from"] == Dataset.open(source).fingerprint


def people(tmp_path, *rows: tuple[str, str, str, str | None], protocol: str = "ltcc") -> str:
    """A data set of (person, clothes, camera, sequence)."""
    train = [Sample(b"i", None, p, c, k, s, str(n), str(n)) for n, (p, c, k, s) in enumerate(rows)]
    address = str(tmp_path / "people")
    write_dataset(address, {"train": train}, name="x", version="1", licence="none", label_map=None, protocol=protocol)
    return address


def test_people_with_so_many_outfits_and_cameras_keep_their_share(tmp_path):
    changing = [(f"a{p:02d}", c, k, None) for p in range(4) for c in "xy" for k in ("1", "2")]
    steady = [(f"b{p:02d}", "x", k, None) for p in range(16) for k in ("1", "2")]
    index = Dataset.open(people(tmp_path, *changing, *steady)).index("train")
    counts = set()
    for count, seed in itertools.product((2, 5, 10, 15, 18), range(4)):
        drawn = choose_persons(index, np.arange(20), count, np.random.default_rng(seed))
        assert len(set(drawn.tolist())) == count
        num_changing = sum(index.person_names[p].startswith("a") for p in drawn)
        assert math.floor(count / 5) <= num_changing <= math.ceil(count / 5)
        counts.add(tuple(drawn.tolist()))
    assert len(counts) > 10


def test_single_images_are_shared_out_between_query_and_gallery(tmp_path):
    source = people(tmp_path, *[(f"{p}", c, k, None) for p in range(6) for c in "xy" for k in ("1", "2", "3")])
    manifest = holdout(source, str(tmp_path / "held"), persons=3)
    assert (manifest.splits["val_query"].rows, manifest.splits["val_gallery"].rows) == (9, 9)
    check(PROTOCOLS["ltcc"].validation(), Dataset.open(str(tmp_path / "held")))


def test_tracklets_stay_whole(tmp_path):
    rows = [
        (f"{p}", c, f"session1/{k}", f"{p}{c}{k}{t}")
        for p in range(6)
        for c in "xy"
        for k in "12"
        for t in "ab"
        for _ in "123"
    ]
    holdout(people(tmp_path, *rows, protocol="ccvid"), str(tmp_path / "held"), persons=3)
    query, gallery = Dataset.open(str(tmp_path / "held")).indexes("val_query", "val_gallery")
    assert not set(query.sequence.tolist()) & set(gallery.sequence.tolist())
    assert len(query) == len(gallery) == 3 * 2 * 2 * 3


@pytest.mark.parametrize(
    ("protocol", "rows"),
    [
        ("deepchange", [("day", "1", f"{t}") for t in (1, 2, 2)]),  # one camera, two tracklets
        ("last", [("film", None, None)] * 3),
        ("celebreid", [(None, None, None)] * 2),
        ("vcclothes", [(c, k, None) for c, k in ("a1", "a2", "b3", "b4")]),
        ("market1501", [(None, "1", None), (None, "2", None)]),
    ],
)
def test_every_held_out_person_is_asked_about_in_every_mode(tmp_path, protocol, rows):
    can = [(f"can{p}", c, k, s and f"{p}{s}") for p in range(5) for c, k, s in rows]
    cannot = [(f"not{p}", *rows[0]) for p in range(5)]
    manifest = holdout(people(tmp_path, *can, *cannot, protocol=protocol), str(tmp_path / "held"), persons=4)
    assert all(name.startswith("can") for name in manifest.extra["holdout"]["persons"])
    validation = PROTOCOLS[protocol].validation()
    held = Dataset.open(str(tmp_path / "held"))
    check(validation, held)
    sides = held.indexes("val_query", "val_gallery")
    for mode in validation.modes:
        valid = valid_queries(mode.rule, *(labels(validation, side) for side in sides))
        assert len(set(sides[0].person[valid].tolist())) == 4


def test_captions_and_records_stay(tmp_path):
    content = {"train": list(Dataset.open(tiny_dataset(tmp_path / "tiny")).samples("train"))}
    about: dict[str, Any] = {"name": "x", "version": "1", "licence": "none", "label_map": "lip20", "protocol": "ltcc"}
    captions = {"persons": {"000": "tall"}, "clothes": {}}
    write_dataset(str(tmp_path / "source"), content, **about, captions=captions, extra={"note": 1})
    manifest = holdout(str(tmp_path / "source"), str(tmp_path / "held"), persons=2)
    assert (manifest.captions, manifest.extra["note"], manifest.label_map) == (captions, 1, "lip20")


class TestRefusals:
    def test_a_validation_set_is_not_made_twice(self, tmp_path):
        source = tiny_dataset(tmp_path / "source")
        holdout(source, str(tmp_path / "held"), persons=2)
        with pytest.raises(DataError, match="has a split val_query already"):
            holdout(str(tmp_path / "held"), str(tmp_path / "again"), persons=2)

    @pytest.mark.parametrize("persons", [0, 1, 5, 6, 0.99])
    def test_people_must_remain_on_both_sides(self, tmp_path, persons):
        source = tiny_dataset(tmp_path / "source")
        with pytest.raises(
            DataError, match=rf"{persons} of the 6 persons in train .* at least 2 must move and at least 2 remain"
        ):
            holdout(source, str(tmp_path / "held"), persons=persons)
        assert not (tmp_path / "held").exists()

    def test_too_few_who_can_be_asked_about_are_counted_with_what_the_others_lack(self, tmp_path):
        able = [(f"a{p}", c, k, None) for p in range(3) for c in "xy" for k in "12"]
        steady = [(f"b{p}", "x", k, None) for p in range(5) for k in "12"]
        lonely = [(f"c{p}", "x", "1", None) for p in range(2)]
        source = people(tmp_path, *able, *steady, *lonely)
        told = (
            r"4 persons .* only 3 of its 10 have a valid query in every mode of protocol 'ltcc'.*2 give mode 'general' .*"
            r"2 give mode 'same-clothes' .*7 give mode 'clothes-changing' .*Hold out 3 or fewer; `redress data inspect` shows"
        )
        with pytest.raises(DataError, match=told):
            holdout(source, str(tmp_path / "held"), persons=4)
        assert not (tmp_path / "held").exists()
        holdout(source, str(tmp_path / "held"), persons=3)

    def test_the_source_is_not_its_own_destination(self, tmp_path):
        source = tiny_dataset(tmp_path / "source")
        with pytest.raises(DataError, match="is the data set itself"):
            holdout(source, "file://" + source, persons=2, overwrite=True)
        assert Dataset.open(source).verify() == []

    def test_a_mode_that_nobody_can_serve_is_named_before_writing(self, tmp_path):
        source = people(tmp_path, *[(f"{p}", "x", k, None) for p in range(6) for k in ("1", "2", "3") for _ in "12"])
        with pytest.raises(DataError, match=r"mode 'clothes-changing' \(clothes-changing rule\) no valid query"):
            holdout(source, str(tmp_path / "held"), persons=2)
        assert not (tmp_path / "held").exists()
