"""The commands that are attacked: their words, how a user goes on, and what has to come of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign import facts
from tests.campaign.arena import Arena

SMALL = [
    "batch={people: 4, images: 2, lanes: 2}", "augment.height=32", "augment.width=16", "method.width=0.125",
    "optimizers.model.schedule=null",
]  # fmt: skip
NAME = "people"
METHODS = {
    "baseline": ["baseline-demo"],
    "cal": ["cal-demo", "method.adversarial_from_epoch=1", f"register={NAME}"],
    "ifd": ["ifd-demo", "method.joint_from_epoch=1"],
    "pixel-sampling": ["pixel-sampling-demo"],
    "ccaf": ["ccaf-demo", "weights=null", "method.encoder_from_epoch=1", "method.prompt_batch=16"],
}
TRAIN_WORKER, TRIAL, ACTOR = (
    r"^ray::.*RayTrainWorker",
    r"^ray::(ImplicitFunc|.*[Tt]rainable|.*InActor)",
    r"^ray::MapWorker",
)
Words = Callable[[Arena], list[str]]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A command line. again: what the user types after it was cut short. outcome: what is compared with an undisturbed run's.

    ground: the place of work that it starts from. progress: a number that grows while it works; where there is none, its
    writes are counted. worker: the titles of the processes that work for it under Ray; without one it uses no Ray. run: the id
    of the run that it made. done: how it refuses to do again what was completed before it could answer.
    """

    name: str
    words: Words
    again: Words
    outcome: Callable[[Arena, Mapping[str, Any]], Facts]
    ground: str = "base"
    progress: Callable[[Arena], int] | None = None
    worker: str | None = None
    run: Callable[[Arena], str | None] = lambda arena: None
    done: str | None = None


def run_folder(arena: Arena) -> Path | None:
    """The storage of the run that an attack trains."""
    found = sorted(path.parent for path in arena.runs.glob("*/run.json"))
    return found[0] if found else None


def steps(arena: Arena) -> int:
    """Lines of all journals: steps, and those repeated after a checkpoint."""
    return sum(max(0, path.read_bytes().count(b"\n") - 1) for path in arena.runs.glob("*/journal/*.jsonl"))


def train_words(method: str) -> Words:
    def words(arena: Arena) -> list[str]:
        recipe, *settings = METHODS[method]
        more = ["epochs=2", "seed=3", "workers=2", "resources.cpus=0.5", "checkpoint.every_batches=4"]
        return ["train", recipe, f"data={arena.work / 'data'}", f"storage={arena.runs}", *SMALL, *more, *settings]

    return words


def train_again(method: str) -> Words:
    def words(arena: Arena) -> list[str]:
        run = run_folder(arena)
        return ["train", "--resume", run.name] if run else train_words(method)(arena)

    return words


def train_outcome(arena: Arena, answer: Mapping[str, Any]) -> Facts:
    run = Path(answer["run"])
    others = [run_id for (run_id,) in facts.rows(arena, "SELECT run_uuid FROM runs") if run_id != run.name]
    return {
        "metrics": answer["metrics"],
        "answered": answer["model"],
        "trained": facts.trained(run, arena),
        "registry": facts.versions(arena),
        "other runs with steps": [other for other in others if facts.history(arena, other)],
    }


def train(method: str) -> Subject:
    return Subject(
        f"train {method}",
        train_words(method),
        train_again(method),
        train_outcome,
        progress=steps,
        worker=TRAIN_WORKER,
        run=lambda arena: run.name if (run := run_folder(arena)) else None,
    )


def the_run(arena: Arena) -> str:
    run = run_folder(arena)
    assert run is not None
    return run.name


def evaluated(arena: Arena, answer: Mapping[str, Any]) -> Facts:
    run = Path(answer["run"])
    return {
        "metrics": answer["metrics"],
        "pictures": [Path(picture).name for picture in answer["pictures"]],
        "files": {name: d for name, d in facts.files(run / "evaluations").items() if not name.endswith(".parquet")},
        "trained": facts.trained(run, arena),
    }


EVALUATE = Subject(
    "evaluate",
    lambda arena: ["evaluate", the_run(arena), "evaluate.flip=false"],
    lambda arena: ["evaluate", the_run(arena), "evaluate.flip=false"],
    evaluated,
    ground="train baseline",
)


def registered(arena: Arena, answer: Mapping[str, Any]) -> Facts:
    return {"model": answer["model"], "registry": facts.versions(arena)}


REGISTER = Subject(
    "registry register",
    lambda arena: ["registry", "register", the_run(arena), "again"],
    lambda arena: ["registry", "register", the_run(arena), "again"],
    registered,
    ground="train baseline",
)


def promoted(arena: Arena, answer: Mapping[str, Any]) -> Facts:
    return facts.versions(arena)


PROMOTE = Subject(
    "registry promote",
    lambda arena: ["registry", "promote", f"models:/{NAME}/2", "--by", "campaign", "--override", "attacked"],
    lambda arena: ["registry", "promote", f"models:/{NAME}/2", "--by", "campaign", "--override", "attacked"],
    promoted,
    ground="compared",
    done=r"is the champion already",
)


def written(arena: Arena, answer: Mapping[str, Any]) -> Facts:
    return {"files": facts.files(arena.disk / "out")}


def data(name: str, *words: str, progress: Callable[[Arena], int] | None = None, worker: str | None = None) -> Subject:
    """A command that writes a data set to `out`. {work} in its words is the place of work."""

    def line(arena: Arena) -> list[str]:
        return ["data", name, *(word.format(work=arena.work, out=arena.disk / "out") for word in words)]

    return Subject(f"data {name}", line, line, written, progress=progress, worker=worker, done=r"finished data set")


def shards(arena: Arena) -> int:
    return len(list((arena.disk / "out").rglob("*.parquet")))


PARSE = data(
    "parse", "{work}/bare", "{out}", "--model", "{work}/parser.pt2", "--labels", "six", "--workers", "2", "--cpus", "1",
    progress=shards, worker=ACTOR,
)  # fmt: skip


def tune_words(arena: Arena) -> list[str]:
    more = ["method.adversarial_from_epoch=1", "epochs=2", "seed=3", "workers=1", "resources.cpus=1"]
    over = ["--over", "method.epsilon=[0, 0.5]", "--every", "1", "--concurrent", "1", "--register", NAME]
    return ["tune", "cal-demo", f"data={arena.work / 'held'}", f"storage={arena.runs}", *SMALL, *more, *over]


def sweep(arena: Arena) -> str | None:
    found = [path.parent.name for path in arena.runs.glob("*/sweep.json")]
    return found[0] if found else None


def tune_again(arena: Arena) -> list[str]:
    found = sweep(arena)
    return ["tune", "--resume", found] if found else tune_words(arena)


def tuned(arena: Arena, answer: Mapping[str, Any]) -> Facts:
    trials = "SELECT run_uuid FROM tags WHERE key = 'sweep' AND value = ?"
    children = sorted(run for (run,) in facts.rows(arena, trials, answer["sweep"]))
    found = {}
    for child in children:
        [(values,)] = facts.rows(arena, "SELECT value FROM tags WHERE run_uuid = ? AND key = 'sweep.values'", child)
        assert values not in found, f"two runs of the trial {values}"
        found[values] = facts.trained(arena.runs / child, arena)
    points = {
        json.dumps(point["values"]): [point["state"], point["score"], point["epochs"]] for point in answer["points"]
    }
    model = re.sub(r"^models:/", "", str(answer["model"]))
    return {"points": points, "trials": found, "registry": facts.versions(arena), "model": model}


TUNE = Subject("tune", tune_words, tune_again, tuned, progress=steps, worker=TRIAL, run=sweep)

SUBJECTS = {
    subject.name: subject
    for subject in (
        *(train(method) for method in METHODS),
        EVALUATE,
        REGISTER,
        PROMOTE,
        TUNE,
        PARSE,
        data("holdout", "{work}/data", "{out}", "--persons", "4"),
        data("convert", "table", "{work}/source", "{out}"),
        data("synth", "{out}", "--preset", "tiny"),
    )
}
