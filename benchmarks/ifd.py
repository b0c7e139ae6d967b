"""Table II of IFD on rendered people: what each part of the method adds, and what it costs.

    python -m benchmarks.ifd [--seeds 1 2 3] [--rows baseline IKT CBD SupCon IFD] [--jobs 1] [--set key=value ...]

Renders the preset `default`, trains each row with each seed by the recipe ifd-demo, one thread each, and scores it on the
test people by LTCC's protocol. It can be stopped at any time: what is finished is kept below build/ifd, and a row in the
middle goes on from its last epoch. `--validation` trains on 90 of the 120 people and scores on the other 30 instead: for
choosing settings (`--set`, as for `redress train`) without looking at the test people. About 80 minutes of CPU in all.

Expected: IFD well above the baseline in clothes-changing rank-1. The paper's own numbers are no target.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.holdout import holdout
from datasets.protocols import PROTOCOLS
from datasets.shards import Dataset
from datasets.store import open_store
from datasets.synthetic.dataset import render_dataset
from methods.method import Batch
from orchestration import assembly, checkpoint, experiment
from orchestration.embed import Embedder, EmbeddingJob, load_features
from orchestration.evaluate import rank_modes
from orchestration.experiment import Experiment
from orchestration.worker import Assignment, run

BUILD = Path("build/ifd")
RECIPE = "ifd-demo"
ATTENTION_EPOCHS, JOINT_EPOCHS = 10, 26
# A narrower network and more people in a batch than the recipe: more, and better, steps for the same time.
SETTINGS = [
    "method.width=0.25",
    "batch={people: 16, images: 4, sampler: appearance, appearances: 4, lanes: 1}",
    "workers=1",
]
ROWS = {
    "baseline": ["method.knowledge_transfer=false", "method.clothing_loss=none"],
    "IKT": ["method.clothing_loss=none"],
    "CBD": ["method.knowledge_transfer=false"],
    "SupCon": ["method.clothing_loss=supervised"],
    "IFD": [],
}
MODES = ("clothes-changing", "same-clothes", "general")
MEASURES = ("rank-1", "mAP")
COST_STEPS = 11


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


def plan(row: str, seed: int, data: Path, overrides: list[str], validation: bool) -> Trial:
    """The main stream has the same number of epochs and the same schedule in every row."""
    first = 0 if "method.knowledge_transfer=false" in ROWS[row] else ATTENTION_EPOCHS
    epochs = first + JOINT_EPOCHS
    settings = [
        f"data={data}",
        f"seed={seed}",
        f"epochs={epochs}",
        f"method.joint_from_epoch={ATTENTION_EPOCHS}",
        f"optimizers.model.schedule.milestones=[{first + round(0.7 * JOINT_EPOCHS)}]",
        "checkpoint.keep=1",
        *SETTINGS,
        *ROWS[row],
        *overrides,
    ]
    wanted = experiment.load(RECIPE, settings)
    told_apart = json.dumps([wanted.resolved(), Dataset.open(str(data)).fingerprint], sort_keys=True)
    digest = hashlib.sha256(told_apart.encode()).hexdigest()[:8]
    return Trial(row, seed, wanted, BUILD / f"{row}-{seed}-{digest}", validation)


def prepare_data(validation: bool) -> Path:
    """The rendered people; with `validation`, a quarter of the training people moved to a split for that."""
    data, held_out = (BUILD / name for name in ("people", "people-holdout"))
    if not (data / "manifest.json").exists():
        print("rendering", file=sys.stderr)
        render_dataset(str(data), preset="default", overwrite=True)
    if validation and not (held_out / "manifest.json").exists():
        holdout(str(data), str(held_out), persons=30, overwrite=True)
    return (held_out if validation else data).absolute()


def finish(trial: Trial) -> None:
    """Train from the newest checkpoint on, score, and leave the result."""
    torch.set_num_threads(1)
    dataset = Dataset.open(trial.experiment.data)
    facts = assembly.describe_data(dataset.index("train"), dataset.manifest.label_map)
    before = time.process_time()
    store = open_store(str(trial.folder))
    end = run(Assignment(trial.experiment.resolved(), str(trial.folder), facts), store, torch.device("cpu"))
    cpu_s = time.process_time() - before
    metrics = score(trial, dataset)
    trial.result.write_text(json.dumps({"metrics": metrics, "steps": end.step, "cpu_s": round(cpu_s, 1)}, indent=1))


def score(trial: Trial, dataset: Dataset) -> dict[str, float]:
    """Metrics by the protocol's names, as fractions."""
    protocol = PROTOCOLS[dataset.manifest.protocol]
    protocol = protocol.validation() if trial.validation else protocol
    splits = sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})
    features = trial.folder / "features"
    found = checkpoint.find(str(trial.folder))
    embedder = Embedder(EmbeddingJob(found.address, trial.experiment.data, str(features), 128, True, 1, False))
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    for split, index in indexes.items():
        for group in range(len(index.groups)):
            embedder.embed_group(split, group)
    described = {split: load_features(open_store(str(features)), split, len(index)) for split, index in indexes.items()}
    return rank_modes(protocol, indexes, described).metrics


def cost(row: str, data: Path) -> dict[str, float]:
    """CPU seconds of a step of the last stage, and the peak of memory above what there was before the first one."""
    torch.set_num_threads(1)
    wanted = plan(row, 1, data, [], validation=False).experiment
    dataset = Dataset.open(str(data))
    facts = assembly.describe_data(dataset.index("train"), dataset.manifest.label_map)
    size = (wanted.augment.height, wanted.augment.width)
    images = torch.randn(wanted.batch.people * wanted.batch.images, 3, *size)
    person = torch.arange(wanted.batch.people).repeat_interleave(wanted.batch.images)
    batch = Batch(images, person, person, torch.randint(0, 20, (len(images), *size), dtype=torch.uint8))
    before = peak_mib()
    method = assembly.build_method(wanted, facts)
    method.begin_epoch(wanted.epochs - 1)
    (optimizer,) = assembly.build_optimization(wanted, method).optimizers.values()
    seconds = []
    for _ in range(COST_STEPS):
        started = time.process_time()
        for update in method.updates(batch):
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
        seconds.append(time.process_time() - started)
    return {"step_s": statistics.median(seconds), "mib": peak_mib() - before}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(words: list[str], trial: Trial | None = None) -> dict[str, Any]:
    """What this module, run with `words` in a process of its own, prints as its last line; tells a trial's epochs."""
    child = subprocess.Popen([sys.executable, "-m", "benchmarks.ifd", *words], stdout=subprocess.PIPE, text=True)
    told = None
    while trial is not None and child.poll() is None:
        folders = checkpoint.complete_folders(open_store(str(trial.folder))) if trial.folder.exists() else []
        if folders and folders[-1] != told:
            told = folders[-1]
            steps = checkpoint.find(str(trial.folder)).position
            print(f"{trial.row}, seed {trial.seed}: epoch {steps.epoch} of {trial.experiment.epochs}", file=sys.stderr)
        time.sleep(2)
    printed, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"benchmarks.ifd {' '.join(words)} ended with status {child.returncode}")
    return dict(json.loads(printed.splitlines()[-1])) if printed else {}


def report(trials: list[Trial]) -> None:
    """Mean and spread over the seeds that are finished, in percent."""
    results = {(t.row, t.seed): json.loads(t.result.read_text()) for t in trials if t.result.exists()}
    columns = [f"{mode}/{measure}" for mode in MODES for measure in MEASURES]
    print(f"{'':10s}" + "".join(f"{column:>26s}" for column in columns) + "   seeds   CPU min")
    means: dict[str, float] = {}
    for row in dict.fromkeys(t.row for t in trials):
        found = [result for (of, _), result in results.items() if of == row]
        if not found:
            continue
        cells = []
        for column in columns:
            values = [100 * result["metrics"][column] for result in found]
            cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f}…{max(values):.1f})")
        means[row] = statistics.mean(100 * result["metrics"]["clothes-changing/rank-1"] for result in found)
        minutes = sum(result["cpu_s"] for result in found) / 60
        print(f"{row:10s}" + "".join(f"{cell:>26s}" for cell in cells) + f"{len(found):8d}{minutes:10.1f}")
    if {"baseline", "IFD"} <= means.keys():
        more = means["IFD"] - means["baseline"]
        print(f"clothes-changing rank-1, IFD above the baseline: {more:+.1f} points (expected: well above 0)")


def report_cost(rows: list[str], data: Path) -> None:
    """Each row's step and memory beside the baseline's."""
    costs = {row: in_child(["--cost", row, "--data", str(data)]) for row in dict.fromkeys(["baseline", *rows])}
    for row, found in costs.items():
        times = {key: found[key] / costs["baseline"][key] for key in found}
        print(
            f"{row:10s}{1000 * found['step_s']:8.0f} ms of CPU a step ({times['step_s']:.2f} ×)"
            f"{found['mib']:8.0f} MiB ({times['mib']:.2f} ×)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", dest="overrides", help="of every row")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="rows that are trained at the same time")
    parser.add_argument("--validation", action="store_true", help="score on people held out of train")
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trial", nargs=2, metavar=("ROW", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--cost", metavar="ROW", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.cost:
        print(json.dumps(cost(words.cost, words.data)))
        return
    if words.trial:
        finish(plan(words.trial[0], int(words.trial[1]), words.data, words.overrides, words.validation))
        return
    os.nice(max(0, 15 - os.nice(0)))
    data = prepare_data(words.validation)
    trials = [plan(row, seed, data, words.overrides, words.validation) for seed in words.seeds for row in words.rows]
    shared = ["--data", str(data), *(["--validation"] if words.validation else [])]
    shared += ["--set", *words.overrides] if words.overrides else []
    with ThreadPoolExecutor(words.jobs) as pool:
        missing = [trial for trial in trials if not trial.result.exists()]
        words_of = [[*shared, "--trial", trial.row, str(trial.seed)] for trial in missing]
        list(pool.map(in_child, words_of, missing))
    report(trials)
    report_cost(words.rows, data)


if __name__ == "__main__":
    main()
