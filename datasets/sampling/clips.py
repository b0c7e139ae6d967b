"""Clips of video: the frames of a tracklet that form a clip, as in CAL's published code.

For training a tracklet is cut into pieces, which are sampled like images; from each sampled piece a few frames are drawn
(`draw_clips`). At test time all frames of a tracklet are used, in clips of equal length whose features are averaged
(`test_clips`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.format.index import SplitIndex
from datasets.format.tracklets import find_tracklets

PIECE_FRAMES = 64  # published: tracklets are cut so that long ones are sampled more often


@dataclass(frozen=True)
class Pieces:
    """The S pieces of a split's tracklets: the samples of training, from which clips of `length` frames are drawn.

    rows: int64 [N]; the frames of piece s are rows[first[s] : first[s + 1]]. first: int64 [S + 1]. person, clothes: int64
    [S]. stride: the distance of a clip's frames in long pieces.
    """

    rows: np.ndarray
    first: np.ndarray
    person: np.ndarray
    clothes: np.ndarray
    length: int
    stride: int

    def draw(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A clip of each of these pieces: rows of the split, int64 [..., length]. samples: int64 [...], pieces."""
        first = self.first[samples]
        uniforms = rng.random((samples.size, self.length))
        frames = draw_clips((self.first[samples + 1] - first).ravel(), self.length, self.stride, uniforms)
        return self.rows[first[..., None] + frames.reshape(*samples.shape, self.length)]


def cut_pieces(index: SplitIndex, length: int, stride: int, step: int = PIECE_FRAMES) -> Pieces:
    """The pieces of a split. step: frames of a piece. Raises: DataError where it has no tracklets."""
    tracklets = find_tracklets(index)
    counts = np.diff(tracklets.first)
    starts = [first + start for first, n in zip(tracklets.first.tolist(), counts.tolist(), strict=False)
              for start, _ in pieces(n, step)]  # fmt: skip
    first = np.array([*starts, len(index)], dtype=np.int64)
    heads = tracklets.rows[first[:-1]]
    return Pieces(tracklets.rows, first, index.person[heads], index.clothes[heads], length, stride)


def pieces(num_frames: int, step: int = PIECE_FRAMES) -> list[tuple[int, int]]:
    """The training pieces [start, end) of a tracklet: `step` frames each; the last includes the remainder."""
    num = max(num_frames // step, 1)
    return [(i * step, num_frames if i == num - 1 else (i + 1) * step) for i in range(num)]


def draw_clips(num_frames: np.ndarray, length: int, stride: int, uniforms: np.ndarray) -> np.ndarray:
    """A training clip from each of M pieces: int64 [M, length], frame numbers within the piece, ascending.

    num_frames: int [M]. uniforms: float [M, length] in [0, 1). From length × stride frames or more: every stride-th frame of
    a random window. From at least `length` frames: one frame of each of `length` equal parts, which hold all frames; the
    published parts have n // length frames, so that the last n mod length are never drawn. From fewer: `length` frames with
    replacement, sorted (published).
    """
    n = np.asarray(num_frames, dtype=np.int64)[:, None]
    place = np.arange(length)
    window = _floor(uniforms[:, :1], n - (length - 1) * stride) + place * stride
    start, end = n * place // length, n * (place + 1) // length
    parts = start + _floor(uniforms, end - start)
    again = np.sort(_floor(uniforms, n), axis=1)
    return np.where(n >= length * stride, window, np.where(n >= length, parts, again))


def test_clips(num_frames: int, length: int, stride: int) -> np.ndarray:
    """The clips that cover a tracklet at test time: int64 [C, length], frame numbers, C = ceil(num_frames / length).

    A block of length × stride frames gives `stride` interleaved clips. The rest gives interleaved clips of the largest
    stride that fits. What then remains is repeated to form one more clip (published). Raises: ValueError without a frame.
    """
    if num_frames < 1:
        raise ValueError(f"a tracklet of {num_frames} frames has no clip")
    whole = num_frames // (length * stride) * length * stride
    rest = (num_frames - whole) // length
    blocks = np.arange(whole).reshape(-1, length, stride).swapaxes(1, 2).reshape(-1, length)
    shorter = whole + np.arange(rest * length).reshape(length, rest).T
    remaining = np.arange(num_frames // length * length, num_frames)
    last = np.resize(remaining, (1 if len(remaining) else 0, length))
    return np.concatenate([blocks, shorter, last]).astype(np.int64)


def _floor(uniforms: np.ndarray, num: np.ndarray) -> np.ndarray:
    """int64, uniform over 0 … num - 1."""
    return np.floor(uniforms * num).astype(np.int64)
