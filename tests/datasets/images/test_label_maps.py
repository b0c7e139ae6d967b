"""The label maps: complete, and in agreement with one another."""

import pytest
import torch

from datasets.images.label_maps import LABEL_MAPS, PARTS, LabelMap


@pytest.mark.parametrize("name", LABEL_MAPS)
def test_a_label_map_is_complete(name):
    label_map = LABEL_MAPS[name]
    assert label_map.name == name
    assert label_map.source
    assert label_map.num_labels == {"lip20": 20, "atr18": 18, "pascal7": 7, "six": 6}[name]
    assert set(label_map.parts) <= set(range(len(PARTS)))
    assert label_map.parts[0] == 0
    assert not label_map.clothing[0]
    assert len(set(label_map.labels)) == label_map.num_labels


def test_clothing_of_lip_is_what_the_methods_shield():
    lip = LABEL_MAPS["lip20"]
    assert lip.clothing_labels == (5, 6, 7, 9, 10, 12)
    assert [lip.labels[label] for label in lip.clothing_labels] == [
        "upper clothes",
        "dress",
        "coat",
        "trousers",
        "jumpsuit",
        "skirt",
    ]


@pytest.mark.parametrize(
    ("name", "label", "part"),
    [
        ("lip20", "face", "head"),
        ("lip20", "coat", "upper clothes"),
        ("lip20", "left shoe", "legs"),
        ("lip20", "right arm", "arms"),
        ("lip20", "skirt", "trousers"),
        ("atr18", "sunglasses", "head"),
        ("atr18", "left leg", "legs"),
        ("atr18", "trousers", "trousers"),
        ("atr18", "right arm", "arms"),
        ("atr18", "bag", "background"),
        ("pascal7", "torso", "upper clothes"),
    ],
)
def test_a_label_belongs_to_its_part(name, label, part):
    label_map = LABEL_MAPS[name]
    assert PARTS[label_map.parts[label_map.labels.index(label)]] == part


def test_both_label_sets_of_the_parser_agree_on_parts_they_share():
    lip, atr = LABEL_MAPS["lip20"], LABEL_MAPS["atr18"]
    shared = set(lip.labels) & set(atr.labels)
    assert len(shared) == 16
    for label in shared:
        assert lip.parts[lip.labels.index(label)] == atr.parts[atr.labels.index(label)]


def test_tables_look_up_any_stored_byte():
    lip = LABEL_MAPS["lip20"]
    mask = torch.tensor([[0, 5, 13, 9], [255, 14, 18, 20]], dtype=torch.uint8)
    assert lip.part_table()[mask.long()].tolist() == [[0, 2, 1, 3], [0, 4, 5, 0]]
    assert lip.part_table().dtype == torch.uint8
    assert lip.clothing_table()[mask.long()].tolist() == [[False, True, False, True], [False] * 4]


def test_a_label_map_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match="different lengths"):
        LabelMap("odd", ("a", "b"), (0,), (False, True), "nowhere")
