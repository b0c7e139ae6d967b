"""How fast people are rendered and encoded, on one core: `python -m benchmarks.data.render`."""

import time
from dataclasses import replace

from datasets.synthetic.jobs import make_jobs
from datasets.synthetic.presets import PRESETS
from datasets.synthetic.work import render_jobs

TARGETS = {(128, 64): 100, (384, 192): 25}  # images/s per core


def images_per_second(size: tuple[int, int], walks: int = 60) -> float:
    """Images/s of one process, JPEG and PNG included, scenes painted beforehand; CPU time, for other people's sake."""
    preset = replace(PRESETS["default"], height=size[0], width=size[1])
    jobs = make_jobs(preset, "ltcc", seed=1)["train"]
    render_jobs([next(job for job in jobs if job.camera == camera) for camera in range(preset.cameras)])
    began = time.process_time()
    done = len(render_jobs(jobs[:walks]))
    return done / (time.process_time() - began)


def main() -> None:
    """Print images/s at both sizes."""
    for size, target in TARGETS.items():
        rate = images_per_second(size)
        verdict = "holds" if rate >= target else "MISSED"
        print(f"render {size[0]}x{size[1]}: {rate:6.0f} images/s per core   target >= {target}   {verdict}")


if __name__ == "__main__":
    main()
