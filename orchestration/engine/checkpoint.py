"""Checkpoints: all that resuming a run needs, as safetensors and JSON in one folder, complete once `checkpoint.json` exists.

`<run>/checkpoints/<step>/model.safetensors`   the method's parameters and buffers, by name
`<run>/checkpoints/<step>/optimizers.safetensors`   `<optimizer>/<parameter>/<state>`
`<run>/checkpoints/<step>/facts.safetensors`   what is known of the training set with a row for each of its classes
`<run>/checkpoints/<step>/checkpoint.json`   position, resolved experiment, digests of the files; written last, and once more
with the score of a model that is a candidate of `select: best:…`

Format 1 had the third as lists in `checkpoint.json`; it is read as well. Classifiers whose classes are divided over workers
have files of their own beside these: `row_files`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import safetensors.torch
from torch import Tensor

from datasets.storage.store import MissingObject, Store, StoreError, open_store
from methods.sharded.share import Rows
from orchestration.engine import row_files
from orchestration.engine.chain import Chain, chain_of
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.row_files import RowsByFile, Written, as_json, from_json
from orchestration.engine.snapshot import Snapshot
from orchestration.engine.strategies.strategy import FullState
from orchestration.errors import RequestError

FORMAT, OLDER_FORMAT = 2, 1
FOLDER = "checkpoints"
FILES = ("model.safetensors", "optimizers.safetensors")
FACTS = "facts.safetensors"
DESCRIPTION = "checkpoint.json"

log = logging.getLogger(__name__)


class CorruptCheckpointError(RuntimeError):
    """A file of a checkpoint is missing or damaged. The message names it."""


@dataclass(frozen=True)
class Score:
    """How good the model of a checkpoint is; higher is better. by: how it was measured, as plain JSON.

    Only scores with the same `by` compare.
    """

    value: float
    by: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: where it lies and what its `checkpoint.json` says.

    rows: the row files, whose digests are among `digests`; none where no tensor is divided over workers. score: None where
    there is none (yet). tensors: what was read and checked already, by the name of the file.
    facts: of the training set; `all_facts` adds those with a row for each class.
    """

    store: Store
    folder: str
    progress: TrainingProgress
    end_of_epoch: bool
    experiment: dict[str, Any]
    facts: dict[str, Any]
    digests: dict[str, str]
    rows: RowsByFile = field(default_factory=dict, repr=False)
    ends_stage: str | None = None  # the stage whose last step it follows
    chain: Chain | None = None  # None: an older version wrote it
    score: Score | None = None
    tensors: Mapping[str, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def address(self) -> str:
        return self.store.join(self.folder)


def save(
    store: Store,
    state: FullState | Snapshot,
    progress: TrainingProgress,
    *,
    end_of_epoch: bool,
    experiment: dict[str, Any],
    facts: dict[str, Any],
    folder: str | None = None,
    ends_stage: str | None = None,
    chain: Chain | None = None,
    own_rows: Callable[[], Written] | None = None,
) -> str:
    """Write a checkpoint below the run's `store` and return its folder.

    state: a snapshot of it must not be taken anew before the return. own_rows: returns once the row files of
    all workers are written; None where no tensor is divided over workers. `facts` is what building the method again needs
    beside the experiment: plain JSON and tensors. A reader never sees a half written one: `checkpoint.json` comes last.
    """
    folder = folder or folder_of(progress)
    snapshot = state if isinstance(state, Snapshot) else Snapshot.of(state)
    tables = {name: value for name, value in facts.items() if isinstance(value, Tensor)}
    contents: dict[str, bytes | memoryview] = dict(
        zip(FILES, (snapshot.model.content, snapshot.optimizers.content), strict=True)
    )
    contents[FACTS] = safetensors.torch.save(tables)
    for name, data in contents.items():
        store.write(f"{folder}/{name}", data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    description = {
        "format": FORMAT,
        "position": asdict(progress),
        "end_of_epoch": end_of_epoch,
        "ends_stage": ends_stage,
        "chain": asdict(chain) if chain else None,
        "experiment": experiment,
        "facts": {name: value for name, value in facts.items() if name not in tables},
        "digests": digests,
    }
    if own_rows is not None:
        written = own_rows()
        description |= {"digests": digests | written.digests, "rows": as_json(written.rows)}
    store.write(f"{folder}/{DESCRIPTION}", json.dumps(description, indent=1).encode())
    return folder


def folder_of(progress: TrainingProgress) -> str:
    """The folder of a run's checkpoint after so many steps."""
    return f"{FOLDER}/{progress.step:08d}"


def record_score(store: Store, folder: str, score: Score) -> None:
    """Add the score of a checkpoint's model to its description."""
    path = f"{folder}/{DESCRIPTION}"
    description = json.loads(store.read(path)) | {"score": asdict(score)}
    store.write(path, json.dumps(description, indent=1).encode())


def prune(store: Store, newest: str, keep: int | None, *, keep_best: bool = False) -> None:
    """Drop all checkpoints but `keep`: the best one (`keep_best`), the one in the folder `newest`, and those before it. Those
    at the ends of stages stay as well.

    keep: None keeps all. Checkpoints after `newest` are of an earlier attempt, which could not be resumed from them.
    """
    if keep is None:
        return
    folders = complete_folders(store)
    found = best(store, until=newest) if keep_best else None
    last = [newest] if found is None or found.folder == newest else [found.folder, newest]
    others = [folder for folder in folders if folder not in last and not is_end_of_stage(store, folder)]
    others = [folder for folder in others if folder > newest] + [folder for folder in others if folder < newest]
    for old in [*others, *last][:-keep]:
        drop(store, old)


def is_end_of_stage(store: Store, folder: str) -> bool:
    try:
        return read(store, folder).ends_stage is not None
    except CorruptCheckpointError:
        return False


def drop(store: Store, folder: str) -> None:
    """Delete a checkpoint, its description first, so that no reader takes a half deleted one for complete."""
    store.delete(f"{folder}/{DESCRIPTION}")
    store.delete_tree(folder)


def complete_folders(store: Store) -> list[str]:
    """Folders of the run's complete checkpoints, oldest first."""
    return sorted(p.rsplit("/", 1)[0] for p in store.list(FOLDER) if p.endswith("/checkpoint.json"))


def latest(store: Store) -> Checkpoint | None:
    """The newest checkpoint of a run whose description can be read, or None where the run has none.

    Raises: CorruptCheckpointError where there are some, and none can be read.
    """
    return newest_usable(store, lambda folder: read(store, folder))


def latest_whole(store: Store) -> Checkpoint | None:
    """As `latest`, of those whose files all match their digests. It has their tensors."""
    return newest_usable(store, lambda folder: with_whole_rows(with_tensors(read(store, folder))))


def readable(store: Store) -> Iterator[Checkpoint]:
    """The run's complete checkpoints whose description can be read, oldest first."""
    for folder in complete_folders(store):
        with contextlib.suppress(CorruptCheckpointError, MissingObject):  # another process may have dropped it since
            yield read(store, folder)


def best(store: Store, *, until: str | None = None) -> Checkpoint | None:
    """The checkpoint with the highest score, the oldest of equal ones; None where none has a score.

    It is one of those that were measured as the newest that has a score. until: the last folder to look at.
    Checkpoints whose description is damaged are passed over.
    """
    scored = [
        (found, found.score)
        for found in readable(store)
        if found.score is not None and (until is None or found.folder <= until)
    ]
    alike = [(found, score.value) for found, score in scored if score.by == scored[-1][1].by]
    return max(alike, key=lambda pair: pair[1])[0] if alike else None


def newest_usable(store: Store, open_folder: Callable[[str], Checkpoint]) -> Checkpoint | None:
    """The newest checkpoint that `open_folder` opens without CorruptCheckpointError; a warning names those passed over.

    A run that goes on meanwhile drops old ones: they are listed again where one of them is gone.
    """
    damage: list[CorruptCheckpointError] = []
    folders = complete_folders(store)
    for folder in reversed(folders):
        try:
            found = open_folder(folder)
        except MissingObject:
            if complete_folders(store) == folders:
                raise
            return newest_usable(store, open_folder)
        except CorruptCheckpointError as error:
            damage.append(error)
            continue
        for passed_over in damage:
            log.warning("%s The checkpoint before it is used: %s", passed_over, found.address)
        return found
    if damage:
        raise CorruptCheckpointError(
            f"{damage[0]} None of the run's {len(damage)} checkpoints is whole. Restore one, or delete "
            f"{store.join(FOLDER)} to train from the beginning."
        )
    return None


def read(store: Store, folder: str) -> Checkpoint:
    """The checkpoint in a folder. Raises: CorruptCheckpointError where its description is damaged; StoreError."""
    path = f"{folder}/{DESCRIPTION}" if folder else DESCRIPTION
    try:
        description = json.loads(store.read(path))
        if (written := description["format"]) in (FORMAT, OLDER_FORMAT):
            rows = from_json(description.get("rows", {}))
            files = FILES if written == OLDER_FORMAT else (*FILES, FACTS)
            return Checkpoint(
                store=store,
                folder=folder,
                progress=progress_of(dict(description["position"])),
                end_of_epoch=bool(description["end_of_epoch"]),
                experiment=dict(description["experiment"]),
                facts=dict(description["facts"]),
                digests={name: str(description["digests"][name]) for name in (*files, *rows)},
                rows=rows,
                ends_stage=stage_name(description.get("ends_stage")),
                chain=chain_of(description.get("chain")),
                score=score_of(description.get("score")),
            )
    except (ValueError, LookupError, TypeError, RecursionError) as error:  # JSON, but not ours; or none
        raise CorruptCheckpointError(f"{store.join(path)} is damaged ({type(error).__name__}: {error}).") from error
    raise CorruptCheckpointError(
        f"{store.join(path)}: checkpoint format {written}; this version reads {OLDER_FORMAT} and {FORMAT}. "
        "Use the redress version that wrote it."
    )


def stage_name(found: object) -> str | None:
    if found is not None and not isinstance(found, str):
        raise ValueError(f"ends_stage {found!r}")
    return found


def progress_of(position: dict[str, int]) -> TrainingProgress:
    if not all(type(value) is int and value >= 0 for value in position.values()):
        raise ValueError(f"position {position}")
    return TrainingProgress(**position)


def score_of(described: dict[str, Any] | None) -> Score | None:
    return None if described is None else Score(float(described["value"]), dict(described["by"]))


def model_of(store: Store) -> Checkpoint | None:
    """The checkpoint whose model is that of a run: its best, where its experiment selects that, else its newest.

    None where the run has no checkpoint. Raises: CorruptCheckpointError.
    """
    newest = latest(store)
    if newest is None or newest.experiment.get("select", "last") == "last":
        return newest
    return best(store) or newest


def find(address: str, *, newest: bool = False) -> Checkpoint:
    """The checkpoint at `address`, or the one whose model is that of the run at `address`; newest: the run's newest.

    Raises: RequestError where there is none; CorruptCheckpointError.
    """
    store = open_store(address)
    try:
        if store.exists("checkpoint.json"):
            return read(store, "")
        found = latest(store) if newest else model_of(store)
    except StoreError as error:
        raise RequestError(str(error)) from error
    if found is None:
        raise RequestError(
            f"no checkpoint at {address}: expected a run's folder (with {FOLDER}/…/checkpoint.json) or one checkpoint's. "
            "`redress runs list` shows each run's storage."
        )
    return found


def find_stage_end(address: str, stage: str) -> Checkpoint:
    """The checkpoint at the end of a stage of the run at `address`. Raises: RequestError; CorruptCheckpointError."""
    store = open_store(address)
    try:
        ends = {
            found.ends_stage: found for folder in complete_folders(store) if (found := read(store, folder)).ends_stage
        }
    except StoreError as error:
        raise RequestError(str(error)) from error
    if stage not in ends:
        there = f"it has those of {', '.join(map(repr, ends))}" if ends else "it has none"
        raise RequestError(
            f"no checkpoint at the end of stage {stage!r} in {address}: {there}. A run has one once that stage has ended."
        )
    return ends[stage]


def with_tensors(checkpoint: Checkpoint, files: Sequence[str] = FILES) -> Checkpoint:
    """The checkpoint with the tensors of these files. Raises: as `load_tensors`."""
    return replace(checkpoint, tensors={name: load_tensors(checkpoint, name) for name in files})


def all_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `save` was given as facts. Raises: as `load_tensors`."""
    return checkpoint.facts | (load_tensors(checkpoint, FACTS) if FACTS in checkpoint.digests else {})


def with_whole_rows(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, after the digests of its row files were checked. None of them is kept in memory.

    Raises: CorruptCheckpointError; StoreError.
    """
    for name in checkpoint.rows:
        path = f"{checkpoint.folder}/{name}" if checkpoint.folder else name
        if row_files.digest(checkpoint.store, path) != checkpoint.digests[name]:
            raise CorruptCheckpointError(
                f"{checkpoint.store.join(path)} is missing, or its bytes differ from the digest in {DESCRIPTION}."
            )
    return checkpoint


def load_rows(checkpoint: Checkpoint, name: str, wanted: Mapping[str, Rows]) -> dict[str, Tensor]:
    """The wanted rows of the tensors of the file `name` that are divided over row files: on the CPU, checked by digest, with
    tensors there that have no rows. wanted: by tensor. Raises: as `load_tensors`.
    """
    try:
        return row_files.read_rows(checkpoint.rows, name, wanted, lambda file: load_tensors(checkpoint, file))
    except ValueError as error:
        raise CorruptCheckpointError(f"{checkpoint.address}: {error}.") from error


def load_tensors(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """Tensors of one file by name, on the CPU, after its digest was checked. Those that the checkpoint has are not copied.

    Raises: CorruptCheckpointError where the file is missing, or its bytes differ from the digest; StoreError.
    """
    if name in checkpoint.tensors:
        return checkpoint.tensors[name]
    path = f"{checkpoint.folder}/{name}" if checkpoint.folder else name
    where = checkpoint.store.join(path)
    try:
        data = checkpoint.store.read(path)
    except MissingObject as error:
        raise CorruptCheckpointError(f"{where} is missing.") from error
    if hashlib.sha256(data).hexdigest() != checkpoint.digests[name]:
        raise CorruptCheckpointError(f"{where}: the bytes differ from the digest in {DESCRIPTION}.")
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # it has an error of its own, and raises others, too
        raise CorruptCheckpointError(f"{where} holds no tensors ({error}).") from error
