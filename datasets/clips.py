"""Tracklets and clips of video: which rows follow each other, and which of them a clip is, as CAL's published code cuts them.

A tracklet is one person in one outfit in one sequence. For training it is cut into pieces, which are sampled like images;
of a piece drawn, a few frames are drawn (`draw_clips`). At test time all frames of a tracklet are used, in clips of equal
length whose features are averaged (`test_clips`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.errors import DataError
from datasets.index import SplitIndex

PIECE_FRAMES = 64  # published: tracklets are cut so that long ones are drawn more often


@dataclass(frozen=True)
class Tracklets:
    """rows: int64 [N], a split's rows, tracklet after tracklet in stored order, each in the order of its frames.
    Tracklet t is rows[first[t] : first[t + 1]]; first: int64 [T + 1]."""

    rows: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1


def find_tracklets(index: SplitIndex) -> Tracklets:
    """The tracklets of a split. Frames are ordered as numbers where all are numbers, else as text.

    Raises: DataError when rows have no sequence or no frame, or two rows of a tracklet have the same frame.
    """
    frames = index.frames()
    if not len(index) or (index.sequence < 0).any() or None in frames:
        raise DataError(
            f"split {index.split!r} has images without sequence or frame, so it has no tracklets to take clips from; "
            "set batch.clip=null to train on images, or convert a data set of video (ccvid, or table with both columns)"
        )
    numbers = _numbers(frames)
    labels = np.stack([index.person, index.clothes, index.sequence])
    begins = np.flatnonzero((labels[:, 1:] != labels[:, :-1]).any(axis=0)) + 1
    first = np.concatenate([[0], begins, [len(index)]]).astype(np.int64)
    tracklet = np.repeat(np.arange(len(first) - 1), np.diff(first))
    rows = np.lexsort([numbers, tracklet])  # stable; stored order already has the tracklets in turn
    twice = np.flatnonzero((np.diff(numbers[rows]) == 0) & (np.diff(tracklet) == 0))
    if len(twice):
        one, other = index.keys(rows[twice[0] : twice[0] + 2])
        raise DataError(
            f"split {index.split!r}: {one} and {other} are frame {frames[rows[twice[0]]]} of the same sequence; "
            "correct their frames and convert again"
        )
    return Tracklets(rows.astype(np.int64), first)


@dataclass(frozen=True)
class Pieces:
    """The pieces of a split's tracklets, S samples of training, out of which clips of `length` frames are drawn.

    rows: int64 [N], the frames of piece s are rows[first[s] : first[s + 1]]. person, clothes: int64 [S].
    """

    rows: np.ndarray
    first: np.ndarray
    person: np.ndarray
    clothes: np.ndarray
    length: int
    stride: int

    def draw(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A clip of each of these pieces: rows of the split, int64 [*samples.shape, length]."""
        first = self.first[samples]
        uniforms = rng.random((samples.size, self.length))
        frames = draw_clips((self.first[samples + 1] - first).ravel(), self.length, self.stride, uniforms)
        return self.rows[first[..., None] + frames.reshape(*samples.shape, self.length)]


def cut_pieces(index: SplitIndex, length: int, stride: int, step: int = PIECE_FRAMES) -> Pieces:
    """The pieces of a split. Raises: DataError where it has no tracklets."""
    tracklets = find_tracklets(index)
    counts = np.diff(tracklets.first)
    starts = [first + start for first, n in zip(tracklets.first.tolist(), counts.tolist(), strict=False)
              for start, _ in pieces(n, step)]  # fmt: skip
    first = np.array([*starts, len(index)], dtype=np.int64)
    heads = tracklets.rows[first[:-1]]
    return Pieces(tracklets.rows, first, index.person[heads], index.clothes[heads], length, stride)


def pieces(num_frames: int, step: int = PIECE_FRAMES) -> list[tuple[int, int]]:
    """The training pieces [start, end) of a tracklet: `step` frames each, the last with the remainder as well."""
    num = max(num_frames // step, 1)
    return [(i * step, num_frames if i == num - 1 else (i + 1) * step) for i in range(num)]


def draw_clips(num_frames: np.ndarray, length: int, stride: int, uniforms: np.ndarray) -> np.ndarray:
    """A training clip out of each of M pieces: int64 [M, length], frame numbers within the piece, ascending.

    num_frames: int [M]. uniforms: float [M, length] in [0, 1). Of length × stride frames and more, a window at random
    with every stride-th frame; of at least `length`, one frame out of each of `length` equal parts; of fewer, as many
    draws with replacement, sorted (published).
    """
    n = np.asarray(num_frames, dtype=np.int64)[:, None]
    place = np.arange(length)
    window = _floor(uniforms[:, :1], n - (length - 1) * stride) + place * stride
    start, end = n * place // length, n * (place + 1) // length
    parts = start + _floor(uniforms, end - start)
    again = np.sort(_floor(uniforms, n), axis=1)
    return np.where(n >= length * stride, window, np.where(n >= length, parts, again))


def draw_clip(num_frames: int, length: int, stride: int, rng: np.random.Generator) -> np.ndarray:
    """One training clip: int64 [length]. See `draw_clips`."""
    return draw_clips(np.array([num_frames]), length, stride, rng.random((1, length)))[0]


def test_clips(num_frames: int, length: int, stride: int) -> np.ndarray:
    """The clips that cover a tracklet at test time: int64 [C, length], frame numbers, C = ceil(num_frames / length).

    Blocks of length × stride frames give `stride` interleaved clips each; the rest does so with the largest stride that it
    holds; what then remains is repeated until it is one more clip (published). Raises: ValueError without a frame.
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
    """Uniform over 0 … num - 1."""
    return np.floor(uniforms * num).astype(np.int64)


def _numbers(frames: list) -> np.ndarray:
    """int64: sorts like the frames."""
    try:
        return np.array([int(frame) for frame in frames], dtype=np.int64)
    except ValueError:
        return np.unique(np.array(frames, dtype=np.str_), return_inverse=True)[1].astype(np.int64)
