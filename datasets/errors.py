"""The two ways in which a data set disappoints: found before work starts, or met on the way."""


class DataError(ValueError):
    """The data set is not usable as asked. Raised before work starts; the message says what to do."""


class CorruptData(RuntimeError):  # noqa: N818  (what it is, said plainly)
    """Bytes differ from their digest. Names shard, row group and offset; nothing of the row group was used."""
