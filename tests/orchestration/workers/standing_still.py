"""One worker of a group in which a rank stands still: run as a process of its own, for the watch ends it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import torch
import torch.distributed as dist

from datasets.storage.store import open_store
from datasets.streaming.stream import HostBatch
from orchestration.training.worker import Training, WorkerConfig
from orchestration.workers.notices import Board
from orchestration.workers.watch import Patience, Watch

AT_BATCH = 2
PATIENCE = Patience(step_s=5, long_s=90)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def read_for_ever() -> None:
    threading.Event().wait()


def read_slowly() -> None:
    time.sleep(0.6 * PATIENCE.step_s)


FAULTS: dict[str, Callable[[], None]] = {
    "stops": stop,
    "reads-for-ever": read_for_ever,
    "reads-slowly": read_slowly,
}


def main(fault: str, faulty: int, config: WorkerConfig) -> None:
    """fault: of the faulty rank, before a batch of the first epoch and all that follow."""
    board = None
    if int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo")
        shared = dist.distributed_c10d._get_default_store().clone()
        board = Board(shared, dist.get_rank(), dist.get_world_size())
    store = open_store(config.run)
    watch = Watch(store, PATIENCE, board)
    with closing(watch), closing(Training(config, store, torch.device("cpu"), watch)) as training:
        read = training.feed.batches

        def batches(epoch: int, first: int) -> Iterator[HostBatch]:
            for batch in read(epoch, first):
                if batch.number >= AT_BATCH and watch.board.rank == faulty:
                    FAULTS[fault]()
                yield batch

        training.feed = replace(training.feed, batches=batches)
        training.advance(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), WorkerConfig(**json.loads(sys.argv[3])))
