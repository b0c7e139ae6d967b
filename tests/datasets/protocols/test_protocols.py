"""The protocols' tables, which queries are valid, and what stops a run that could not be scored."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.format.schema import Sample
from datasets.protocols.protocols import PROTOCOLS, RULES, Labels, check, labels, rows, samples, valid_queries
from datasets.shards.dataset import DataError, Dataset, write_dataset
from tests.tiny import tiny_dataset


def is_match(rule: str, query: tuple[int, int, int], entry: tuple[int, int, int]) -> bool:
    """A gallery entry is a match of the query, by the words of the rule; -1 equals nothing."""
    person, camera, clothes = (q == g and q >= 0 for q, g in zip(query, entry, strict=True))
    return person and not camera and {"general": True, "same-clothes": clothes, "clothes-changing": not clothes}[rule]


rows_of_labels = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(-1, 2)), min_size=1, max_size=12)


@settings(max_examples=200)
@given(st.sampled_from(RULES), rows_of_labels, rows_of_labels)
def test_a_query_is_valid_when_some_gallery_entry_matches(rule, query, gallery):
    found = valid_queries(rule, *(Labels(*np.array(side).T) for side in (query, gallery)))
    assert found.tolist() == [any(is_match(rule, q, g) for g in gallery) for q in query]


def test_ten_thousand_queries_against_a_million_need_no_matrix():
    rng = np.random.default_rng(0)
    sides = [Labels(*(rng.integers(0, top, size) for top in (50_000, 40, 200_000))) for size in (10_000, 1_000_000)]
    assert valid_queries("general", *sides).mean() > 0.99
    assert 0 < valid_queries("same-clothes", *sides).mean() < 0.01


class TestTable:
    @pytest.mark.parametrize("name", PROTOCOLS)
    def test_a_protocol_says_where_it_comes_from_and_lists_known_rules(self, name):
        protocol = PROTOCOLS[name]
        assert protocol.name == name
        assert protocol.source
        assert len({mode.name for mode in protocol.modes}) == len(protocol.modes) > 0
        assert all(mode.rule in RULES for mode in protocol.modes)

    def test_every_public_data_set_has_one(self):
        assert set(PROTOCOLS) == {
            "general", "ltcc", "prcc", "vcclothes", "deepchange", "last", "celebreid", "ccvid", "market1501", "msmt17",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("ltcc", ["general", "same-clothes", "clothes-changing"]),
            (
                "prcc",
                [
                    "same-clothes",
                    "clothes-changing",
                    "same-clothes-single-shot",
                    "clothes-changing-single-shot",
                ],
            ),
            ("vcclothes", ["general", "same-clothes", "clothes-changing"]),
            ("ccvid", ["general", "same-clothes", "clothes-changing"]),
            ("deepchange", ["general"]),
            ("last", ["general"]),
            ("celebreid", ["general"]),
            ("market1501", ["general"]),
            ("msmt17", ["general"]),
        ],
    )
    def test_only_the_published_metrics_are_listed(self, name, expected):
        assert [mode.name for mode in PROTOCOLS[name].modes] == expected

    def test_prcc_changes_clothes_by_its_query_set(self):
        modes = {mode.name: (mode.query, mode.gallery, mode.rule, mode.draws) for mode in PROTOCOLS["prcc"].modes}
        assert modes == {
            "same-clothes": ("query_same", "gallery", "general", 0),
            "clothes-changing": ("query_diff", "gallery", "general", 0),
            "same-clothes-single-shot": ("query_same", "gallery", "general", 10),
            "clothes-changing-single-shot": ("query_diff", "gallery", "general", 10),
        }

    def test_what_stands_for_the_camera(self):
        assert PROTOCOLS["deepchange"].camera == "sequence"
        assert PROTOCOLS["last"].camera is PROTOCOLS["celebreid"].camera is None
        assert PROTOCOLS["ccvid"].sample == "tracklet"

    @pytest.mark.parametrize("name", PROTOCOLS)
    def test_validation_has_the_same_modes_on_the_held_out_people(self, name):
        protocol = PROTOCOLS[name]
        validation = protocol.validation()
        assert [mode.name for mode in validation.modes] == [mode.name for mode in protocol.modes if not mode.draws]
        for mode in validation.modes:
            assert (mode.query, mode.gallery, mode.cameras) == ("val_query", "val_gallery", None)
            assert mode.rule == mode.name
        assert (validation.camera, validation.merged_cameras) == (protocol.camera, protocol.merged_cameras)


def write(path, protocol: str, **splits: str) -> Dataset:
    """A data set of rows written as "person camera clothes sequence", with "-" for null."""
    content = {}
    for split, text in splits.items():
        parts = [[None if part == "-" else part for part in row.split()] for row in text.split(",")]
        content[split] = [
            Sample(b"image", None, str(person), clothes, camera, sequence, str(number), f"{split}/{number}")
            for number, (person, camera, clothes, sequence) in enumerate(parts)
        ]
    write_dataset(str(path), content, name="x", version="1", licence="none", label_map=None, protocol=protocol)
    return Dataset.open(str(path))


class TestReadingLabels:
    def test_camera_subsets_ignore_leading_zeros(self, tmp_path):
        index = write(tmp_path, "vcclothes", query="1 01 a -,1 02 a -,1 03 a -,2 4 b -,2 10 b -").index("query")
        protocol = PROTOCOLS["vcclothes"]
        assert [rows(protocol, mode, index).tolist() for mode in protocol.modes] == [[0, 1, 2, 3, 4], [1, 2], [2, 3]]

    def test_the_tracklet_stands_for_the_camera_in_deepchange(self, tmp_path):
        index = write(tmp_path, "deepchange", query="1 C1 day 7,1 C1 day 8").index("query")
        assert labels(PROTOCOLS["deepchange"], index).camera.tolist() == [0, 1]
        assert labels(PROTOCOLS["ltcc"], index).camera.tolist() == [0, 0]

    def test_without_cameras_nothing_is_the_same_camera(self, tmp_path):
        index = write(tmp_path, "last", query="1 c1 - -,1 c1 - -").index("query")
        assert labels(PROTOCOLS["last"], index).camera.tolist() == [-1, -1]

    def test_walks_of_ccvids_first_two_sessions_are_numbered_alike(self, tmp_path):
        text = "1 session1/01 a s1,1 session2/01 a s2,1 session3/01 a s3,1 - a s4"
        camera = labels(PROTOCOLS["ccvid"], write(tmp_path, "ccvid", query=text).index("query")).camera
        assert camera[0] == camera[1] != camera[2] >= 0
        assert camera[3] == -1


class TestTracklets:
    def test_the_middle_frame_stands_for_its_tracklet(self, tmp_path):
        index = write(tmp_path, "ccvid", query="1 k1 a s1," * 3 + "1 k1 b s2," * 4 + "2 k1 a s3").index("query")
        protocol = PROTOCOLS["ccvid"]
        assert [rows(protocol, mode, index).tolist() for mode in protocol.modes] == [[1, 5, 7]] * 3
        assert samples(PROTOCOLS["ltcc"], index).tolist() == list(range(8))

    @pytest.mark.parametrize(
        ("gallery", "message"),
        [
            (
                "1 k2 a -,1 k2 a s",
                r"gallery has 1 of 2 images \(such as .*\) without a sequence, and tracklets need one",
            ),
            ("1 k2 a s,1 k3 a s", "sequence 's' of gallery has several persons, outfits or cameras"),
            ("1 k2 a s,2 k2 a s", "sequence 's' of gallery has several persons, outfits or cameras"),
            ("1 k1 a s,2 k2 a t", "none of the 1 queries has an image of its person from another camera in gallery"),
        ],
    )
    def test_what_cannot_be_ranked_by_tracklets_says_why(self, tmp_path, gallery, message):
        dataset = write(tmp_path, "ccvid", query="1 k1 a q,1 k1 a q", gallery=gallery)
        with pytest.raises(DataError, match=message):
            check(PROTOCOLS["ccvid"], dataset)

    def test_frames_in_no_order_are_no_tracklets(self, tmp_path):
        sample = Sample(b"image", None, "1", "a", "k1", "s", None, "x")
        content = {"query": [sample], "gallery": [sample]}
        about: dict[str, Any] = {"name": "x", "version": "1", "licence": "none", "label_map": None, "protocol": "ccvid"}
        write_dataset(str(tmp_path), content, **about)
        with pytest.raises(DataError, match="query has 1 images without a frame, which orders"):
            check(PROTOCOLS["ccvid"], Dataset.open(str(tmp_path)))


class TestCheck:
    @pytest.mark.parametrize("name", ["ltcc", "prcc", "general"])
    def test_a_complete_data_set_passes(self, tmp_path, name):
        check(PROTOCOLS[name], Dataset.open(tiny_dataset(tmp_path, splits=name)))

    def test_a_missing_split_is_named_with_those_there_are(self, tmp_path):
        dataset = Dataset.open(tiny_dataset(tmp_path, splits=("train", "query_same", "gallery")))
        with pytest.raises(
            DataError,
            match=r"mode 'clothes-changing' \(query_diff → gallery, general rule\): there is no split query_diff",
        ):
            check(PROTOCOLS["prcc"], dataset)

    def test_a_missing_validation_set_points_at_holdout(self, tmp_path):
        dataset = Dataset.open(tiny_dataset(tmp_path))
        with pytest.raises(
            DataError, match=r"no split val_query and no val_gallery.*make them from train with `redress data holdout`"
        ):
            check(PROTOCOLS["ltcc"].validation(), dataset)

    @pytest.mark.parametrize(
        ("protocol", "query", "gallery", "message"),
        [
            ("ltcc", "1 c1 a -", "2 c2 a -", "mode 'general' .*no person of query is in gallery"),
            (
                "ltcc",
                "1 c1 a -",
                "1 c1 a -",
                "mode 'general' .*no valid query: none of the 1 queries has .* another camera",
            ),
            ("ltcc", "1 c1 a -", "1 c2 b -", "mode 'same-clothes' .*another camera in the same clothes in gallery"),
            ("ltcc", "1 c1 a -", "1 c2 a -,1 c1 b -", "mode 'clothes-changing' .*another camera in other clothes"),
            (
                "ltcc",
                "1 c1 - -",
                "1 c2 a -",
                r"mode 'same-clothes' .*query has 1 of 1 images \(such as .*\) without a clothes label",
            ),
            (
                "market1501",
                "1 - - -",
                "1 c2 - -",
                r"mode 'general' .*query has 1 of 1 images \(such as .*\) without a camera",
            ),
            ("deepchange", "1 c1 a 7", "1 c2 a 7", "mode 'general' .*another sequence"),
            (
                "vcclothes",
                "1 1 a -",
                "1 2 a -",
                "mode 'same-clothes' .*query has no image of cameras 2, 3; it has 1, 2",
            ),
        ],
    )
    def test_a_mode_without_a_valid_query_says_why(self, tmp_path, protocol, query, gallery, message):
        dataset = write(tmp_path, protocol, query=query, gallery=gallery)
        with pytest.raises(DataError, match=message):
            check(PROTOCOLS[protocol], dataset)

    def test_people_without_cameras_can_be_scored_generally(self, tmp_path):
        check(PROTOCOLS["last"], write(tmp_path / "a", "last", query="1 - - -", gallery="1 - - -"))
        check(PROTOCOLS["general"], write(tmp_path / "b", "general", query="1 - - -", gallery="1 - - -"))
