"""Ablation tables of papers on rendered people: each row is trained with several seeds, in one process each, and scored.

A table can be interrupted at any time: finished trials are kept below `build`, unfinished ones resume from their last epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.conversion.holdout import holdout
from datasets.protocols import protocols
from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from datasets.synthetic.dataset import render_dataset
from orchestration.config.build import describe_data
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint, weights
from orchestration.evaluation.embed import Embedder, EmbeddingJob, load_features
from orchestration.evaluation.modes import rank_modes
from orchestration.training.worker import WorkerConfig, run

MODES = ("clothes-changing", "same-clothes", "general")
MEASURES = ("rank-1", "mAP")
HELD_OUT = 30  # people of `train`, for --validation


@dataclass(frozen=True)
class Ablation:
    """module: run as `python -m` for each trial. rows: each row's settings over those of the recipe, as on the command line.
    also: further figures of a trial that is trained.
    """

    module: str
    recipe: str
    build: Path
    rows: Mapping[str, Sequence[str]]
    seeds: Sequence[int] = (1, 2, 3)
    also: Callable[[Trial], Mapping[str, float]] = lambda trial: {}


@dataclass(frozen=True)
class Trial:
    """One row trained with one seed. `folder` holds its run and, once it is finished, result.json."""

    row: str
    seed: int
    experiment: Experiment
    folder: Path
    validation: bool

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


def plan(ablation: Ablation, row: str, seed: int, data: Path, overrides: Sequence[str], validation: bool) -> Trial:
    settings = [f"data={data}", f"seed={seed}", "checkpoint.keep=1", *ablation.rows[row], *overrides]
    wanted = load(ablation.recipe, settings)
    cache_key = json.dumps([wanted.resolved(), Dataset.open(str(data)).fingerprint], sort_keys=True)
    digest = hashlib.sha256(cache_key.encode()).hexdigest()[:8]
    return Trial(row, seed, wanted, ablation.build / f"{row}-{seed}-{digest}", validation)


def prepare_data(build: Path, validation: bool) -> Path:
    """The rendered people; with `validation`, a quarter of the training people moved to a split for that."""
    data, held_out = (build / name for name in ("people", "people-holdout"))
    if not (data / "manifest.json").exists():
        print("rendering", file=sys.stderr)
        render_dataset(str(data), preset="default", overwrite=True)
    if validation and not (held_out / "manifest.json").exists():
        holdout(str(data), str(held_out), persons=HELD_OUT, overwrite=True)
    return (held_out if validation else data).absolute()


def finish(trial: Trial, also: Callable[[Trial], Mapping[str, float]]) -> None:
    """Train from the newest checkpoint on, score, and leave the result."""
    torch.set_num_threads(1)
    dataset = Dataset.open(trial.experiment.data)
    facts = describe_data(dataset, dataset.index("train"))
    before = time.process_time()
    store = open_store(str(trial.folder))
    address = trial.experiment.weights
    backbone = weights.keep(store, open_store(address).read("")) if address else None
    config = WorkerConfig(trial.experiment.resolved(), str(trial.folder), facts, weights=backbone)
    end = run(config, store, torch.device("cpu"))
    cpu_s = time.process_time() - before
    metrics = {**score(trial, dataset), **also(trial)}
    trial.result.write_text(json.dumps({"metrics": metrics, "steps": end.step, "cpu_s": round(cpu_s, 1)}, indent=1))


def score(trial: Trial, dataset: Dataset) -> dict[str, float]:
    """Metrics by the protocol's names, as fractions."""
    protocol = protocols.PROTOCOLS[dataset.manifest.protocol]
    protocol = protocol.validation() if trial.validation else protocol
    splits = sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})
    features = trial.folder / "features"
    found = checkpoint.find(str(trial.folder))
    job = EmbeddingJob(
        model=found.address,
        data=trial.experiment.data,
        destination=str(features),
        batch=128,
        flip=True,
        clip=None,
        threads=1,
        gpu=False,
    )
    embedder = Embedder(job)
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    for split, index in indexes.items():
        for group in range(len(index.groups)):
            embedder.embed_group(split, group)
    store = open_store(str(features))
    described = {
        split: load_features(store, split, protocols.samples(protocol, index)) for split, index in indexes.items()
    }
    return rank_modes(protocol, indexes, described, dataset.manifest).metrics


def in_child(module: str, args: Sequence[str], trial: Trial | None = None) -> dict[str, Any]:
    """What `module`, run with `args` in a process of its own, prints as its last line. Prints the epochs of a trial."""
    child = subprocess.Popen([sys.executable, "-m", module, *args], stdout=subprocess.PIPE, text=True)
    newest = None
    while trial is not None and child.poll() is None:
        folders = checkpoint.complete_folders(open_store(str(trial.folder))) if trial.folder.exists() else []
        if folders and folders[-1] != newest:
            newest = folders[-1]
            epoch = checkpoint.find(str(trial.folder)).progress.epoch
            print(f"{trial.row}, seed {trial.seed}: epoch {epoch} of {trial.experiment.epochs}", file=sys.stderr)
        time.sleep(2)
    printed, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"{module} {' '.join(args)} ended with status {child.returncode}")
    return dict(json.loads(printed.splitlines()[-1])) if printed else {}


def report(trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Prints mean and spread over the seeds that are finished, in percent; returns each row's means."""
    results = {(t.row, t.seed): json.loads(t.result.read_text()) for t in trials if t.result.exists()}
    columns = [f"{mode}/{measure}" for mode in MODES for measure in MEASURES]
    rows = list(dict.fromkeys(t.row for t in trials))
    width = max(map(len, rows)) + 2
    print(" " * width + "".join(f"{column:>26s}" for column in columns) + "   seeds   steps   CPU min")
    means: dict[str, dict[str, float]] = {}
    for row in rows:
        found = [result for (of, _), result in results.items() if of == row]
        if not found:
            continue
        cells = []
        for column in columns:
            values = [100 * result["metrics"][column] for result in found]
            means.setdefault(row, {})[column] = statistics.mean(values)
            cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f}…{max(values):.1f})")
        minutes = sum(result["cpu_s"] for result in found) / 60
        printed = "".join(f"{cell:>26s}" for cell in cells)
        print(f"{row:{width}s}{printed}{len(found):8d}{found[0]['steps']:8d}{minutes:10.1f}")
    return means


def arguments(ablation: Ablation, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", dest="overrides", help="of every row")
    parser.add_argument("--rows", nargs="+", choices=ablation.rows, default=list(ablation.rows))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(ablation.seeds))
    parser.add_argument("--jobs", type=int, default=1, help="rows that are trained at the same time")
    parser.add_argument("--validation", action="store_true", help="score on people held out of train")
    parser.add_argument("--data", type=Path, help="people rendered before; otherwise they are rendered")
    parser.add_argument("--trial", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    return parser


def train_rows(ablation: Ablation, args: argparse.Namespace) -> list[Trial]:
    """Every row with every seed: those that are not finished are trained, each in a process of its own."""
    data = args.data.absolute() if args.data else prepare_data(ablation.build, args.validation)
    trials = [
        plan(ablation, row, seed, data, args.overrides, args.validation) for seed in args.seeds for row in args.rows
    ]
    shared = ["--data", str(data), *(["--validation"] if args.validation else [])]
    shared += ["--set", *args.overrides] if args.overrides else []
    with ThreadPoolExecutor(args.jobs) as pool:
        missing = [trial for trial in trials if not trial.result.exists()]
        args_of = [[*shared, "--trial", trial.row, str(trial.seed)] for trial in missing]
        list(pool.map(in_child, [ablation.module] * len(missing), args_of, missing))
    return trials


Means = dict[str, dict[str, float]]  # row → metric → percent


def run_table(ablation: Ablation, description: str | None, report_gain: Callable[[Means], None] | None = None) -> None:
    """The command line of a table: train what is missing, print the table and then the gain."""
    args = arguments(ablation, description).parse_args()
    torch.set_num_threads(1)
    if args.trial:
        finish_trial(ablation, args)
        return
    means = report(train_rows(ablation, args))
    if report_gain:
        report_gain(means)


def finish_trial(ablation: Ablation, args: argparse.Namespace) -> None:
    """`--trial`: what `train_rows` starts as a process."""
    row, seed = args.trial
    finish(plan(ablation, row, int(seed), args.data, args.overrides, args.validation), ablation.also)
