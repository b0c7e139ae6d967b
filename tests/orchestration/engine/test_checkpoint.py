"""A damaged checkpoint is named, and the one before it is used, by all workers."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datasets.storage.store import Store, open_store
from methods.method import Method
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import CorruptCheckpointError, Score
from orchestration.engine.loop import TrainingProgress
from orchestration.engine.strategies.single_process import optimizer_tensors
from orchestration.engine.strategies.strategy import FullState
from orchestration.training.worker import common_checkpoint
from tests.orchestration.processes import in_processes


class Small(nn.Linear):
    def parameters_of(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        return {"model": list(self.named_parameters())}


def write(folder: Path, *steps: int, keep: int | None = None, select: str = "last") -> Store:
    """Checkpoints after these steps."""
    store = open_store(str(folder))
    method = Small(2, 3)
    optimizer = torch.optim.Adam(method.parameters())
    method(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = FullState(method.state_dict(), optimizer_tensors(cast("Method", method), {"model": optimizer}))
    for step in steps:
        written = checkpoint.save(
            store, state, TrainingProgress(0, step, step),
            end_of_epoch=False, experiment={"name": "tiny", "select": select}, facts={"num_persons": 2},
        )  # fmt: skip
        checkpoint.prune(store, written, keep)
    return store


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def text(content: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.write_text(content)

    return change


def described(**changes: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        description = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in description.items() if value is not None}))

    return change


DAMAGE = [
    ("model.safetensors", cut),
    ("model.safetensors", alter),
    ("model.safetensors", Path.unlink),
    ("optimizers.safetensors", alter),
    ("optimizers.safetensors", Path.unlink),
    ("checkpoint.json", text("")),
    ("checkpoint.json", text("[]")),
    ("checkpoint.json", text("{}")),
    ("checkpoint.json", text("3")),
    ("checkpoint.json", text("\0\0\0")),
    ("checkpoint.json", cut),
    ("checkpoint.json", described(digests={})),
    ("checkpoint.json", described(digests=None)),
    ("checkpoint.json", described(position=[1])),
    ("checkpoint.json", described(position={"epoch": 0, "batch": "x", "step": 1})),
    ("checkpoint.json", described(position={"epoch": 0, "odd": 1})),
    ("checkpoint.json", described(experiment=3)),
    ("checkpoint.json", described(format="x")),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_training_falls_back_to_the_checkpoint_before_a_damaged_one(
    name: str, damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = write(tmp_path, 1, 2, 3)
    damage(tmp_path / "checkpoints/00000003" / name)
    found = common_checkpoint(store)
    assert found is not None
    assert found.progress.step == 2
    [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"{tmp_path}/checkpoints/00000003/{name}" in message
    assert message.endswith(f"The checkpoint before it is used: {tmp_path}/checkpoints/00000002")
    for step in (1, 2):
        damage(tmp_path / f"checkpoints/0000000{step}" / name)
    with pytest.raises(CorruptCheckpointError, match=rf"00000003/{name}.*None of the run's 3 checkpoints is whole"):
        common_checkpoint(store)


def test_a_description_that_cannot_be_read_does_not_hide_the_run(tmp_path: Path) -> None:
    store = write(tmp_path, 1, 2)
    (tmp_path / "checkpoints/00000002/checkpoint.json").write_text("")
    found = checkpoint.latest(store)
    assert found is not None
    assert found.progress.step == 1
    assert checkpoint.find(str(tmp_path)).progress.step == 1
    with pytest.raises(CorruptCheckpointError, match=r"00000002/checkpoint\.json is damaged"):
        checkpoint.find(str(tmp_path / "checkpoints/00000002"))
    assert checkpoint.latest(open_store(str(tmp_path / "nothing"))) is None
    assert common_checkpoint(open_store(str(tmp_path / "nothing"))) is None


def chosen(folder: str) -> str:
    try:
        found = common_checkpoint(open_store(folder))
    except CorruptCheckpointError as error:
        return str(error)
    return found.folder if found else "none"


def test_dropped_checkpoints_and_killed_writes_leave_nothing(tmp_path: Path) -> None:
    store = write(tmp_path, 1, 2, 3, keep=1)
    assert os.listdir(tmp_path / "checkpoints") == ["00000003"]
    killed = ["checkpoints/00000003/.model.safetensors.ab.tmp", "checkpoints/00000004/.model.safetensors.cd.tmp"]
    killed += ["journal/.00000000.jsonl.ef.tmp", "stopped/00000003/.checkpoint.json.ab.tmp"]
    for name in (*killed, "elsewhere/.of-another-writer.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    found = common_checkpoint(store)
    assert found is not None
    assert found.progress.step == 3
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*")] == ["elsewhere/.of-another-writer.tmp"]
    assert os.listdir(tmp_path / "checkpoints") == ["00000003"]


def test_all_workers_take_the_one_that_rank_0_took(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    alter(tmp_path / "checkpoints/00000002/model.safetensors")
    assert in_processes(3, chosen, str(tmp_path)) == ["checkpoints/00000001"] * 3
    alter(tmp_path / "checkpoints/00000001/model.safetensors")
    messages = in_processes(3, chosen, str(tmp_path))
    assert len(set(messages)) == 1
    assert "None of the run's 2 checkpoints is whole" in messages[0]


def folders(*steps: int) -> list[str]:
    return [f"checkpoints/{step:08d}" for step in steps]


@settings(max_examples=25)
@given(scores=st.lists(st.integers(0, 3), min_size=1, max_size=8), keep=st.integers(2, 4))
def test_the_best_and_the_newest_are_kept(scores: list[int], keep: int) -> None:
    """Equal scores are frequent: the oldest of them is the best, as if all checkpoints were there at the end."""
    with tempfile.TemporaryDirectory() as place:
        for step, value in enumerate(scores):
            store = write(Path(place), step)
            [newest] = folders(step)
            checkpoint.prune(store, newest, keep, keep_best=True)
            checkpoint.record_score(store, newest, Score(value, {"select": "best:…"}))
            checkpoint.prune(store, newest, keep, keep_best=True)
            found = checkpoint.complete_folders(store)
            first_of_the_best = scores.index(max(scores[: step + 1]))
            assert len(found) == min(keep, step + 1)
            assert {newest, *folders(first_of_the_best)} <= {*found}
            best = checkpoint.best(store)
            assert best is not None
            assert best.folder == folders(first_of_the_best)[0]
            assert best.score == Score(max(scores[: step + 1]), {"select": "best:…"})


def test_checkpoints_that_training_could_not_resume_from_are_dropped_first(tmp_path: Path) -> None:
    """Step 4 was damaged: training fell back to step 1 and has come to step 2 again."""
    store = write(tmp_path, 1, 2, 4)
    for folder, value in zip(folders(1, 4), (0.5, 0.9), strict=True):
        checkpoint.record_score(store, folder, Score(value, {}))
    checkpoint.prune(store, folders(2)[0], keep=2, keep_best=True)
    assert checkpoint.complete_folders(store) == folders(1, 2)


def test_the_model_of_a_run_is_its_best_where_it_selects_that(tmp_path: Path) -> None:
    for select, expected in (("last", 3), ("best:val_query/general/mAP", 1)):
        run = tmp_path / select[:4]
        store = write(run, 1, 2, 3, select=select)
        assert checkpoint.find(str(run)).progress.step == 3, "no checkpoint has a score yet"
        for folder, value in zip(folders(1, 2, 3), (0.5, 0.4, 0.5), strict=True):
            checkpoint.record_score(store, folder, Score(value, {}))
        assert checkpoint.find(str(run)).progress.step == expected
        assert checkpoint.find(str(run), newest=True).progress.step == 3


def test_scores_that_were_measured_in_another_way_do_not_compare(tmp_path: Path) -> None:
    store = write(tmp_path, 1, 2, 3)
    for folder, value, flip in zip(folders(1, 2, 3), (0.9, 0.5, 0.4), (True, False, False), strict=True):
        checkpoint.record_score(store, folder, Score(value, {"flip": flip}))
    best = checkpoint.best(store)
    assert best is not None
    assert best.progress.step == 2


@pytest.mark.parametrize("score", [3, [], {"value": "much", "by": {}}, {"value": 0.5}])
def test_a_damaged_score_is_damage(score: Any, tmp_path: Path) -> None:
    store = write(tmp_path, 1)
    described(score=score)(tmp_path / "checkpoints/00000001/checkpoint.json")
    with pytest.raises(CorruptCheckpointError, match=r"00000001/checkpoint\.json is damaged"):
        checkpoint.read(store, *folders(1))


def test_a_checkpoint_that_is_dropped_while_the_newest_is_looked_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write(tmp_path, 1, 2)
    read, folders = checkpoint.read, []

    def dropping(store: Store, folder: str) -> checkpoint.Checkpoint:
        folders.append(folder)
        if len(folders) == 1:
            write(tmp_path, 3)
            checkpoint.drop(store, folder)
        return read(store, folder)

    monkeypatch.setattr(checkpoint, "read", dropping)
    found = checkpoint.latest(store)
    assert found is not None
    assert found.progress.step == 3
