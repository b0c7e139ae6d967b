"""`redress data parse` from end to end: a network trained on rendered people gives other renders their masks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from datasets.format.schema import Sample
from datasets.images.decode import decode_image, decode_parsing
from datasets.inspection.contact_sheet import GAP, TITLE, overlay
from datasets.inspection.inspect import inspect
from datasets.parsing.rewrite import pieces
from datasets.shards.dataset import Dataset, write_dataset
from orchestration.cli.main import main
from orchestration.parsing.job import Counter, ParsingJob, ShardParser
from orchestration.parsing.models import find_parser
from tests.orchestration.parsing.network import (
    SIZE,
    mean_iou,
    rendered,
    six_parts,
    train,
    without_masks,
)
from tests.tiny import tiny_dataset, tiny_samples

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--workers", "2", "--cpus", "1"]


class Trained:
    """The network as people would export it, the held-out renders without masks, and the masks they should get."""

    def __init__(self, folder: Path) -> None:
        people = rendered()
        network = train(people["gallery"])
        self.exported = {"pt2": str(folder / "net.pt2"), "onnx": str(folder / "net.onnx")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both tell their own story
            torch.export.save(exported(network), self.exported["pt2"])
            batch = ({0: torch.export.Dim("batch", min=1)},)
            torch.onnx.export(
                network, (torch.zeros(2, 3, *SIZE),), self.exported["onnx"], dynamic_shapes=batch, verbose=False
            )
        self.data = str(folder / "data")
        self.truth = [six_parts(sample) for sample in people["query"]]
        self.manifest = write_dataset(
            self.data,
            {split: without_masks(people[split]) for split in ("gallery", "query")},
            name="people",
            version="7",
            licence="rendered",
            label_map=None,
            protocol="ltcc",
            captions={"persons": {}, "clothes": {}},
            extra={"note": "kept"},
            row_group_bytes=24 << 10,
        )


def exported(network: nn.Module, size: tuple[int, int] = SIZE) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(network, (torch.zeros(2, 3, *size),), dynamic_shapes=({0: batch},))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("parsing"))


def parse(capfd: pytest.CaptureFixture[str], source: str, destination: Path | str, *words: str) -> dict[str, Any]:
    """The command's one JSON object."""
    status = main(["data", "parse", source, str(destination), *SMALL, *words, "--json"])
    told = json.loads(capfd.readouterr().out)
    assert told["status"] == status
    return dict(told)


@pytest.fixture(scope="module", params=["pt2", pytest.param("onnx", marks=pytest.mark.long)])
def parsed(
    request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The command's answer, for each kind of graph."""
    destination, answer = tmp_path_factory.mktemp("parsed") / "data", tmp_path_factory.mktemp("answer") / "answer.json"
    words = [trained.data, str(destination), "--model", trained.exported[request.param], "--labels", "six", *SMALL]
    assert main(["data", "parse", *words, "--result", str(answer)]) == 0
    return dict(json.loads(answer.read_text()))


def test_held_out_renders_get_masks_with_a_mean_iou_of_four_fifths(parsed: dict[str, Any], trained: Trained) -> None:
    """By label map `six`, over all six parts, against the renderer's own masks of frames that were not learnt from."""
    samples = Dataset.open(parsed["address"]).samples("query")
    found = [decode_parsing(sample.parsing or b"") for sample in samples]
    assert {label for mask in trained.truth for label in mask.unique().tolist()} == set(range(6))
    assert mean_iou(found, trained.truth) >= 0.8


def test_everything_but_the_masks_stays(parsed: dict[str, Any], trained: Trained) -> None:
    source, made = Dataset.open(trained.data), Dataset.open(parsed["address"])
    assert made.verify() == []
    for split in source.splits:
        pairs = list(zip(source.samples(split), made.samples(split), strict=True))
        assert all(replace(new, parsing=None) == old and new.parsing for old, new in pairs)
        rows = [[place.rows for place in dataset.index(split).groups] for dataset in (source, made)]
        assert rows[0] == rows[1]
        assert made.index(split).has_parsing
    old, new = source.manifest, made.manifest
    carried = ("name", "licence", "protocol", "captions")
    assert [getattr(new, name) for name in carried] == [getattr(old, name) for name in carried]
    kind = parsed["parser"]["kind"]
    digest = hashlib.sha256(b"".join(Path(file).read_bytes() for file in files(trained, kind))).hexdigest()
    assert new.version == f"7+parsing.six.{digest[:8]}"
    assert new.label_map == "six"
    record = {"kind": kind, "sha256": digest, "label_map": "six", "size": list(SIZE)}
    assert new.extra == {"note": "kept", "parsing": {"from": old.fingerprint, **parsed["parser"]}}
    assert parsed["parser"] | record == parsed["parser"]
    assert [path for path in made.store.list() if "unfinished" in path] == []


def files(trained: Trained, kind: str) -> list[str]:
    graph = trained.exported["pt2" if kind == "torch.export" else "onnx"]
    return [graph, f"{graph}.data"] if kind == "onnx" else [graph]


def test_the_contact_sheet_shows_the_new_masks(parsed: dict[str, Any], tmp_path: Path) -> None:
    """The first image of the first person, and beside it the same under its mask's colours, twice as large."""
    facts = inspect(parsed["address"], sheet=tmp_path / "sheet.png")
    assert facts["splits"]["query"]["masks"] == facts["splits"]["query"]["images"]
    assert facts["trivial"], "what colours alone give takes masks"
    sample = next(Dataset.open(parsed["address"]).samples("gallery"))
    image, mask = decode_image(sample.image).permute(1, 2, 0).numpy(), decode_parsing(sample.parsing or b"").numpy()
    (height, width), top, left = SIZE, 2 * TITLE + 2 * GAP, GAP
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    shown = sheet[top : top + 2 * height, left + 2 * width : left + 4 * width]
    assert np.array_equal(shown, overlay(image, mask).repeat(2, axis=0).repeat(2, axis=1))


def slow_graph(path: Path) -> str:
    """A graph that takes a moment for every image."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 48, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 48, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(48, 6, 1),
    ]
    torch.export.save(exported(nn.Sequential(*layers).eval(), (192, 96)), str(path))
    return str(path)


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """Shards with a part beside them: when they were last written, and which file they are."""
    parts = sorted((folder / "unfinished").glob("*/*.part"))
    shards = [folder / part.parent.name / f"{part.stem}.parquet" for part in parts]
    return {str(shard): (shard.stat().st_mtime_ns, shard.stat().st_ino) for shard in shards}


SLOW = ["--labels", "six", "--batch", "4", "--overwrite", "--overwrite-masks"]


@dataclass(frozen=True)
class Undisturbed:
    """A job that nothing came between: its source, which has masks, its graph, and the command's answer."""

    data: str
    graph: str
    answer: dict[str, Any]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Where its masks go, another data set stood before."""
    folder = tmp_path_factory.mktemp("undisturbed")
    data = tiny_dataset(folder / "data", splits=("train",), persons=10, images=4, row_group_bytes=3 << 10)
    there, graph = tiny_dataset(folder / "there", splits="ltcc"), slow_graph(folder / "slow.pt2")
    words = [data, there, "--model", graph, *SLOW, *SMALL, "--result", str(folder / "answer.json")]
    assert main(["data", "parse", *words]) == 0
    return Undisturbed(data, graph, json.loads((folder / "answer.json").read_text()))


def test_masks_and_data_sets_are_replaced_where_that_is_asked_for(undisturbed: Undisturbed) -> None:
    """Nothing is left of the data set that stood there, and none of its other splits."""
    source, made = Dataset.open(undisturbed.data), Dataset.open(undisturbed.answer["address"])
    assert made.splits == ("train",)
    assert made.manifest.label_map == "six"
    assert made.verify() == []
    assert all(
        old.parsing != new.parsing for old, new in zip(source.samples("train"), made.samples("train"), strict=True)
    )


@pytest.mark.long
def test_a_killed_job_goes_on_with_the_shards_that_are_missing(
    undisturbed: Undisturbed, tmp_path: Path, ray_cluster: str, capfd: pytest.CaptureFixture[str]
) -> None:
    shards, made = undisturbed.answer["shards"]["made"], tmp_path / "made"
    assert shards >= 6
    words = [undisturbed.data, str(made), "--model", undisturbed.graph, *SLOW, "--workers", "1", "--cpus", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestration", "data", "parse", *words],
        cwd=ROOT, env=os.environ | {"RAY_ADDRESS": ray_cluster}, stderr=subprocess.PIPE,
    )  # fmt: skip
    while len(finished(made)) < 2:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = finished(made)
    assert 2 <= len(before) < shards
    assert not (made / "manifest.json").exists()

    resumed = parse(capfd, undisturbed.data, made, "--model", undisturbed.graph, *SLOW)
    assert resumed["fingerprint"] == undisturbed.answer["fingerprint"]
    assert resumed["shards"]["kept"] >= len(before)
    assert {path: (Path(path).stat().st_mtime_ns, Path(path).stat().st_ino) for path in before} == before
    assert Dataset.open(str(made)).verify() == []


def test_images_that_cannot_be_decoded_are_named_and_the_rest_is_kept(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def damage(sample: Sample) -> Sample:
        is_bad = sample.key.endswith("_000.jpg") and sample.person in ("001", "004")
        return replace(sample, image=sample.image[:100], parsing=None) if is_bad else replace(sample, parsing=None)

    write = {"train": [damage(sample) for sample in tiny_samples("train", persons=12, images=6)]}
    write_dataset(
        str(tmp_path / "bad"), write, name="bad", version="1", licence="drawn", label_map=None, protocol="ltcc",
        row_group_bytes=4 << 10,
    )  # fmt: skip
    words = ["--model", trained.exported["pt2"], "--labels", "six"]
    told = parse(capfd, str(tmp_path / "bad"), tmp_path / "made", *words)
    assert told["status"] == 2
    message = told["error"]["message"]
    assert "4 images of" in message
    assert "train/001_0_cA_000.jpg cannot be decoded" in message
    assert "train/004_1_cA_000.jpg" in message
    assert "--quarantine" in message
    assert finished(tmp_path / "made")
    assert not (tmp_path / "made" / "manifest.json").exists()


def test_an_altered_row_group_is_not_parsed_and_the_answer_says_where(trained: Trained, tmp_path: Path) -> None:
    """One actor's work, here in this process."""
    import ray

    data = Path(tiny_dataset(tmp_path / "data", parsing=False))
    alter(data / "query" / "00000.parquet", 2000)
    dataset, model = Dataset.open(str(data)), find_parser(trained.exported["pt2"], labels="six")
    query = next(piece for piece in pieces(dataset) if piece.split == "query")
    job = ParsingJob(dataset, (query,), model, str(tmp_path / "made"), batch=8, threads=1, gpu=False)
    threads = torch.get_num_threads()
    actor = ShardParser(job, ray.remote(num_cpus=0)(Counter).remote())
    torch.set_num_threads(threads)
    answer = json.loads(str(actor({"piece": np.array([0])})["answer"][0]))
    assert "query/00000.parquet, row group 0 at offset 4: altered bytes" in answer["failure"]
    assert not (tmp_path / "made" / "query" / "00000.parquet").exists()


def alter(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 1
    file.write_bytes(content)


def test_what_cannot_be_parsed_is_refused_before_work(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", trained.exported["pt2"], "--labels", "six"]
    with_masks = tiny_dataset(tmp_path / "with-masks")
    bare = tiny_dataset(tmp_path / "bare", parsing=False)
    untouched = Dataset.open(with_masks).fingerprint
    for source, destination, words, said in [
        (
            with_masks,
            "x",
            model,
            "masks already (lip20); use it as it is, or replace them in the new data set with --overwrite-masks",
        ),
        (bare, with_masks, model, "holds a finished data set; choose another address, or replace it with --overwrite"),
        (bare, bare, model, "cannot be parsed into itself"),
        (str(tmp_path / "nowhere"), "x", model, "there is no data set at"),
        (bare, "x", [*model, "--gpu", "true"], "the Ray cluster has no GPU"),
        (bare, "x", [*model, "--workers", "9"], "9 workers of 1 CPUs do not fit: the Ray cluster has 4 CPUs"),
        (bare, "x", ["--model", trained.exported["pt2"], "--labels", "lip20"], "It has 6 channels, label map lip20 20"),
    ]:
        told = parse(capfd, source, tmp_path / destination, *words)
        assert told["status"] == 2
        assert said in told["error"]["message"]
    assert Dataset.open(with_masks).fingerprint == untouched
    assert not (tmp_path / "x").exists()
