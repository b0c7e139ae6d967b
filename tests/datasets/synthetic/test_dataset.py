"""The rendered data set: the same everywhere, exact masks, honest splits, frozen output."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from math import pi
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.errors import DataError
from datasets.images.label_maps import LABEL_MAPS
from datasets.shards.dataset import Dataset
from datasets.synthetic.body import Body, View, textures
from datasets.synthetic.dataset import VERSION, num_images, render_dataset
from datasets.synthetic.figure import paint
from datasets.synthetic.jobs import TEST, Job, make_jobs
from datasets.synthetic.outfits import outfit
from datasets.synthetic.people import person
from datasets.synthetic.pose import pose
from datasets.synthetic.presets import PRESETS, Preset
from datasets.synthetic.raster import Canvas, Light
from datasets.synthetic.work import render_frames, render_jobs

GOLDEN = Path(__file__).with_name("synthetic_1.json")
SMALL = Preset("small", train_persons=6, test_persons=6, outfits=2, height=64, width=32)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    address = str(tmp_path_factory.mktemp("synthetic"))
    render_dataset(address, preset="tiny", workers=1)
    return Dataset.open(address)


def test_two_processes_write_the_bytes_of_one(rendered: Dataset, tmp_path: Path) -> None:
    render_dataset(str(tmp_path), preset="tiny", workers=2)
    assert Dataset.open(str(tmp_path)).fingerprint == rendered.fingerprint


POOL = """
import os, time
from datasets.synthetic.dataset import rendering_pool
if __name__ == "__main__":
    print(rendering_pool(1).submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def test_a_killed_process_takes_its_pool_with_it(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "pool.py")], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        worker = Path("/proc", process.stdout.readline().strip())
        assert "multiprocessing" in (worker / "cmdline").read_text()
        process.kill()
    deadline = time.monotonic() + 60
    while worker.exists() and "\nState:\tZ" not in (worker / "status").read_text():
        assert time.monotonic() < deadline, "the pool's process is still there"
        time.sleep(0.05)


def test_an_image_does_not_depend_on_what_was_rendered_before() -> None:
    jobs = make_jobs(SMALL, "ltcc", 3)["train"][:6]
    alone = [encoded for job in reversed(jobs) for encoded in render_jobs([replace(job)])]
    assert sorted(alone, key=lambda e: (e[0].sequence_name, e[1])) == sorted(
        render_jobs(jobs), key=lambda e: (e[0].sequence_name, e[1])
    )


def test_another_seed_shows_other_people() -> None:
    first, second = (next(render_frames(make_jobs(SMALL, "ltcc", seed)["train"][0])) for seed in (1, 2))
    assert not np.array_equal(first[1], second[1])


def test_who_is_tested_does_not_depend_on_how_many_train() -> None:
    more = replace(SMALL, train_persons=9)
    assert make_jobs(SMALL, "ltcc", 1)["query"] == make_jobs(more, "ltcc", 1)["query"]


def test_masks_fit_their_images_and_use_lip_labels(rendered: Dataset) -> None:
    for sample in rendered.samples("train"):
        image, parsing = Image.open(io.BytesIO(sample.image)), Image.open(io.BytesIO(sample.parsing or b""))
        assert image.size == parsing.size == (32, 64)
        assert (image.mode, parsing.mode) == ("RGB", "L")
        labels = np.asarray(parsing)
        assert labels.max() < LABEL_MAPS["lip20"].num_labels
        assert 0.08 < (labels > 0).mean() < 0.7


def test_every_label_of_lip_occurs() -> None:
    preset = Preset("many", train_persons=120, test_persons=0, height=64, width=32)
    missing = set(range(LABEL_MAPS["lip20"].num_labels))
    for job in make_jobs(preset, "ltcc", 1)["train"][::3]:
        _, _, parsing = next(render_frames(replace(job, frames=(0,))))
        missing -= set(np.unique(parsing).tolist())
        if not missing:
            break
    assert not [LABEL_MAPS["lip20"].labels[number] for number in sorted(missing)]


@pytest.mark.parametrize(("yaw", "left_is_right"), [(0.0, True), (pi, False)])
def test_left_and_right_are_the_persons_own(yaw: float, left_is_right: bool) -> None:
    """Seen from the front, a person's left arm and shoe are on the image's right."""
    who = person(1, 0)
    worn = replace(outfit(1, 0, 0, who.female), top="t-shirt", sleeve=0.3, bag="none", gloves=None)
    canvas = Canvas(np.zeros((3, 128, 64), np.float32), Light(0, 0, 1, 0.5, 0.5))
    view = View(32, 120, 110, yaw, 0.1, 5.0)
    paint(Body(canvas, who, worn, textures(worn, (1,), 32), pose(who, 0.0, 0.0), view))
    for left, right in ((14, 15), (18, 19)):
        columns = [np.nonzero(canvas.labels == label)[1].mean() for label in (left, right)]
        assert (columns[0] > columns[1]) == left_is_right


def test_an_outfit_of_training_belongs_to_one_person() -> None:
    worn: dict[object, set[int]] = {}
    for job in make_jobs(PRESETS["default"], "ltcc", 1)["train"]:
        worn.setdefault((job.wears.colour, job.wears.lower, job.wears.fabric), set()).add(job.person)
    assert {len(people) for people in worn.values()} == {1}


def test_a_part_of_the_test_outfits_is_nearly_shared() -> None:
    jobs = make_jobs(PRESETS["default"], "ltcc", 1)["query"]
    worn = {(job.person, job.clothes): job.wears for job in jobs}
    alike: dict[object, set[int]] = {}
    for (wearer, _), one in worn.items():
        alike.setdefault((one.top, one.bottom, one.pattern, one.second, one.inner), set()).add(wearer)
    shared = sum(len(people) for people in alike.values() if len(people) > 1)
    assert 0.2 <= shared / len(worn) <= 0.4


@pytest.mark.parametrize("logic", ["ltcc", "prcc"])
def test_people_of_the_test_are_not_trained_on(logic: str) -> None:
    splits = make_jobs(PRESETS["demo"], logic, 1)
    trained = {job.person for job in splits["train"]}
    assert max(trained) < TEST
    assert min(job.person for name in splits if name != "train" for job in splits[name]) >= TEST


def test_every_sixth_person_never_changes() -> None:
    clothes: dict[int, set[int]] = {}
    for job in make_jobs(PRESETS["default"], "ltcc", 1)["train"]:
        clothes.setdefault(job.person, set()).add(job.clothes)
    assert [person for person, worn in clothes.items() if len(worn) == 1] == list(range(5, 120, 6))


def test_ltcc_asks_with_the_first_frame_of_each_walk() -> None:
    splits = make_jobs(SMALL, "ltcc", 1)
    assert list(splits) == ["train", "query", "gallery"]
    assert {job.frames for job in splits["query"]} == {(0,)}
    assert [job.sequence_name for job in splits["query"]] == [job.sequence_name for job in splits["gallery"]]


def test_prcc_shows_camera_a_and_asks_elsewhere() -> None:
    splits = make_jobs(replace(SMALL, outfits=3), "prcc", 1)
    assert list(splits) == ["train", "query_same", "query_diff", "gallery"]
    assert {(job.camera_name, job.clothes_name) for job in splits["gallery"]} == {("c1", "o1")}
    assert {job.person for job in splits["gallery"]} == {job.person for job in splits["query_same"]}
    assert {job.clothes_name for job in splits["query_same"]} == {"o1"}
    assert "o1" not in {job.clothes_name for job in splits["query_diff"]}
    assert "c1" not in {job.camera_name for name in ("query_same", "query_diff") for job in splits[name]}


def test_a_sequence_is_one_walk_in_order(rendered: Dataset) -> None:
    walks: dict[str | None, list[tuple[str, str | None, str | None, str | None]]] = {}
    for sample in rendered.samples("train"):
        walks.setdefault(sample.sequence, []).append((sample.person, sample.clothes, sample.camera, sample.frame))
    for frames in walks.values():
        assert len({frame[:3] for frame in frames}) == 1
        assert [frame[3] for frame in frames] == ["0000", "0001"]


def test_a_walk_moves_person_and_background() -> None:
    frames = [
        image for _, image, _ in render_frames(replace(make_jobs(SMALL, "ltcc", 1)["train"][0], frames=tuple(range(4))))
    ]
    for before, after in pairwise(frames):
        assert np.abs(before.astype(int) - after).mean() > 4


def test_each_person_and_outfit_has_one_sentence(rendered: Dataset) -> None:
    captions = rendered.manifest.captions
    assert captions is not None
    for split in rendered.splits:
        index = rendered.index(split)
        assert set(index.person_names) <= set(captions["persons"])
        assert all(clothes in captions["clothes"][person] for person, clothes in index.clothes_names)
    sentences = [
        *captions["persons"].values(),
        *(text for worn in captions["clothes"].values() for text in worn.values()),
    ]
    for sentence in sentences:
        assert re.fullmatch(r"An? [a-z][a-z ,-]+\.", sentence), sentence


def test_the_manifest_says_what_it_is(rendered: Dataset) -> None:
    manifest = rendered.manifest
    assert (manifest.version, manifest.label_map, manifest.protocol) == (VERSION, "lip20", "ltcc")
    assert sum(split.rows for split in manifest.splits.values()) == num_images("tiny")


def test_size_and_preset_are_the_callers(tmp_path: Path) -> None:
    render_dataset(str(tmp_path), preset=replace(SMALL, train_persons=1, test_persons=2), size=(80, 40), workers=1)
    sample = next(Dataset.open(str(tmp_path)).samples("train"))
    assert Image.open(io.BytesIO(sample.image)).size == (40, 80)


def test_an_unknown_preset_or_logic_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no preset 'big' of the rendered data set; there are default, demo, clip, tiny"
    ):
        render_dataset(str(tmp_path), preset="big")
    with pytest.raises(DataError, match="no split logic 'market'"):
        render_dataset(str(tmp_path), preset="tiny", splits="market")
    with pytest.raises(DataError, match="outfits is 2 or more"):
        replace(SMALL, outfits=1)


def golden_jobs() -> list[Job]:
    """50 frames: 40 of the default size, 10 large ones."""
    jobs = make_jobs(PRESETS["default"], "ltcc", 1)
    small = [*jobs["train"][:: len(jobs["train"]) // 20][:20], *jobs["gallery"][:: len(jobs["gallery"]) // 20][:20]]
    large = [replace(job, size=(384, 192)) for job in jobs["train"][7 :: len(jobs["train"]) // 10][:10]]
    return [replace(job, frames=job.frames[-1:]) for job in small + large]


def digests() -> dict[str, str]:
    """SHA-256 of image and parsing arrays by name: pixels, because JPEG and PNG encoders may change, pixels may not."""
    found = {}
    for job in golden_jobs():
        for frame, image, parsing in render_frames(job):
            digest = hashlib.sha256(image.tobytes() + parsing.tobytes()).hexdigest()
            found[f"{job.sequence_name}-{frame:04d} {job.size[0]}x{job.size[1]}"] = digest
    return found


def test_synthetic_1_is_frozen() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == VERSION
    assert len(golden["digests"]) == 50
    found = digests()
    changed = [name for name, digest in golden["digests"].items() if found.get(name) != digest]
    assert not changed, "the renderer's output changed: that is a new version, never a better table"


if __name__ == "__main__":  # writes the digests of a new version
    GOLDEN.write_text(json.dumps({"version": VERSION, "digests": digests()}, indent=1) + "\n")
