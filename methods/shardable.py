"""Modules whose parameters a sharding strategy may hold in parts."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class Shardable(nn.Module):
    """A module whose parameters are read only while it is called, or while one of its `readers` is.

    readers: names of its other methods that read them. Such a method returns no view of a parameter.
    """

    readers: ClassVar[tuple[str, ...]] = ()
