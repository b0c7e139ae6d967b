"""The rendered data set: jobs → frames → encoded samples → shards."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

from datasets.format.manifest import Manifest
from datasets.format.schema import Sample
from datasets.ordered_map import ordered_map
from datasets.shards.writer import write_dataset
from datasets.synthetic.captions import describe_outfit, describe_person
from datasets.synthetic.jobs import Job, make_jobs
from datasets.synthetic.people import person
from datasets.synthetic.presets import Preset, find_preset
from datasets.synthetic.work import end_with_parent, render_jobs

VERSION = "synthetic/1"  # frozen by tests/datasets/synthetic_1.json: a changed pixel is a new version
LICENCE = "Apache-2.0; rendered, no real person is in it"
CHUNK = 8  # walks per task
PARALLEL_FROM = 60  # walks: below that, starting processes costs more than it saves


def samples(jobs: Iterable[Job], pool: ProcessPoolExecutor | None = None, ahead: int = 8) -> Iterator[Sample]:
    """The samples of the walks, in their order; the bytes do not depend on the number of processes.

    pool: the processes that render, None for this one. ahead: tasks in progress beside the next one.
    """
    todo = list(jobs)
    chunks = (todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK))
    rendered = map(render_jobs, chunks) if pool is None else ordered_map(pool, render_jobs, chunks, ahead=ahead)
    for job, frame, image, parsing in itertools.chain.from_iterable(rendered):
        name = f"{frame:04d}"
        yield Sample(
            image=image,
            parsing=parsing,
            person=job.person_name,
            clothes=job.clothes_name,
            camera=job.camera_name,
            sequence=job.sequence_name,
            frame=name,
            key=f"{job.split}/{job.person_name}/{job.sequence_name}-{name}.jpg",
        )


def captions(splits: dict[str, list[Job]], seed: int) -> dict[str, dict[str, str] | dict[str, dict[str, str]]]:
    """One sentence per person and per outfit, in the form of `Manifest.captions`."""
    persons: dict[str, str] = {}
    clothes: dict[str, dict[str, str]] = {}
    for job in (job for jobs in splits.values() for job in jobs):
        if job.person_name not in persons:
            persons[job.person_name] = describe_person(person(seed, job.person))
        clothes.setdefault(job.person_name, {}).setdefault(job.clothes_name, describe_outfit(job.wears))
    return {"persons": persons, "clothes": clothes}


def num_images(preset: str | Preset = "default", splits: str = "ltcc", seed: int = 1) -> int:
    """The number of images that `render_dataset` writes. Raises: DataError when preset or logic is unknown."""
    return sum(len(job.frames) for jobs in make_jobs(find_preset(preset), splits, seed).values() for job in jobs)


def _cores() -> int:
    """The cores that this process may use; on macOS all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rendering_pool(workers: int) -> ProcessPoolExecutor:
    """Processes that end with this one, however it ends."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)


def render_dataset(
    address: str,
    *,
    preset: str | Preset = "default",
    splits: str = "ltcc",
    seed: int = 1,
    size: tuple[int, int] | None = None,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Renders persons and writes them to a new data set at `address`.

    preset: a name of PRESETS, or sizes of one's own. splits: the data set whose logic divides the test persons, "ltcc" (query,
    gallery) or "prcc" (query_same, query_diff, gallery). size: (height, width) instead of the preset's. workers: the number of
    processes, by default one per core; the bytes do not depend on it. progress: called with the number of images written.
    overwrite: replace a data set at `address`.

    Raises: DataError when preset or logic is unknown, or there is a data set at `address`; StoreError.
    """
    chosen = find_preset(preset)
    if size is not None:
        chosen = replace(chosen, height=size[0], width=size[1])
    jobs = make_jobs(chosen, splits, seed)
    workers = workers or _cores()
    if sum(map(len, jobs.values())) < PARALLEL_FROM:
        workers = 1
    pool = rendering_pool(workers) if workers > 1 else None
    streams = {name: samples(walks, pool, ahead=3 * workers) for name, walks in jobs.items()}
    try:
        return write_dataset(
            address,
            streams,
            name=f"synthetic-{chosen.name}",
            version=VERSION,
            licence=LICENCE,
            label_map="lip20",
            protocol=splits,
            captions=captions(jobs, seed),
            extra={"preset": chosen.name, "seed": seed, "size": [chosen.height, chosen.width]},
            progress=progress,
            overwrite=overwrite,
        )
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
