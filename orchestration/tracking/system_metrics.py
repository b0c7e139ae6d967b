"""The machine's load during a run, sampled into the run's storage and delivered by the forwarder.

MLflow's own monitor thread ends when the server fails to answer once, so only its gauges are used here. Their names are
those that the UI groups as system metrics.
"""

from __future__ import annotations

import contextlib
import threading
import time

import psutil
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from datasets.storage.store import Store, StoreError
from orchestration.tracking.journal import in_order
from orchestration.tracking.segments import SegmentReader, SegmentWriter

FOLDER = "system"
SAMPLE_S = 10.0


class SystemMonitor:
    """Samples this machine every `sample_s` seconds between `start` and `stop`. `node`: the machine's name in the metrics."""

    def __init__(self, store: Store, node: str = "driver", *, sample_s: float = SAMPLE_S) -> None:
        folder = f"{FOLDER}/{node}"
        earlier = in_order(SegmentReader(store, folder).read_new(), -1, store.join(folder))
        self.step = earlier[-1][1]["step"] + 1 if earlier else 0
        self.prefix = "system/" if node == "driver" else f"system/{node}/"
        self.sample_s = sample_s
        self._gauges = gauges()
        self._process = psutil.Process()
        self._writer = SegmentWriter(store, folder, {"node": node}, flush_s=sample_s)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample_regularly, name="system metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(StoreError):  # a missing last sample does not fail a run
            self._writer.close()

    def _sample_regularly(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(StoreError, psutil.Error):  # a missing sample does not fail a run
                self.sample()
            self._stopped.wait(self.sample_s)

    def sample(self) -> None:
        values = {"process_memory_usage_megabytes": self._process.memory_info().rss / 1e6}
        for gauge in self._gauges:
            gauge.collect_metrics()
            values.update(gauge.aggregate_metrics())
            gauge.clear_metrics()
        metrics = {self.prefix + name: float(value) for name, value in values.items()}
        self._writer.append({"step": self.step, "time": time.time_ns() // 1_000_000, "metrics": metrics})
        self.step += 1


def gauges() -> list[BaseMetricsMonitor]:
    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        found.append(GPUMonitor())
    except (ImportError, RuntimeError):
        return found  # no GPU, or no library to query it
    return found
