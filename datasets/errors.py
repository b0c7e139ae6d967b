"""The two errors of a data set: it cannot be used, which is found before work starts; or it is corrupt, found during it."""

from collections.abc import Sequence
from typing import Any


class DataError(ValueError):
    """The data set cannot be used as requested. Raised before work starts; the message says what to do."""


class DamagedSource(DataError):  # noqa: N818  (what it is, said plainly)
    """A source has offenders; nothing was written. The message has them in groups, `offenders` each by itself."""

    def __init__(self, text: str, offenders: Sequence[Any]) -> None:
        super().__init__(text)
        self.offenders = tuple(offenders)


class CorruptData(RuntimeError):  # noqa: N818  (what it is, said plainly)
    """Bytes differ from their digest. The message names shard, row group and offset; none of the row group was used."""
