"""Tracklets: their rows in the order of the frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from datasets.errors import DataError
from datasets.format.index import SplitIndex
from datasets.format.tracklets import find_tracklets
from tests.datasets.sampling.test_plan import index_of


def of_frames(frames: list, sequence: list[int], person: list[int] | None = None) -> SplitIndex:
    who = np.zeros(len(frames)) if person is None else np.array(person)
    index = index_of(who, np.zeros(len(frames)))

    def texts(split: str, column: str) -> pa.ChunkedArray:
        return pa.chunked_array([frames if column == "frame" else [f"{i}.jpg" for i in range(len(frames))]])

    return replace(index, clothes=np.zeros(len(frames)), sequence=np.array(sequence), _texts=texts)


def test_frames_are_ordered_as_numbers_whatever_order_they_are_stored_in() -> None:
    found = find_tracklets(of_frames(["10", "9", "100", "1", "0"], [0, 0, 0, 1, 1]))
    assert found.rows.tolist() == [1, 0, 2, 4, 3]
    assert found.first.tolist() == [0, 3, 5]
    assert find_tracklets(of_frames(["b", "a", "10"], [0, 0, 0])).rows.tolist() == [2, 1, 0]


def test_one_sequence_of_two_people_is_two_tracklets() -> None:
    assert find_tracklets(of_frames(["0", "1", "0"], [4, 4, 4], [0, 0, 1])).first.tolist() == [0, 2, 3]


def test_images_without_sequence_or_frame_are_refused() -> None:
    with pytest.raises(DataError, match=r"split 'train' has images without sequence or frame.*batch.clip=null.*ccvid"):
        find_tracklets(of_frames(["0", "1"], [0, -1]))
    with pytest.raises(DataError, match=r"without sequence or frame"):
        find_tracklets(of_frames(["0", None], [0, 0]))


def test_a_frame_that_is_there_twice_is_named() -> None:
    with pytest.raises(DataError, match=r"0.jpg and 2.jpg are frame 3 of the same sequence"):
        find_tracklets(of_frames(["3", "1", "3"], [0, 0, 0]))
