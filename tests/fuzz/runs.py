"""What a run stores: checkpoints and the segments of its journal, damaged, with digests that are right or wrong."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from datasets.storage.store import open_store
from orchestration.config.build import build_method, build_optimization
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.engine.chain import continued
from orchestration.engine.loop import StepReport, TrainingProgress
from orchestration.engine.restore import hand_over
from orchestration.engine.strategies.single_process import SingleProcess, optimizer_tensors
from orchestration.engine.strategies.strategy import FullState
from orchestration.evaluation.embed import read_model
from orchestration.tracking.forwarder import Stream
from orchestration.tracking.journal import FOLDER, Journal, read_steps
from orchestration.tracking.segments import segment_path
from tests.fuzz.edits import CHANGES, EDITS, STRANGE, changed, edited
from tests.fuzz.target import OUT, Case, Target

Files = dict[str, bytes]
STEPS = ("00000001", "00000002")
FACTS = {"num_persons": 3, "clothes_owner": [0, 0, 1, 2], "label_map": "lip20", "fingerprint": "0" * 64}


def content(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


# Checkpoints


@functools.cache
def experiment() -> Experiment:
    small = ["method.width=0.0625", "batch={people: 2, images: 2, lanes: 1}", "workers=1"]
    words = ["data=/data", "storage=/runs", *small]
    return load("baseline-demo", words)


@functools.cache
def checkpoints() -> Files:
    """Two checkpoints of a run."""
    method = build_method(experiment(), FACTS)
    optimizers = build_optimization(experiment(), method).optimizers
    sum(parameter.sum() for parameter in method.parameters()).backward()  # type: ignore[union-attr]
    for optimizer in optimizers.values():
        optimizer.step()
    state = FullState(method.state_dict(), optimizer_tensors(method, optimizers))
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS:
            checkpoint.save(
                open_store(folder), state, TrainingProgress(0, int(step), int(step)),
                end_of_epoch=False, experiment=experiment().resolved(), facts=FACTS,
            )  # fmt: skip
        return content(Path(folder))


def with_digest(files: Files, name: str, data: bytes) -> Files:
    """A file of the newest checkpoint, its digest in the description."""
    where = f"{checkpoint.FOLDER}/{STEPS[-1]}"
    description = json.loads(files[f"{where}/{checkpoint.DESCRIPTION}"])
    description["digests"][name] = hashlib.sha256(data).hexdigest()
    return {f"{where}/{name}": data, f"{where}/{checkpoint.DESCRIPTION}": json.dumps(description).encode()}


def run(given: Any, folder: Path) -> Case:
    names = (checkpoint.DESCRIPTION, *checkpoint.FILES)
    name, where = names[given["file"] % 3], f"{checkpoint.FOLDER}/{STEPS[-1]}"
    data = edited(checkpoints()[f"{where}/{name}"], given["edits"])
    if name == checkpoint.DESCRIPTION and given["changes"]:
        tree = changed(json.loads(checkpoints()[f"{where}/{name}"]), given["changes"])
        data = json.dumps(tree).encode()
    files = {f"{where}/{name}": data}
    if name != checkpoint.DESCRIPTION and given["resealed"]:
        files = with_digest(checkpoints(), name, data)
    put(folder, checkpoints() | files)

    def call() -> None:
        address = str(folder / where) if given["at"] else str(folder)
        if given["resume"]:
            found = checkpoint.latest_whole(open_store(str(folder)))
            assert found is not None
            method = build_method(experiment(), FACTS)
            hand_over(method, build_optimization(experiment(), method).optimizers, SingleProcess(), found)
        else:
            read_model(address)

    return Case(call, ((where,),))


# Journals


@functools.cache
def journal() -> Files:
    """Six steps in two segments."""
    with tempfile.TemporaryDirectory() as folder:
        for first in (0, 3):
            with Journal(open_store(folder), continued(None, {"device": "cpu", "workers": 1}, 0)) as writer:
                for step in range(first, first + 3):
                    writer.record(report(step))
        return content(Path(folder))


def report(step: int) -> StepReport:
    return StepReport(step, 0, step, "all", {"loss/model": 0.5 * step, "accuracy": 1.0})


def segments(given: Any, folder: Path) -> Case:
    path = segment_path(FOLDER, given["segment"] % 2)
    lines = journal()[path].splitlines(keepends=True)
    if given["changes"]:
        at = given["line"] % len(lines)
        tree = changed(json.loads(lines[at]), given["changes"])
        lines[at] = json.dumps(STRANGE[given["line"] % len(STRANGE)] if given["whole"] else tree).encode() + b"\n"
    data = edited(b"".join(lines), given["edits"])
    copy = folder.parent / OUT / "run"  # a journal that is resumed is written to
    for place in (folder, copy):
        put(place, journal() | {path: data})

    def call() -> None:
        read_steps(open_store(str(folder)))
        Stream(open_store(str(folder)), FOLDER).read_new()
        chain = continued(None, {"device": "cpu", "workers": given["workers"]}, 0)
        with Journal(open_store(str(copy)), chain, flush_s=60) as writer:
            for step in (4, 5, 6):
                writer.record(report(step))

    return Case(call, ((FOLDER, "step "),))


def some(values: st.SearchStrategy[Sequence[Any]]) -> st.SearchStrategy[Sequence[Any]]:
    return st.just([]) | values


CHECKPOINTS_TARGET = Target(
    st.fixed_dictionaries(
        {
            "file": st.integers(0, 2),
            "edits": some(EDITS),
            "changes": some(CHANGES),
            "resealed": st.booleans(),
            "at": st.booleans(),
            "resume": st.booleans(),
        }
    ),
    run,
)
JOURNALS_TARGET = Target(
    st.fixed_dictionaries(
        {
            "segment": st.integers(0, 1),
            "line": st.integers(0, 99),
            "changes": some(CHANGES),
            "whole": st.sampled_from([False, False, False, True]),
            "edits": some(EDITS),
            "workers": st.integers(1, 2),
        }
    ),
    segments,
)
