"""Counts of a source against plain loops, and the warnings about what looks like a mistake in it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.conversion.counts import Count, counts, queries_without_match, same_images, shared_clothes
from datasets.layouts.layout import Entry, Layout
from datasets.protocols.protocols import PROTOCOLS

LAYOUT = Layout("mine", "mine", {}, None, lambda tree: iter(()), "ltcc", "none")

labels = st.none() | st.sampled_from(["1", "2", "3"])
entries = st.builds(
    Entry,
    split=st.sampled_from(["train", "query", "gallery", "junk"]),
    path=st.uuids().map(str),
    person=st.sampled_from(["1", "2", "3"]),
    clothes=labels,
    camera=labels,
    sequence=labels,
)


def entry(split: str, person: str, **given: str) -> Entry:
    return Entry(split, given.pop("path", f"{split}/{person}.jpg"), person, **given)


def distinct(found: list[Entry]) -> dict[str, int]:
    """Each count by its own set; labels that nobody has are not counted."""
    numbers = {
        "persons": len({one.person for one in found}),
        "clothes": len({(one.person, one.clothes) for one in found if one.clothes}),
        "cameras": len({one.camera for one in found if one.camera}),
        "sequences": len({one.sequence for one in found if one.sequence}),
    }
    return {"images": len(found)} | {name: number for name, number in numbers.items() if number}


@settings(max_examples=50)
@given(st.lists(entries, max_size=30))
def test_counts_are_those_of_plain_sets_over_all_but_junk_and_per_split(found: list[Entry]) -> None:
    expected = distinct([one for one in found if one.split != "junk"])
    for split in {one.split for one in found}:
        mine = [one for one in found if one.split == split]
        expected |= {f"{split}/{what}": number for what, number in distinct(mine).items()}
    assert {count.what: count.found for count in counts(LAYOUT, found)} == expected


def test_published_counts_stand_beside_the_found_ones_also_where_nothing_was_found() -> None:
    layout = replace(LAYOUT, official={"images": (2, 3), "cameras": 6, "train/images": 1})
    found = {count.what: count for count in counts(layout, [entry("train", "1"), entry("query", "2")])}
    assert found["images"] == Count("images", 2, (2, 3))
    assert not found["images"].differs
    assert found["cameras"] == Count("cameras", 0, (6,))
    assert found["cameras"].differs
    assert found["persons"] == Count("persons", 2, ())
    assert not found["persons"].differs
    assert str(Count("images", 12_345, (17_119, 17_138))).split() == [
        "images", "12,345", "official", "17,119", "or", "17,138", "differs"
    ]  # fmt: skip
    assert str(Count("persons", 7)).split() == ["persons", "7"]


def test_a_query_person_without_a_gallery_image_is_a_warning_once_per_pair_of_splits() -> None:
    found = [entry("query", "1"), entry("query", "2"), entry("gallery", "1"), entry("train", "3")]
    assert queries_without_match(PROTOCOLS["ltcc"], found) == [
        "query person 2 has no image in gallery: its queries are not scored"
    ]
    assert queries_without_match(PROTOCOLS["ltcc"], found[:2]) == [], "no gallery was converted"


def test_the_same_image_in_two_splits_or_of_two_persons_is_a_warning() -> None:
    train, query, gallery = (entry(split, "1") for split in ("train", "query", "gallery"))
    other = entry("gallery", "2")
    twice = entry("gallery", "1", path="gallery/again.jpg")
    assert same_images([[gallery, twice]]) == [], "one person's image twice in one split is none"
    assert same_images([[query, gallery]]) == [
        "the same bytes in gallery and query: query/1.jpg, gallery/1.jpg; remove it from all but one of them"
    ]
    assert same_images([[gallery, other]]) == [
        "the same bytes in persons 1 and 2: gallery/1.jpg, gallery/2.jpg; remove it from all but one of them"
    ]
    assert same_images([[train, query]])[0].startswith("leak, the same bytes in query and train")
    assert not same_images([[train, entry("junk", "1")]])[0].startswith("leak")


@settings(max_examples=50)
@given(st.lists(entries, max_size=30))
def test_shared_clothes_labels_are_counted_as_in_plain_loops(found: list[Entry]) -> None:
    names = {one.clothes for one in found if one.clothes}
    pairs = {(one.person, one.clothes) for one in found if one.clothes}
    shared = [name for name in names if sum(clothes == name for _, clothes in pairs) > 1]
    note = shared_clothes(found)
    if not shared:
        assert note is None
    else:
        assert note is not None
        assert note.startswith(f"{len(shared)} of {len(names)} clothes labels belong to several persons")
        assert note.endswith(f"counted per person: {len(pairs)}")
