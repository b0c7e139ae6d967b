"""The work of a rendering process. It imports neither torch nor pyarrow, so a process starts in a fraction of a second."""

import io
import os
from collections.abc import Iterator
from multiprocessing import parent_process
from threading import Thread

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datasets.synthetic.jobs import Job
from datasets.synthetic.people import person
from datasets.synthetic.render import passage, render_person

Encoded = tuple[Job, int, bytes, bytes]  # walk, frame, JPEG, PNG


def end_with_parent() -> None:
    """Start a thread that ends this process once its parent is gone: a killed parent cannot end its processes itself.

    The kernel's own signal (PR_SET_PDEATHSIG) comes when the thread ends that started the process, which is too early.
    """
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def render_frames(job: Job) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """(frame, image uint8 [H, W, 3], LIP-20 parsing uint8 [H, W]) of one walk, in order."""
    past = passage(job.seed, person(job.seed, job.person), job.wears, job.clothes, job.camera, job.session, job.size[0])
    for frame in job.frames:
        yield frame, *render_person(past, frame, job.size)


def render_jobs(jobs: list[Job]) -> list[Encoded]:
    """The encoded frames of some walks, in order."""
    return [
        (job, frame, _encode(image, "JPEG", quality=90), _encode(parsing, "PNG"))
        for job in jobs
        for frame, image, parsing in render_frames(job)
    ]


def _encode(pixels: NDArray[np.uint8], form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()
