"""A straggler is asked a second time, whoever answers first is believed alone, and a slow store is not asked twice as much."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.storage import hedging
from datasets.storage.hedging import BUDGET, BURST, FACTOR, IN_FLIGHT, LATENCY_BYTES, WARM, Hedging, within
from datasets.storage.stats import StoreStats


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedging, "FLOOR_S", 0.02)


def warm(seconds: float = 0.0) -> Hedging:
    """One that knows reads to take so long."""
    known = Hedging(StoreStats())
    known._recent.extend([seconds] * WARM)
    return known


def scripted(*runs: tuple[float, bytes | OSError]) -> Callable[[], bytes]:
    """An operation whose nth run takes so many seconds and gives these bytes or this error."""
    numbers = itertools.count()

    def operation() -> bytes:
        seconds, answer = runs[next(numbers)]
        time.sleep(seconds)
        if isinstance(answer, OSError):
            raise answer
        return answer

    return operation


def test_the_second_read_answers_for_a_straggler() -> None:
    known, let_go = warm(), threading.Event()
    numbers = itertools.count()

    def operation() -> bytes:
        if next(numbers) == 0:
            let_go.wait(20)
            return b"first"
        return b"second"

    assert known.read(operation, 1000, 10) == b"second"
    assert (known.stats.hedges, known.stats.hedges_won) == (1, 1)
    let_go.set()


def test_a_quick_read_is_asked_once() -> None:
    known = warm()
    assert known.read(scripted((0, b"first")), 1000, 10) == b"first"
    assert known.stats.hedges == 0


def test_nothing_is_late_before_latencies_are_known() -> None:
    known = Hedging(StoreStats())
    assert known.read(scripted((0.1, b"first")), 1000, 10) == b"first"
    assert known.stats.hedges == 0


def test_the_delay_follows_latency_and_size() -> None:
    known = warm(0.1)
    assert known.delay_s(0) == pytest.approx(FACTOR * 0.1)
    assert known.delay_s(LATENCY_BYTES) == pytest.approx(FACTOR * 0.2)
    assert warm(0.0).delay_s(1 << 40) == 0.02  # the floor


def test_a_failed_first_read_leaves_the_second_to_answer() -> None:
    known = warm()
    assert known.read(scripted((0.5, OSError("reset")), (1.0, b"second")), 0, 10) == b"second"


def test_when_both_fail_the_error_is_told() -> None:
    with pytest.raises(OSError, match="reset"):
        warm().read(scripted((0.05, OSError("reset")), (0.1, OSError("reset"))), 0, 10)


def test_a_read_that_does_not_end_is_given_up_at_its_deadline() -> None:
    let_go = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no complete answer within 0\.2 s"):
        warm().read(lambda: let_go.wait(20), 0, 0.2)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.1 s"):
        within(lambda: let_go.wait(20), 0.1)
    assert time.monotonic() - began < 10
    let_go.set()


def test_a_store_slow_for_everybody_is_spared_second_reads() -> None:
    known = warm()
    num = 30
    for _ in range(num):
        known._recent.clear()
        known._recent.extend([0.0] * WARM)  # it seems late each time
        known.read(scripted((0.05, b"1"), (0.05, b"2")), 0, 10)
    assert 1 <= known.stats.hedges <= BURST + BUDGET * num


def test_second_reads_that_hang_take_their_places() -> None:
    known, let_go = warm(), threading.Event()
    known._budget = 100.0
    for _ in range(IN_FLIGHT + 3):
        with pytest.raises(TimeoutError):
            known.read(lambda: let_go.wait(30), 0, 0.1)
    assert known.stats.hedges == IN_FLIGHT
    let_go.set()


RUN = st.tuples(st.sampled_from([0.0, 0.01, 0.04, 0.06]), st.booleans())


@given(first=RUN, second=RUN)
@settings(max_examples=25)
def test_an_answer_is_one_run_s_own_and_an_error_means_that_none_answered(
    first: tuple[float, bool], second: tuple[float, bool]
) -> None:
    known = warm()
    runs = [(s, bytes([n]) * 100 if ok else OSError(str(n))) for n, (s, ok) in enumerate((first, second))]
    answer: bytes | None = None
    with contextlib.suppress(OSError):
        answer = known.read(scripted(*runs), 0, 10)
    asked = runs[: 1 + known.stats.hedges]
    if answer is None:
        assert all(isinstance(run[1], OSError) for run in asked)
    else:
        assert answer in [run[1] for run in asked]
