"""CONTRIBUTING.md's examples walk through: a copy of the tree gets the new method, which trains; the new layout converts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datasets.conversion.convert import convert
from datasets.layouts import LAYOUTS, Layout
from datasets.shards.dataset import Dataset
from orchestration import measures
from orchestration.cli import command, options, tables
from tests.tiny import tiny_dataset, tiny_samples

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TRAIN = """
import sys, torch
from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from orchestration.config import build
from orchestration.config.load import load
from orchestration.tracking.journal import read_steps
from orchestration.training import worker

data, run = sys.argv[1:]
small = ["epochs=1", "batch={people: 4, images: 4, lanes: 2}", "augment={height: 32, width: 16}", "method.width=0.125"]
experiment = load("normface-demo", [f"data={data}", *small])
dataset = Dataset.open(data)
facts = build.describe_data(dataset, dataset.index("train"))
config = dict(experiment=experiment.resolved(), run=run, facts=facts)
worker.worker_device = lambda: torch.device("cpu")
print("trained", worker.train_worker(config)["step"])
print("losses", [record["metrics"]["loss/model"] for _, record in read_steps(open_store(run))])
"""


def block(path: str) -> str:
    """The code block of the page that opens with the path as its comment."""
    [found] = re.findall(rf"```(?:python|yaml)\n(# {re.escape(path)}\n.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our packages and tests, into which the page's method goes file by file."""
    root = tmp_path_factory.mktemp("tree")
    for package in ("datasets", "methods", "orchestration", "tests"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    for path in re.findall(r"^# (\S*normface\S*\.(?:py|yaml))$", PAGE, re.MULTILINE):
        (root / path).write_text(block(path), encoding="utf-8")
    [entry, variant] = re.findall(r"`(\"normface\": .*?)` in `(?:METHODS|VARIANTS)`", PAGE)
    [row] = re.findall(r"```markdown\n(\| `normface` .*?)```", PAGE, re.DOTALL)
    insert(root / "methods/__init__.py", "METHODS: dict[str, type[Method]] = {", f"{entry}, ")
    insert(
        root / "methods/__init__.py", "from methods.method import Method\n", "from methods.normface import NormFace\n"
    )
    insert(
        root / "tests/methods/variants.py", "VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {\n", f"    {variant},\n"
    )
    insert(root / "methods/README.md", "|---|---|---|---|---|---|\n", row)
    return root


def insert(path: Path, behind: str, text: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert content.count(behind) == 1, f"{path}: {behind!r}"
    path.write_text(content.replace(behind, behind + text), encoding="utf-8")


def run(tree: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=tree, env={"PYTHONPATH": str(tree)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_methods_files_are_those_that_the_page_lists(tree: Path) -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", PAGE[PAGE.index("## Add a method") :].partition("\n## ")[0], re.MULTILINE)
    for name in ("methods/losses/NAME.py", "methods/NAME.py", "methods/__init__.py", "tests/methods/variants.py"):
        assert name in listed
        assert (tree / name.replace("NAME", "normface")).is_file()


def test_the_method_keeps_every_promise_of_methods(tree: Path) -> None:
    said = run(tree, "-m", "pytest", "-q", "tests/methods/test_methods.py", "-k", "normface or variant_here")
    assert re.search(r"^(\d+) passed", said, re.MULTILINE), said
    assert int(re.findall(r"^(\d+) passed", said, re.MULTILINE)[0]) >= 11


def test_the_method_trains_by_its_recipe_in_the_real_loop(tree: Path, tmp_path: Path) -> None:
    data = tiny_dataset(tmp_path / "data", persons=8)
    said = run(tree, "-c", TRAIN, data, str(tmp_path / "run"))
    assert int(re.findall(r"trained (\d+)", said)[0]) >= 2
    losses = [float(text) for text in re.findall(r"\d+\.\d+", said.partition("losses")[2])]
    assert len(losses) == int(re.findall(r"trained (\d+)", said)[0])
    assert all(0 < loss < 100 for loss in losses)


@pytest.fixture
def campus(monkeypatch: pytest.MonkeyPatch) -> Layout:
    names: dict[str, Layout] = {}
    exec(compile(block("datasets/layouts/campus.py"), "CONTRIBUTING.md", "exec"), names)
    monkeypatch.setitem(LAYOUTS, "campus", names["CAMPUS"])
    return names["CAMPUS"]


def test_the_layout_converts_a_small_tree(campus: Layout, tmp_path: Path) -> None:
    truth = set()
    for split in ("train", "query", "gallery"):
        (tmp_path / "campus" / split).mkdir(parents=True)
        for at, sample in enumerate(tiny_samples(split, parsing=False)):
            outfit, camera = ("red", "blue")[int(sample.clothes or 0)], "ABC".index(sample.camera or "") + 1
            path = f"{split}/{sample.person}_{outfit}_c{camera}_{at:04d}.jpg"
            (tmp_path / "campus" / path).write_bytes(sample.image)
            truth.add((split, path, sample.person, outfit, str(camera)))
    convert("campus", tmp_path / "campus", str(tmp_path / "out"))
    dataset = Dataset.open(str(tmp_path / "out"))
    assert dataset.verify() == []
    assert dataset.manifest.protocol == campus.protocol
    rows = [(split, sample) for split in dataset.splits for sample in dataset.samples(split)]
    assert {(split, s.key, s.person, s.clothes, s.camera) for split, s in rows} == truth


def test_the_layout_reports_a_name_that_it_cannot_read(campus: Layout, tmp_path: Path) -> None:
    from datasets.layouts.reading import read_layout

    for split in ("train", "query", "gallery"):
        (tmp_path / split).mkdir()
    (tmp_path / "train" / "0007_RED_c2_0031.jpg").touch()
    [offender] = read_layout(campus, tmp_path).offenders
    assert (offender.path, offender.problem) == (
        "train/0007_RED_c2_0031.jpg",
        "the name does not match <person>_<outfit>_c<camera>_<number>",
    )


def test_the_command_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {**vars(command), **vars(options), **vars(tables)}
    exec(compile(block("orchestration/cli/commands/data.py"), "CONTRIBUTING.md", "exec"), names)
    address = tiny_dataset(tmp_path / "data", persons=4, clothes=2, images=3)
    count = names["COUNT"]
    answer = count.call(count.parse([address, "--split", "train"], "data count"))
    assert answer == {"images": 24, "persons": 4}
    count.show(answer)
    assert re.search(r"images +24", capsys.readouterr().out)


def test_the_measure_is_an_entry_of_the_table() -> None:
    [line] = re.findall(r"^# orchestration/measures.py\n(.*),$", PAGE, re.MULTILINE)
    [(name, measure)] = eval(f"{{{line}}}", dict(vars(measures))).items()
    assert name not in measures.MEASURES
    assert measure.min_gallery == int(name.removeprefix("rank-"))
