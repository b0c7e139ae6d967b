"""The journal: every step once, to the bit, and a replayed step that differs stops the run."""

from __future__ import annotations

import json
import math
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from datasets.storage.store import Store, open_store
from orchestration.engine.chain import Chain, continued
from orchestration.engine.strategies.single_process import SingleProcess
from orchestration.tracking import journal as journal_module
from orchestration.tracking import segments
from orchestration.tracking.journal import Journal, JournalError, ReplayMismatch, read_steps
from orchestration.tracking.segments import SegmentWriter

HERE = {"workers": 3, "threads": 1, "device": "cpu", "processor": "x", "torch": "2"}


@dataclass
class Step:
    step: int
    metrics: dict[str, float]
    epoch: int = 0
    batch: int = 0
    stage: str = "first"


def steps(first: int, last: int) -> list[Step]:
    return [
        Step(n, {"loss/model": 1 / (n + 1), "speed/step-s": time.perf_counter()}, batch=n) for n in range(first, last)
    ]


BEGUN = continued(None, HERE, 0)


def train(store: Store, reports: list[Step], chain: Chain = BEGUN) -> Journal:
    with Journal(store, chain) as journal:
        for report in reports:
            journal.record(report)
    return journal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "run"))


def test_steps_survive_a_crash_and_replayed_ones_are_not_written_again(store: Store) -> None:
    train(store, steps(0, 10))
    before = [record for _, record in read_steps(store)]
    train(store, steps(6, 15))
    after = [record for _, record in read_steps(store)]
    assert after[:10] == before, "times are stamped once"
    assert [record["step"] for record in after] == list(range(15))
    assert all(set(record) == {"step", "epoch", "batch", "stage", "time", "metrics"} for record in after)
    assert abs(after[-1]["time"] / 1000 - time.time()) < 60


def test_a_replayed_step_that_differs_in_the_last_bit_stops_the_run(store: Store) -> None:
    train(store, steps(0, 10))
    other = steps(6, 10)
    other[2].metrics["loss/model"] = math.nextafter(other[2].metrics["loss/model"], 1)
    with pytest.raises(ReplayMismatch) as told:
        train(store, other)
    mismatch = told.value
    assert (mismatch.step, mismatch.metric) == (8, "loss/model")
    assert repr(mismatch.recorded) in str(mismatch)
    assert repr(mismatch.replayed) in str(mismatch)
    assert mismatch.recorded != mismatch.replayed


def test_a_replayed_step_of_another_batch_or_with_other_metrics_stops_the_run(store: Store) -> None:
    train(store, steps(0, 3))
    with pytest.raises(ReplayMismatch, match="batch"):
        train(store, [Step(2, {"loss/model": 1 / 3, "speed/step-s": 0}, batch=7)])
    with pytest.raises(ReplayMismatch, match="loss/extra"):
        train(store, [Step(2, {"loss/model": 1 / 3, "loss/extra": 0.0}, batch=2)])


def test_other_workers_are_compared_to_a_tolerance_and_recorded(store: Store) -> None:
    train(store, steps(0, 10))
    near = [
        Step(s.step, {"loss/model": s.metrics["loss/model"] * (1 + 4e-4), "accuracy": 0.5}, batch=s.batch)
        for s in steps(6, 12)
    ]
    journal = train(store, near, continued(BEGUN, HERE | {"workers": 2}, 6))
    assert journal.changes == {"workers": [3, 2]}
    assert journal.largest_difference == pytest.approx(4e-4, rel=1e-3)
    header, record = read_steps(store)[-1]
    assert (header["environment"]["workers"], header["changes"], record["step"]) == (2, {"workers": [3, 2]}, 11)
    far = [Step(8, {"loss/model": 1 / 9 * 1.002}, batch=8)]
    with pytest.raises(ReplayMismatch, match="another environment"):
        train(store, far, continued(BEGUN, HERE | {"workers": 1}, 8))


def near(first: int, last: int, by: float) -> list[Step]:
    """Steps whose losses differ by rounding."""
    return [Step(s.step, {"loss/model": s.metrics["loss/model"] * (1 + by)}, batch=s.batch) for s in steps(first, last)]


def test_exactness_is_of_the_whole_chain_of_environments(store: Store) -> None:
    """3 workers, then 2 from step 5, then 3 again from 8, whose weights two workers have been at."""
    train(store, steps(0, 11))
    two = continued(BEGUN, HERE | {"workers": 2}, 5)
    train(store, near(5, 8, 1e-9), two)
    three_again = continued(two, HERE, 8)
    journal = train(store, near(8, 12, 1e-9), three_again)
    assert journal.largest_difference == pytest.approx(1e-9, rel=1e-3)
    assert [record["step"] for _, record in read_steps(store)] == list(range(12))
    train(store, near(11, 13, 1e-9), three_again)
    with pytest.raises(ReplayMismatch, match="bit for bit"):
        train(store, near(12, 13, 2e-9), three_again)
    with pytest.raises(ReplayMismatch, match="bit for bit"):
        train(store, near(4, 5, 1e-9), BEGUN)


def test_steps_of_a_version_without_chains_are_compared_to_a_tolerance(store: Store) -> None:
    with closing(SegmentWriter(store, journal_module.FOLDER, {"environment": HERE})) as writer:
        for n in range(3):
            step = {"step": n, "epoch": 0, "batch": n, "stage": "first", "time": 0}
            writer.append(step | {"metrics": {"loss/model": 1 / (n + 1)}})
    assert train(store, near(2, 4, 1e-9)).largest_difference == pytest.approx(1e-9, rel=1e-3)


def test_a_journal_that_ends_before_the_checkpoint_stops_the_run(store: Store) -> None:
    train(store, steps(0, 5))
    with pytest.raises(JournalError, match="steps are missing"):
        train(store, steps(7, 8))
    with pytest.raises(JournalError, match="step 7 was reported where step 6"):
        train(store, [*steps(5, 6), *steps(7, 8)])


def test_a_flush_has_everything_in_the_store_and_the_rest_follows_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "LONGEST_WAIT_S", 0.2)
    journal = Journal(store, BEGUN, flush_s=0.05)
    journal.record(steps(0, 1)[0])
    journal.flush()
    assert len(read_steps(store)) == 1
    journal.record(steps(1, 2)[0])
    deadline = time.monotonic() + 5
    while len(read_steps(store)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read_steps(store)) == 2, "nobody flushed, yet it is there"
    journal.close()


def test_steps_that_a_second_process_wrote_are_read_once(store: Store) -> None:
    for start in (0, 3):
        writer = SegmentWriter(store, journal_module.FOLDER, {"environment": HERE})
        for step in range(start, start + 5):
            writer.append({"step": step, "epoch": 0, "batch": step, "stage": "all", "metrics": {}, "time": 0})
        writer.close()
    assert [record["step"] for _, record in read_steps(store)] == list(range(8))


@dataclass
class SmallExperiment:
    workers: int = 4  # the setting; the group has two
    threads: int = 1
    numerics: str = "native"
    extra: list[int] = field(default_factory=list)


class TwoWorkers(SingleProcess):
    workers = 2


def test_the_environment_names_what_bits_depend_on() -> None:
    found = journal_module.environment(SmallExperiment(), TwoWorkers())
    assert {"workers", "strategy", "threads", "device", "processor", "python", "torch", "numpy"} <= set(found)
    assert found["workers"] == 2
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("is_able", "shared"), [(True, True), (False, False)])
def test_portable_numbers_depend_on_no_processor_with_avx2(
    monkeypatch: pytest.MonkeyPatch, is_able: bool, shared: bool
) -> None:
    monkeypatch.setattr(journal_module.numerics, "processor_is_able", lambda: is_able)
    monkeypatch.setattr(journal_module, "processor", lambda: "this one")
    found = journal_module.environment(SmallExperiment(numerics="portable"), TwoWorkers())
    assert found["numerics"] == "portable"
    assert (found["processor"] == "x86 with AVX2") is shared
    assert journal_module.environment(SmallExperiment(), TwoWorkers())["processor"] == "this one"
