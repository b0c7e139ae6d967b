"""Clips: the published code's frames at test time and its training pieces; what a draw of frames promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.sampling import clips
from tests import golden


@pytest.mark.parametrize("case", golden.cases("video_clips"))
def test_golden_clips_and_pieces(case: golden.Case) -> None:
    num_frames = int(case.raw_inputs["num_frames"])
    found = clips.test_clips(num_frames, case.params["seq_len"], case.params["stride"])
    assert found.dtype == np.int64
    assert found.tolist() == np.asarray(case.expected["clips"]).tolist()
    pieces = clips.pieces(num_frames, case.params["dense_step"])
    assert [list(piece) for piece in pieces] == case.expected["dense_chunks"]


@settings(max_examples=100)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 5))
def test_at_test_time_every_frame_is_in_a_clip_and_none_twice_but_in_the_last(n: int, length: int, stride: int) -> None:
    found = clips.test_clips(n, length, stride)
    assert found.shape == (-(-n // length), length)
    frames = found.ravel()[:n] if n % length == 0 else np.concatenate([found[:-1].ravel(), np.unique(found[-1])])
    assert sorted(frames.tolist()) == list(range(n))


@settings(max_examples=60)
@given(st.integers(1, 400), st.integers(1, 70))
def test_pieces_cut_a_tracklet_without_gap_or_overlap(num_frames: int, step: int) -> None:
    found = clips.pieces(num_frames, step)
    assert found[0][0] == 0
    assert found[-1][1] == num_frames
    assert all(end == start for (_, end), (start, _) in pairwise(found))
    assert all(step <= end - start < 2 * step for start, end in found) or len(found) == 1


@settings(max_examples=100)
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


def test_no_frame_has_no_clip() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        clips.test_clips(0, 8, 4)
