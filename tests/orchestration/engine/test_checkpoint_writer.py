"""One write at a time, none dropped, and no error lost."""

from __future__ import annotations

import logging
import threading

import pytest

from orchestration.engine.checkpoint_writer import CheckpointWriter

SOON = 30.0  # seconds after which a test has failed


class Held:
    """A write that lasts until it is released; it notes its beginning and its end."""

    def __init__(self, name: str, log: list[str], error: Exception | None = None) -> None:
        self.name, self.log, self.error = name, log, error
        self.begun, self.released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.log.append(f"{self.name} begins")
        self.begun.set()
        assert self.released.wait(SOON)
        self.log.append(f"{self.name} ends")
        if self.error:
            raise self.error


def test_start_returns_while_the_write_is_under_way() -> None:
    writer, log = CheckpointWriter(), list[str]()
    write = Held("a", log)
    writer.start(write)
    assert write.begun.wait(SOON)
    writer.check()
    log.append("training goes on")
    write.released.set()
    writer.drain()
    assert log == ["a begins", "training goes on", "a ends"]
    writer.close()


def test_a_second_write_waits_for_the_first_and_is_not_dropped() -> None:
    writer, log = CheckpointWriter(), list[str]()
    first, second = Held("first", log), Held("second", log)
    second.released.set()
    writer.start(first)
    waiting = threading.Thread(target=writer.start, args=(second,))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    assert not second.begun.is_set()
    first.released.set()
    waiting.join(SOON)
    writer.close()
    assert log == ["first begins", "first ends", "second begins", "second ends"]


@pytest.mark.parametrize("call", ["check", "drain", "start"])
def test_an_error_is_raised_by_the_next_call_as_it_is_and_once(call: str) -> None:
    writer, error = CheckpointWriter(), ConnectionError("the store is gone")
    write = Held("a", [], error)
    write.released.set()
    writer.start(write)
    assert writer.pending is not None
    writer.pending.exception(SOON)
    with pytest.raises(ConnectionError) as caught:
        writer.start(lambda: None) if call == "start" else getattr(writer, call)()
    assert caught.value is error
    writer.check()
    writer.drain()
    writer.close()


def test_closing_waits_and_logs_an_error(caplog: pytest.LogCaptureFixture) -> None:
    writer, log = CheckpointWriter(), list[str]()
    write = Held("a", log, ConnectionError("the store is gone"))
    writer.start(write)
    threading.Timer(0.05, write.released.set).start()
    with caplog.at_level(logging.WARNING):
        writer.close()
    assert log == ["a begins", "a ends"]
    [message] = [record.getMessage() for record in caplog.records]
    assert message == "the last checkpoint was not written: ConnectionError: the store is gone"


def test_a_wait_that_is_interrupted_leaves_the_write_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    writer, log = CheckpointWriter(), list[str]()
    write = Held("a", log)
    writer.start(write)

    def interrupted(pending: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("orchestration.engine.checkpoint_writer.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.drain()
    write.released.set()
    writer.close()
    assert log == ["a begins", "a ends"]
