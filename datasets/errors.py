"""The two errors of a data set: it cannot be used, which is found before work starts; or it is corrupt, found during it."""


class DataError(ValueError):
    """The data set cannot be used as requested. Raised before work starts; the message says what to do."""


class CorruptData(RuntimeError):  # noqa: N818  (what it is, said plainly)
    """Bytes differ from their digest. The message names shard, row group and offset; none of the row group was used."""
