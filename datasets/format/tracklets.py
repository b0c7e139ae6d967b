"""Tracklets of video: a tracklet is one person in one outfit in one sequence, its rows in the order of their frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.errors import DataError
from datasets.format.index import SplitIndex


@dataclass(frozen=True)
class Tracklets:
    """The T tracklets of a split with N rows.

    rows: int64 [N], tracklet after tracklet in stored order, each in the order of its frames. first: int64 [T + 1]; tracklet
    t is rows[first[t] : first[t + 1]].
    """

    rows: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1


def find_tracklets(index: SplitIndex) -> Tracklets:
    """The tracklets of a split. Frames are ordered as numbers if all are numbers, else as text.

    Raises: DataError when rows have no sequence or no frame, or two rows of a tracklet have the same frame.
    """
    frames = index.frames()
    if not len(index) or (index.sequence < 0).any() or None in frames:
        raise DataError(
            f"split {index.split!r} has images without sequence or frame, and clips need tracklets; "
            "set batch.clip=null to train on images, or convert a video data set (ccvid, or table with both columns)"
        )
    numbers = _numbers(frames)
    labels = np.stack([index.person, index.clothes, index.sequence])
    begins = np.flatnonzero((labels[:, 1:] != labels[:, :-1]).any(axis=0)) + 1
    first = np.concatenate([[0], begins, [len(index)]]).astype(np.int64)
    tracklet = np.repeat(np.arange(len(first) - 1), np.diff(first))
    rows = np.lexsort([numbers, tracklet])  # stable; tracklets keep their stored order
    twice = np.flatnonzero((np.diff(numbers[rows]) == 0) & (np.diff(tracklet) == 0))
    if len(twice):
        one, other = index.keys(rows[twice[0] : twice[0] + 2])
        raise DataError(
            f"split {index.split!r}: {one} and {other} are frame {frames[rows[twice[0]]]} of the same sequence; "
            "correct their frames and convert again"
        )
    return Tracklets(rows.astype(np.int64), first)


def _numbers(frames: list) -> np.ndarray:
    """int64 [N]: numbers that sort like the frames."""
    try:
        return np.array([int(frame) for frame in frames], dtype=np.int64)
    except ValueError:
        return np.unique(np.array(frames, dtype=np.str_), return_inverse=True)[1].astype(np.int64)
