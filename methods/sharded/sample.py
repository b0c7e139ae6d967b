"""Which classes a step counts where it does not count all of them: partial FC (An et al., 2021, Partial FC)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassSample(nn.Module):
    """The batch's own classes, and each other class with a probability: a new draw for every batch of training.

    Whether a class is drawn depends on the seed, the number of draws before and the class's number alone. So the classes are
    the same for any number of workers, and a resumed run draws what it would have drawn.
    """

    draws: Tensor  # int64 scalar: how many there were

    def __init__(self, share: float) -> None:
        """share: the probability, between 0 and 1. The seed is the one that torch was given last."""
        super().__init__()
        self.share, self.seed = share, torch.initial_seed()
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))

    def forward(self, classes_R: Tensor, needed_R: Tensor, *, is_new: bool) -> Tensor:
        """The places in `classes_R` (int64 [R], ascending) of the classes to count, ascending: int64.

        needed_R: bool, True for classes that are counted in any case. is_new: whether this is the next draw, or the last one
        again.
        """
        if is_new:
            self.draws += 1
        key = hashed(self.draws + hashed(torch.tensor(signed(self.seed), device=classes_R.device)))
        return ((uniform(hashed(classes_R + key)) < self.share) | needed_R).nonzero()[:, 0]


def hashed(numbers: Tensor) -> Tensor:
    """int64 → int64 of which every bit depends on every bit: SplitMix64 (Steele et al., OOPSLA 2014)."""
    numbers = numbers + signed(0x9E3779B97F4A7C15)
    numbers = (numbers ^ shifted(numbers, 30)) * signed(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ shifted(numbers, 27)) * signed(0x94D049BB133111EB)
    return numbers ^ shifted(numbers, 31)


def uniform(numbers: Tensor) -> Tensor:
    """int64 → float64, from 0 to below 1."""
    return shifted(numbers, 11).double() / (1 << 53)


def shifted(numbers: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left, as of numbers without a sign."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def signed(number: int) -> int:
    """The number with the same 64 bits that int64 holds."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
