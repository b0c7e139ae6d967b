"""The notes that an interrupted writer leaves beside its shards, from which the next one resumes.

`_unfinished/` contains one note per finished shard (its entry in the manifest, its rows of the index) and the notes of a
converter. Each note contains the digest of the output: of all that was to be written and how. Notes of another
output, damaged notes, and shards that differ from their note are ignored. After a success no notes are left.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa

from datasets.format.manifest import Shard
from datasets.storage.store import MissingObject, Store

FOLDER = "_unfinished"
_PIECE = 16 << 20
_THREADS = 4


@dataclass(frozen=True)
class Finished:
    """A complete shard. masks: rows with a mask. sizes: the distinct (height, width) of its images, two at most."""

    shard: Shard
    last_person: str
    masks: int
    sizes: tuple[tuple[int, int] | None, ...]


class Unfinished:
    """The notes at a data set's address that belong to one output. output: its digest, 32 bytes."""

    def __init__(self, store: Store, output: bytes) -> None:
        self._store, self._output = store, output

    def recall(self, name: str) -> bytes | None:
        """The note of this name for this output; None where there is none, or it is damaged. Raises: StoreError."""
        try:
            data = self._store.read(f"{FOLDER}/{name}")
        except MissingObject:
            return None
        digest, content = data[:32], data[32:]
        if hashlib.sha256(content).digest() != digest or not content.startswith(self._output):
            return None
        return content[len(self._output) :]

    def remember(self, name: str, data: bytes) -> None:
        """Writes a note. Raises: StoreError."""
        content = self._output + data
        self._store.write(f"{FOLDER}/{name}", hashlib.sha256(content).digest() + content)

    def keep(self, finished: Finished, rows: pa.Table) -> None:
        """Writes the note of a shard that is in the store. rows: its rows of the index. Raises: StoreError."""
        out = io.BytesIO()
        rows = rows.replace_schema_metadata({"finished": json.dumps(asdict(finished))})
        with pa.ipc.new_stream(out, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
            stream.write_table(rows)
        self.remember(_note(finished.shard.path), out.getvalue())

    def rows(self, finished: Finished) -> pa.Table:
        """A kept shard's rows of the index. Raises: StoreError."""
        return self._read(finished.shard.path)[1].replace_schema_metadata(None)

    def finished(
        self, splits: Iterable[str], progress: Callable[[int], None] | None = None
    ) -> dict[str, list[Finished]]:
        """For each split its complete shards, from the first to the last before a gap; every byte is read and verified.

        progress: called with the number of rows verified. Raises: StoreError.
        """
        noted = {split: list(self._noted(split)) for split in splits}
        found: dict[str, list[Finished]] = {}
        rows = 0
        with ThreadPoolExecutor(_THREADS) as pool:
            checks = {split: [pool.submit(self._is_whole, one.shard) for one in noted[split]] for split in noted}
            for split, shards in noted.items():
                whole = zip(shards, checks[split], strict=True)
                found[split] = [one for one, _ in itertools.takewhile(lambda pair: pair[1].result(), whole)]
                rows += sum(one.shard.rows for one in found[split])
                if progress is not None and rows:
                    progress(rows)
        return found

    def _noted(self, split: str) -> Iterator[Finished]:
        for number in itertools.count():
            try:
                yield self._read(shard_path(split, number))[0]
            except LookupError:
                return

    def _read(self, path: str) -> tuple[Finished, pa.Table]:
        data = self.recall(_note(path))
        if data is None:
            raise LookupError(path)
        with pa.ipc.open_stream(data) as stream:
            rows = stream.read_all()
        note = json.loads(rows.schema.metadata[b"finished"])
        sizes = tuple(None if size is None else (size[0], size[1]) for size in note["sizes"])
        return Finished(Shard(**note["shard"]), note["last_person"], note["masks"], sizes), rows

    def _is_whole(self, shard: Shard) -> bool:
        if self._store.size(shard.path) != shard.bytes:
            return False
        whole = hashlib.sha256()
        for at in range(0, shard.bytes, _PIECE):
            whole.update(self._store.read(shard.path, at, min(_PIECE, shard.bytes - at)))
        return whole.hexdigest() == shard.sha256


def shard_path(split: str, number: int) -> str:
    return f"{split}/{number:05d}.parquet"


def forget(store: Store) -> None:
    """Removes all notes."""
    store.delete_tree(FOLDER)


def _note(path: str) -> str:
    """The name of a shard's note, without ".parquet", which would make it look like a shard."""
    return path.removesuffix(".parquet")
