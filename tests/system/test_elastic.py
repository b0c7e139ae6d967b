"""A training with a range of workers on two real nodes: one is killed, one comes and is drained, the driver is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from datasets.storage.store import Store, open_store
from orchestration.engine import checkpoint
from orchestration.tracking import groups
from orchestration.tracking.groups import After
from orchestration.tracking.journal import read_steps
from tests.servers.process import wait_for
from tests.servers.ray_nodes import Cluster, ray_nodes
from tests.tiny import tiny_dataset

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(1800)]

SMALL = [
    "workers={min: 2, max: 4}", "resources={cpus: 1, gpu: false, grow_s: 3}", "batch={people: 12, images: 2, lanes: 12}",
    "augment.height=32", "augment.width=16", "method.width=0.0625", "optimizers.model.schedule=null", "epochs=3000",
    "checkpoint.every_batches=5", "checkpoint.every_epochs=3000",
]  # fmt: skip
# Tests that run in the background inherit that Ctrl-C is ignored.
LAUNCH = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["redress", *sys.argv[1:]]
runpy.run_module("orchestration", run_name="__main__", alter_sys=True)
"""


@dataclass
class Place:
    """Where the runs are, and the cluster that they are on."""

    folder: Path
    root: Path
    cluster: Cluster
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        tracking = {"MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}", "OMP_NUM_THREADS": "1"}
        environment = self.cluster.environment | tracking | {"RAY_ADDRESS": self.cluster.address}
        with (self.folder / f"{name}.json").open("w") as out, self.log(name).open("w") as log:
            driver = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, "train", *words, "--json"],
                cwd=self.root, stdout=out, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        self.drivers.append(driver)
        return driver

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    @property
    def run(self) -> Store:
        """The storage of the only run; an empty folder before there is one."""
        found = (self.folder / "runs").glob("*")
        return open_store(str(next(iter(found), self.folder / "none")))

    def steps(self) -> list[int]:
        return [record["step"] for _, record in read_steps(self.run)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Place]:
    with ray_nodes(2, cpus=2) as cluster:
        place = Place(tmp_path_factory.mktemp("elastic"), root, cluster)
        yield place
        for driver in place.drivers:
            driver.kill()
            driver.wait()


def test_a_run_shrinks_grows_and_is_resumed_and_has_every_step_once(place: Place) -> None:
    data = tiny_dataset(place.folder / "data", persons=24)
    words = ["baseline-demo", f"data={data}", f"storage={place.folder / 'runs'}", *SMALL]
    first = place.start("first", *words)
    timings: dict[str, float] = {}

    def trains(workers: int, number: int) -> bool:
        """Whether group `number` has so many workers, and has trained for a while."""
        found = groups.read(place.run)
        return len(found) == number and found[-1].workers == workers and len(place.steps()) > found[-1].step + 8

    def wait(what: str, workers: int, number: int) -> None:
        began = time.monotonic()
        wait_for(lambda: trains(workers, number), first, place.log("first"), timeout_s=400)
        timings[what] = time.monotonic() - began

    wait("start", 4, 1)
    place.cluster.nodes[1].kill()
    wait("a node was killed", 2, 2)
    place.cluster.start_node()
    wait("a node came", 4, 3)
    place.cluster.drain(2)
    wait("a node is drained", 2, 4)
    first.kill()
    first.wait()

    second = place.start("second", "--resume", Path(place.run.address).name, f"storage={place.folder / 'runs'}")
    wait_for(lambda: trains(2, 5), second, place.log("second"), timeout_s=400)
    second.send_signal(signal.SIGTERM)
    assert second.wait(120) == 143, place.log("second").read_text()[-3000:]
    told = place.log("first").read_text()
    print(json.dumps(timings), told, sep="\n")

    found = groups.read(place.run)
    assert [(group.workers, group.after) for group in found] == [
        (4, After.START), (2, After.LOSS), (4, After.GROWTH), (2, After.PREEMPTION), (2, After.START),
    ]  # fmt: skip
    headers = [header["began"] for header, _ in read_steps(place.run)]
    firsts = [headers.index(began) for began in dict.fromkeys(headers)]
    assert firsts[2:4] == [group.step for group in found[2:4]], "to grow and to leave a node lost no step"
    assert place.steps() == list(range(len(place.steps())))
    last = checkpoint.latest(place.run)
    assert last is not None
    assert last.progress.step == len(place.steps())
    assert "training goes on with 2 workers from step" in told
    assert "127.0.0.4 will be taken away: stopping after this step, with a checkpoint" in told
    assert "room for 4 workers: stopping the 2 after this step, with a checkpoint" in told
    the_tracked_run_has_every_step_once(place)


def the_tracked_run_has_every_step_once(place: Place) -> None:
    client = MlflowClient(f"sqlite:///{place.folder / 'mlflow.db'}")
    answer: dict[str, Any] = json.loads((place.folder / "second.json").read_text())
    run_id = Path(place.run.address).name
    assert run_id in answer["error"]["message"]
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert {name: run.data.tags[name] for name in ("workers", "restarts", "resizes")} == {
        "workers": "2", "restarts": "2", "resizes": "3",
    }  # fmt: skip
    points = [point.step for point in client.get_metric_history(run_id, "loss/model")]
    assert sorted(points) == place.steps()
