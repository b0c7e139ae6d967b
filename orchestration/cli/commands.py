"""What each command does with its words: one call, whose answer is plain data."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestration.errors import RequestError

if TYPE_CHECKING:
    from orchestration.config.load import Experiment

Answer = dict[str, Any]


@contextmanager
def before_work() -> Iterator[None]:
    """What cannot be opened now was asked for wrongly; the same failure in the midst of work is another matter."""
    from datasets.errors import DataError
    from datasets.storage.store import StoreError

    try:
        yield
    except (DataError, StoreError) as error:
        raise RequestError(str(error)) from error


def train(words: Namespace) -> Answer:
    from orchestration.training.train import train as run

    experiment = wanted_experiment(words)
    return run(experiment, resume=words.resume, init_from=experiment.init_from)


def wanted_experiment(words: Namespace) -> Experiment:
    """The experiment named first; with --resume it may be left out, and is the run's own."""
    from orchestration.config.load import load, override

    given = list(words.overrides)
    if words.init_from:
        given.append(f"init_from={words.init_from}")
    if words.overrides and "=" not in words.overrides[0]:
        return load(given[0], given[1:])
    if not words.resume:
        raise RequestError(
            "train which experiment? redress train EXPERIMENT [key=value …]; `redress experiments` lists them."
        )
    from orchestration.engine import checkpoint
    from orchestration.tracking import tracked_run

    with before_work():
        found = checkpoint.find(tracked_run.open_run(words.resume).storage)
    return override(found.experiment, given)


def tune(words: Namespace) -> Answer:
    from orchestration.cli.tune import wanted
    from orchestration.tuning.tune import tune as run

    experiment, settings = wanted(words)
    return run(experiment, settings, resume=words.resume)


def evaluate(words: Namespace) -> Answer:
    from orchestration.evaluation.score import score

    return score(words.model, words.overrides)


def search(words: Namespace) -> Answer:
    from orchestration.search.search import search as run

    return run(
        words.model,
        words.gallery,
        words.images,
        split=words.split,
        masks=words.parsing,
        top=words.top,
        picture=words.out,
    )


def data_synth(words: Namespace) -> Answer:
    from datasets.storage.store import open_store
    from datasets.synthetic.dataset import num_images, render_dataset
    from orchestration.progress import Progress

    with before_work():
        total = num_images(words.preset, words.splits, words.seed)
        open_store(words.address).exists("manifest.json")
    with Progress().bar("rendering people", "images") as bar:
        manifest = render_dataset(
            words.address,
            preset=words.preset,
            splits=words.splits,
            seed=words.seed,
            size=words.size,
            overwrite=words.overwrite,
            progress=lambda done: bar(done, total),
        )
    return written(words.address, manifest)


def data_convert(words: Namespace) -> Answer:
    from datasets.conversion.convert import ConversionSettings, convert
    from datasets.storage.store import open_store
    from orchestration.progress import Progress

    with before_work():
        open_store(words.address).exists("manifest.json")
    stages = {
        "read": ("reading the archive", "bytes"),
        "check": ("checking", "images"),
        "resume": ("verifying what is there", "images"),
        "write": ("converting", "images"),
    }
    with Progress().stages(stages) as tell:
        settings = ConversionSettings(
            parsing=words.parsing,
            labels=words.labels,
            quarantine=words.quarantine,
            resize_masks=words.resize_masks,
            without=tuple(words.without),
            dry_run=words.dry_run,
            overwrite=words.overwrite,
        )
        done = convert(words.layout, words.source, words.address, settings, progress=tell)
    report = {
        "layout": done.layout,
        "notes": done.lines(),
        "warnings": done.warnings,
        "passed_over": done.passed_over,
        "quarantined": [str(offender) for offender in done.quarantined],
    }
    return report | (written(words.address, done.manifest) if done.manifest else {"address": None})


def data_holdout(words: Namespace) -> Answer:
    from datasets.conversion.holdout import holdout
    from datasets.shards.dataset import Dataset
    from orchestration.progress import Progress

    with before_work():
        dataset = Dataset.open(words.address)
    total = sum(len(dataset.index(split)) for split in dataset.splits)
    with Progress().bar("writing", "images") as bar:
        manifest = holdout(
            words.address,
            words.destination,
            persons=words.persons,
            seed=words.seed,
            overwrite=words.overwrite,
            progress=lambda done: bar(done, total),
        )
    return written(words.destination, manifest)


def data_parse(words: Namespace) -> Answer:
    from orchestration.parsing.job import ParseSettings, parse
    from orchestration.parsing.models import find_parser
    from orchestration.progress import Progress

    model = find_parser(words.model, labels=words.labels, size=words.size, mean=words.mean, std=words.std)
    with Progress().bar("parsing", unit="images") as bar:
        done = parse(
            words.address,
            words.destination,
            model,
            ParseSettings(
                workers=words.workers,
                cpus=words.cpus,
                batch=words.batch,
                gpu=None if words.gpu == "auto" else words.gpu == "true",
                overwrite=words.overwrite,
                overwrite_masks=words.overwrite_masks,
            ),
            progress=bar,
        )
    shards = {"made": done.made, "kept": done.kept}
    return written(words.destination, done.manifest) | {"parser": model.record(), "shards": shards}


def written(address: str, manifest: Any) -> Answer:
    return {
        "address": address,
        "name": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "images": {name: split.rows for name, split in manifest.splits.items()},
    }


def data_inspect(words: Namespace) -> Answer:
    from datasets.inspection.inspect import inspect
    from datasets.shards.dataset import Dataset

    with before_work():
        Dataset.open(words.address)
    return inspect(words.address, sheet=words.sheet)


def data_verify(words: Namespace) -> Answer:
    from datasets.shards.dataset import Dataset
    from orchestration.progress import Progress

    with before_work():
        dataset = Dataset.open(words.address)
    with Progress().bar("verifying", "bytes") as bar:
        problems = dataset.verify(bar)
    return {
        "status": 1 if problems else 0,
        "address": words.address,
        "fingerprint": dataset.fingerprint,
        "problems": problems,
    }


def runs_list(words: Namespace) -> Answer:
    from orchestration.tracking.runs import list_runs

    return {"runs": list_runs(words.experiment, limit=words.limit)}


def runs_show(words: Namespace) -> Answer:
    from orchestration.tracking.runs import show_run

    return named(show_run(words.run))


def runs_sync(words: Namespace) -> Answer:
    from orchestration.registry.pending import sync

    return sync(words.run)


def registry_list(words: Namespace) -> Answer:
    from orchestration.registry.models import list_models

    return {"models": list_models()}


def registry_show(words: Namespace) -> Answer:
    from orchestration.registry.models import show_model

    return named(show_model(words.model))


def registry_register(words: Namespace) -> Answer:
    from orchestration.registry.models import register_run

    return register_run(words.model, words.name)


def registry_compare(words: Namespace) -> Answer:
    from orchestration.review.review import review

    return review(words.model, against=words.against, data=words.data, page=words.page, who=words.by)


def registry_promote(words: Namespace) -> Answer:
    from orchestration.registry.decisions import promote

    return promote(words.model, override=words.override, who=words.by)


def registry_reject(words: Namespace) -> Answer:
    from orchestration.registry.decisions import reject

    return reject(words.model, words.reason, who=words.by)


def registry_rollback(words: Namespace) -> Answer:
    from orchestration.registry.decisions import rollback

    return rollback(words.name, words.reason, who=words.by)


def registry_gate(words: Namespace) -> Answer:
    from orchestration.registry.gate import show_gate

    return show_gate(words.name, target=words.target, tolerance=words.tolerance, confidence=words.confidence)


def named(answer: Answer) -> Answer:
    """`status` is the command's: a run's or version's own is its `state`."""
    return {("state" if key == "status" else key): value for key, value in answer.items()}


def experiments_list(words: Namespace) -> Answer:
    from orchestration.config.recipes import recipes, summary

    return {"experiments": {name: summary(name) for name in recipes()}}


def experiments_show(words: Namespace) -> Answer:
    from orchestration.config import recipes
    from orchestration.config.load import load

    has_data = "data" in recipes.read(recipes.find(words.name)) or any(w.startswith("data=") for w in words.overrides)
    tree = load(words.name, words.overrides if has_data else [*words.overrides, "data=not://given"]).resolved()
    return {"experiment": tree if has_data else tree | {"data": None}}


def demo(words: Namespace) -> Answer:
    from orchestration.cli.demo import demo as run

    return run(words.directory)
