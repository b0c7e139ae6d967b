"""Clips: the published code's frames at test time and its training pieces; what a draw of frames promises."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import clips
from datasets.errors import DataError
from datasets.index import SplitIndex
from tests import golden
from tests.datasets.test_plan import index_of


@pytest.mark.parametrize("case", golden.cases("video_clips"))
def test_golden_clips_and_pieces(case: golden.Case) -> None:
    num_frames = int(case.raw_inputs["num_frames"])
    found = clips.test_clips(num_frames, case.params["seq_len"], case.params["stride"])
    assert found.dtype == np.int64
    assert found.tolist() == np.asarray(case.expected["clips"]).tolist()
    pieces = clips.pieces(num_frames, case.params["dense_step"])
    assert [list(piece) for piece in pieces] == case.expected["dense_chunks"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 5))
def test_at_test_time_every_frame_is_in_a_clip_and_none_twice_but_in_the_last(n: int, length: int, stride: int) -> None:
    found = clips.test_clips(n, length, stride)
    assert found.shape == (-(-n // length), length)
    frames = found.ravel()[:n] if n % length == 0 else np.concatenate([found[:-1].ravel(), np.unique(found[-1])])
    assert sorted(frames.tolist()) == list(range(n))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 70))
def test_pieces_cut_a_tracklet_without_gap_or_overlap(num_frames: int, step: int) -> None:
    found = clips.pieces(num_frames, step)
    assert found[0][0] == 0
    assert found[-1][1] == num_frames
    assert all(end == start for (_, end), (start, _) in pairwise(found))
    assert all(step <= end - start < 2 * step for start, end in found) or len(found) == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 80), st.integers(1, 9), st.integers(1, 5), st.integers(0, 9))
def test_a_drawn_clip_is_a_window_or_one_frame_of_each_part_or_drawn_again(
    n: int, length: int, stride: int, seed: int
) -> None:
    drawn = clips.draw_clips(np.full(20, n), length, stride, np.random.default_rng(seed).random((20, length)))
    assert drawn.shape == (20, length)
    assert drawn.min() >= 0
    assert drawn.max() < n
    if n >= length * stride:
        assert (np.diff(drawn, axis=1) == stride).all()
    elif n >= length:
        edges = n * np.arange(length + 1) // length
        assert ((drawn >= edges[:-1]) & (drawn < edges[1:])).all()
    else:
        assert (np.diff(drawn, axis=1) >= 0).all()


@pytest.mark.parametrize(("num_frames", "first", "last"), [(32, 0, 3), (64, 0, 35)])
def test_every_window_of_a_piece_is_drawn_equally_often(num_frames: int, first: int, last: int) -> None:
    uniforms = np.random.default_rng(0).random((40_000, 8))
    starts = clips.draw_clips(np.full(40_000, num_frames), 8, 4, uniforms)[:, 0]
    times = np.bincount(starts)
    assert (starts.min(), starts.max()) == (first, last)
    expected = 40_000 / (last + 1)
    assert np.abs(times - expected).max() < 5 * np.sqrt(expected)


def test_one_clip_is_a_row_of_many() -> None:
    one = clips.draw_clip(50, 8, 4, np.random.default_rng(3))
    many = clips.draw_clips(np.array([50]), 8, 4, np.random.default_rng(3).random((1, 8)))
    assert one.tolist() == many[0].tolist()


def of_frames(frames: list, sequence: list[int], person: list[int] | None = None) -> SplitIndex:
    who = np.zeros(len(frames)) if person is None else np.array(person)
    index = index_of(who, np.zeros(len(frames)))

    def texts(split: str, column: str) -> pa.ChunkedArray:
        return pa.chunked_array([frames if column == "frame" else [f"{i}.jpg" for i in range(len(frames))]])

    return replace(index, sequence=np.array(sequence), _texts=texts)


def test_frames_are_ordered_as_numbers_whatever_order_they_are_stored_in() -> None:
    found = clips.find_tracklets(of_frames(["10", "9", "100", "1", "0"], [0, 0, 0, 1, 1]))
    assert found.rows.tolist() == [1, 0, 2, 4, 3]
    assert found.first.tolist() == [0, 3, 5]
    assert clips.find_tracklets(of_frames(["b", "a", "10"], [0, 0, 0])).rows.tolist() == [2, 1, 0]


def test_one_sequence_of_two_people_is_two_tracklets() -> None:
    assert clips.find_tracklets(of_frames(["0", "1", "0"], [4, 4, 4], [0, 0, 1])).first.tolist() == [0, 2, 3]


def test_images_without_sequence_or_frame_are_refused() -> None:
    with pytest.raises(DataError, match=r"split 'train' has images without sequence or frame.*batch.clip=null.*ccvid"):
        clips.find_tracklets(of_frames(["0", "1"], [0, -1]))
    with pytest.raises(DataError, match=r"without sequence or frame"):
        clips.find_tracklets(of_frames(["0", None], [0, 0]))


def test_a_frame_that_is_there_twice_is_named() -> None:
    with pytest.raises(DataError, match=r"0.jpg and 2.jpg are frame 3 of the same sequence"):
        clips.find_tracklets(of_frames(["3", "1", "3"], [0, 0, 0]))


def test_no_frame_has_no_clip() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        clips.test_clips(0, 8, 4)
