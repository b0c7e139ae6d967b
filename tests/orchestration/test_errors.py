"""One line for a library's error: its cause, with what it means and what to do, and without secrets."""

from __future__ import annotations

import errno
import io
import os
import signal
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from mlflow.exceptions import MlflowException
from onnx import TensorProto, helper
from sqlalchemy.exc import OperationalError

from datasets.errors import CorruptData, DataError
from orchestration.cli.main import failure
from orchestration.errors import DATABASE, ENDED, RAY, cause, first_line, origin


def through_mlflow(text: str) -> Exception:
    """An error of SQLite as it arrives: SQLAlchemy's statement around it, then MLflow's text."""
    try:
        raise OperationalError("SELECT run_uuid FROM runs", {}, sqlite3.OperationalError(text))
    except OperationalError as error:
        try:
            raise MlflowException(f"(sqlite3.OperationalError) {text}\n[SQL: SELECT run_uuid FROM runs]") from error
        except MlflowException as wrapped:
            return wrapped


@pytest.mark.parametrize(("text", "meaning"), DATABASE.items())
def test_a_database_s_error_is_told_with_its_meaning(text: str, meaning: str) -> None:
    told = first_line(through_mlflow(text))
    assert told == f"{text} ({meaning})"


def test_another_error_of_a_database_is_told_as_it_is() -> None:
    assert first_line(through_mlflow("no such column: x")) == "no such column: x"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_its_place_and_the_fix(number: int) -> None:
    assert "/data/x. Free space there" in cause(OSError(number, "No space left", "/data/x"))
    assert tempfile.gettempdir() in cause(OSError(number, "No space left"))


def test_other_errors_keep_their_first_line_without_secrets() -> None:
    assert first_line(ValueError("http://joe:s3cret@host/x failed\nmore")) == "http://host/x failed"
    assert first_line(ValueError()) == "ValueError"
    assert cause(OSError(errno.ENOENT, "No such file", "/x")) == "[Errno 2] No such file: '/x'"


def test_an_error_of_ours_keeps_its_words() -> None:
    ours = RuntimeError("ours")
    ours.__cause__ = through_mlflow("database is locked")
    assert cause(ours) == "ours"


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.json", b"weights " * 200)
    return out.getvalue()


def read_archive(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        file.read("model.json")


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (archive()[:-30], zipfile.BadZipFile),  # the list of members is missing
        (b"text", zipfile.BadZipFile),
        (with_byte(archive(), 45, 0xFF), zlib.error),  # the packed bytes
        (with_byte(archive(), 14, archive()[14] ^ 1).replace(b"PK\1\2", b"PK\1\3"), zipfile.BadZipFile),
    ],
)
def test_a_damaged_archive_is_told_as_such(data: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind) as raised:
        read_archive(data)
    assert cause(raised.value).endswith("(the archive is damaged or cut short. Copy or export it again)")
    assert "\n" not in cause(raised.value)


def graph(operator: str = "Relu", *, external: bool = False) -> bytes:
    """An ONNX file: images [1, 3, 2, 2] → operator → logits."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 2, 2]) for name in ("images", "logits")]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    if external:
        weights = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        weights.external_data.add(key="location", value="weights.onnx.data")
    nodes = [helper.make_node(operator, ["images"], ["x"]), helper.make_node("Mul", ["x", "w"], ["logits"])]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights]))
    model.ir_version, model.opset_import[0].version = 8, 17
    return model.SerializeToString()


def run_graph(data: bytes, shape: tuple[int, ...] = (1, 3, 2, 2)) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    session.run(None, {"images": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: run_graph(graph()[:-20]), "it is no ONNX file, or damaged. Export or copy it again"),
        (lambda: run_graph(b"no graph"), "it is no ONNX file, or damaged. Export or copy it again"),
        (lambda: run_graph(graph("Frobnicate")), "Frobnicate"),
        (lambda: run_graph(graph(external=True)), "weights.onnx.data"),
        (lambda: run_graph(graph(), (1, 1, 2, 2)), "it takes other inputs. Export it for images [B, 3, H, W]"),
    ],
)
def test_an_error_of_onnx_runtime_is_one_line_without_its_numbers(call: Callable[[], None], told: str) -> None:
    run_graph(graph())
    with pytest.raises(Exception) as raised:
        call()
    assert type(raised.value).__module__.startswith("onnxruntime")
    text = first_line(raised.value)
    assert told in text
    assert "ONNXRuntimeError" not in text
    assert not text.startswith((":", " "))


def test_the_classes_of_ray_s_errors_are_there_and_told_in_one_line() -> None:
    from ray import exceptions

    for name, meaning in RAY.items():
        made = getattr(exceptions, name).__new__(getattr(exceptions, name))
        assert cause(made) == meaning
        assert "\n" not in meaning
    assert cause(exceptions.RayError("what nobody expected\nand more")) == "what nobody expected"


def test_a_training_that_ray_ended_is_told_by_its_first_worker() -> None:
    from ray.exceptions import RayActorError
    from ray.train import WorkerGroupError

    killed = WorkerGroupError("20 lines", {1: CorruptData("late"), 0: RayActorError(error_msg="ids\nand more")})
    assert failure(killed) == {"status": 1, "error": {"type": "RayActorError", "message": ENDED}}
    ours = WorkerGroupError("20 lines", {0: CorruptData("group 3")})
    assert failure(ours)["error"] == {"type": "CorruptData", "message": "group 3"}


def test_a_worker_that_ran_out_of_memory_is_told_before_those_who_lost_their_connection_to_it() -> None:
    from ray.exceptions import ActorDiedError, OutOfMemoryError
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    def lost(error: Exception) -> Exception:
        return WorkerHealthCheckFailedError("A worker health check failed.\nWorker info: ids", error)

    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:20022")
    monitor = OutOfMemoryError(
        "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.7, ID: 4f) was "
        "15.28GB used / 16.00GB limit (0.954981), which exceeds the memory usage threshold of 0.95."
    )
    told = failure(WorkerGroupError("20 lines", {0: gloo, 1: lost(ActorDiedError()), 2: lost(monitor)}))["error"]
    assert told == {
        "type": "OutOfMemoryError",
        "message": f"{RAY['OutOfMemoryError']} (10.0.0.7: 15.28GB of 16.00GB used)",
    }
    crashed = failure(WorkerGroupError("20 lines", {0: gloo, 1: lost(ActorDiedError())}))["error"]
    assert crashed == {"type": "ActorDiedError", "message": ENDED}
    assert failure(WorkerGroupError("20 lines", {0: gloo, 1: gloo}))["error"]["type"] == "RuntimeError"


class Actor:
    """A process on Ray that dies, fails or cannot be made."""

    def __init__(self, error: Exception | None = None) -> None:
        if error:
            raise error

    def kill_itself(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self, error: Exception) -> None:
        raise error


def on_ray(*arguments: Any, call: str, of: tuple[Any, ...] = ()) -> Exception:
    """The error that a call of an actor ends with."""
    import ray

    actor = ray.remote(Actor).options(num_cpus=0.1).remote(*of)
    with pytest.raises(Exception) as raised:
        ray.get(getattr(actor, call).remote(*arguments))
    assert type(raised.value).__module__.startswith("ray")
    return raised.value


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_process_of_ray_that_was_killed_is_told_in_a_sentence() -> None:
    error = on_ray(call="kill_itself")
    assert failure(error) == {"status": 1, "error": {"type": "ActorDiedError", "message": ENDED}}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(("error", "status"), [(DataError("no such split"), 2), (CorruptData("group 3"), 1)])
def test_an_error_of_ours_in_a_process_of_ray_is_ours(error: Exception, status: int) -> None:
    raised = on_ray(error, call="fail")
    assert type(origin(raised)) is type(error)
    assert failure(raised) == {"status": status, "error": {"type": type(error).__name__, "message": str(error)}}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_that_cannot_be_made_says_why() -> None:
    text = cause(on_ray(call="kill_itself", of=(DataError("the disk is on fire"),)))
    assert text.endswith("the disk is on fire")
    assert "\n" not in text


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_error_in_a_ray_data_job_is_the_error_itself() -> None:
    import ray.data

    def damaged(batch: dict[str, Any]) -> dict[str, Any]:
        raise CorruptData("shard 3 differs from its digest")

    with pytest.raises(Exception) as raised:
        ray.data.range(2).map_batches(damaged, num_cpus=0.1).take_all()
    assert failure(raised.value)["status"] == 1
    assert cause(raised.value) == "CorruptData: shard 3 differs from its digest"
