"""What a protocol will do with labels, counted by hand: valid queries, people, and test people seen in training."""

from __future__ import annotations

from datasets.conversion.labels import EntryLabels
from datasets.layouts.layout import Entry
from datasets.protocols.prospects import Prospect, prospects, seen_in_training
from datasets.protocols.prospects import protocol_warnings as warnings_by
from datasets.protocols.protocols import PROTOCOLS, Protocol


def labelled(**splits: str) -> EntryLabels:
    """Of each split its images as "person clothes camera", separated by commas; - for no label."""
    entries = []
    for split, text in splits.items():
        for number, words in enumerate(text.split(",")):
            person, clothes, camera = (None if word == "-" else word for word in words.split())
            entries.append(Entry(split, f"{split}/{number}.jpg", str(person), clothes, camera))
    return EntryLabels(entries)


def protocol_warnings(protocol: Protocol, data: EntryLabels) -> list[str]:
    return warnings_by(protocol, data, prospects(protocol, data))


GALLERY = "a red k2,a blue k3,b grey k1,c grey k1"


def test_each_mode_has_its_valid_queries_people_and_cameras() -> None:
    data = labelled(train="t x k1", query="a red k1,b grey k1,b black k2", gallery=GALLERY)
    assert prospects(PROTOCOLS["ltcc"], data) == [
        Prospect(mode, "query", "gallery", queries=3, valid=valid, people=3, cameras=3)
        for mode, valid in (("general", 2), ("same-clothes", 1), ("clothes-changing", 2))
    ]
    assert str(prospects(PROTOCOLS["general"], data)[0]) == "general 2 of 3"
    assert protocol_warnings(PROTOCOLS["ltcc"], data) == []


def test_a_mode_that_cannot_be_scored_says_why() -> None:
    warnings = protocol_warnings(PROTOCOLS["ltcc"], labelled(query="a - k1,a red k1", gallery="a red k2"))
    why = "cannot be scored: query has 1 of 2 images (such as query/0.jpg) without a clothes label"
    assert warnings == [
        f"mode {mode} (query → gallery) of protocol ltcc {why}" for mode in ("same-clothes", "clothes-changing")
    ]
    [alone] = protocol_warnings(PROTOCOLS["general"], labelled(query="a red k1", gallery="b red k2"))
    assert alone.endswith("cannot be scored: no query has a match in the gallery")
    [missing] = prospects(PROTOCOLS["general"], labelled(query="a red k1"))
    assert (missing.problem, str(missing)) == ("there is no split gallery", "general none")


def test_people_of_train_in_query_or_gallery_are_counted_and_named() -> None:
    data = labelled(train="b x k1,c y k1,d z k1", query="a red k1", gallery=GALLERY)
    warning = seen_in_training(PROTOCOLS["general"], data)
    assert warning is not None
    assert warning.startswith("2 of the 3 people in query and gallery are also in train, such as 'b'")
    assert [one.seen for one in prospects(PROTOCOLS["ltcc"], data)] == [2, 2, 2]
    assert protocol_warnings(PROTOCOLS["general"], data) == [warning]


def test_people_of_train_in_other_splits_are_meant_to_be_there() -> None:
    """PRCC's val shows people of train on purpose."""
    test = {"query_same": "a red A", "query_diff": "a blue A", "gallery": "a red B"}
    assert seen_in_training(PROTOCOLS["prcc"], labelled(train="t x A", val="t x A", **test)) is None
    assert seen_in_training(PROTOCOLS["prcc"], labelled(**test)) is None
    assert "a" in str(seen_in_training(PROTOCOLS["prcc"], labelled(train="a x A", **test)))
