"""A sweep's plug-ins for Ray Tune: searcher, scheduler and callback."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune import Callback, PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from datasets.storage.store import open_store
from orchestration.config.load import Experiment
from orchestration.errors import RequestError
from orchestration.sweeps.early_stopping import Rule
from orchestration.sweeps.space import Values
from orchestration.sweeps.state import Result, Trial
from orchestration.training import stop_signal
from orchestration.tuning.trial_queue import TrialQueue

MakeExperiment = Callable[[Values, int], Experiment]


class DriverOnly:
    """Stays in the driver. Tune pickles its plug-ins into storage; a plain object is pickled in place of these."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()

    def __deepcopy__(self, _: dict[int, Any]) -> DriverOnly:
        return self


class Search(DriverOnly, Searcher):
    """Passes trials from the queue to Tune, and their results back."""

    def __init__(self, queue: TrialQueue, experiment: MakeExperiment, callback: ProgressCallback) -> None:
        super().__init__(metric="score", mode="max")
        self.queue, self.experiment, self.callback = queue, experiment, callback

    def suggest(self, trial_id: str) -> Any:
        while (trial := self.queue.pop()) is not None:
            try:
                experiment = self.experiment(trial.values, trial.seed)
            except RequestError as error:  # a sampled combination that cannot be trained
                self.queue.complete(trial, Result("failed", reason=str(error)))
                continue
            self.callback.start(trial_id, trial)
            return {
                "values": trial.values,
                "seed": trial.seed,
                "is_first_seed": trial.is_first_seed,
                "experiment": experiment.resolved(),
            }
        return Searcher.FINISHED if self.queue.finished else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.queue.complete(self.callback.end(trial_id), to_result(result))
        self.callback.notify()

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: a sweep resumes from MLflow."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never."""


def to_result(result: Mapping[str, Any] | None) -> Result:
    """The result of a trial that ended. If its last report says running, it was stopped; if its process died, Tune has no
    report."""
    if result is None or result.get("state") is None:
        return Result("failed", reason="it could not start or its process died, in every attempt")
    return Result(
        state="stopped" if result["state"] == "running" else result["state"],
        epoch=result["epoch"],
        score=result["score"],
        metrics=json.loads(result["metrics"]),
        run_id=result["run_id"],
        reason=result.get("reason"),
        curve=read_curve(result),
    )


def read_curve(result: Mapping[str, Any]) -> dict[int, float]:
    return {int(epoch): score for epoch, score in json.loads(result["curve"]).items()}


class Scheduler(DriverOnly, FIFOScheduler):
    """Stops first seeds by a rule over the curves of all of them; earlier: those of another process of the same sweep."""

    def __init__(self, rule: Rule | None, earlier: Mapping[str, Mapping[int, float]]) -> None:
        super().__init__()
        self.rule, self.curves = rule, {name: dict(curve) for name, curve in earlier.items()}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if self.rule is None or not trial.config["is_first_seed"] or result["done"]:
            return TrialScheduler.CONTINUE
        name = Trial(trial.config["values"], trial.config["seed"]).name
        self.curves[name] = read_curve(result)
        if not self.rule(name, result["epoch"], self.curves):
            return TrialScheduler.CONTINUE
        reason = f"{result['score']:.4f} after {result['epoch']} epochs is below the threshold of --stop"
        stop_signal.send_stop(open_store(result["storage"]), result["epoch"], reason)
        return TrialScheduler.STOP


class ProgressCallback(DriverOnly, Callback):
    """Keeps the running trials and the epochs they have reached; calls `watch` with them at every change."""

    def __init__(self, watch: Callable[[Mapping[str, tuple[Trial, int]]], None]) -> None:
        self.watch = watch
        self.running: dict[str, tuple[Trial, int]] = {}

    def start(self, trial_id: str, trial: Trial) -> None:
        self.running[trial_id] = (trial, 0)
        self.notify()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        if found := self.running.get(trial.trial_id):
            self.running[trial.trial_id] = (found[0], result["epoch"])
            self.notify()

    def end(self, trial_id: str) -> Trial:
        return self.running.pop(trial_id)[0]

    def notify(self) -> None:
        self.watch(self.running)


def placement(experiment: Experiment, gpu: bool) -> PlacementGroupFactory:
    """The resources of a trial's actor. An actor that trains in its own process takes what training takes.

    With several workers, Ray Train asks for their resources. The actor then takes almost nothing: Ray refuses an empty
    placement group, and a share of a core would be missing elsewhere.
    """
    if experiment.group_sizes() != (1,):
        return ray.tune.PlacementGroupFactory([{"memory": 1 << 20}])
    return ray.tune.PlacementGroupFactory([{"CPU": experiment.resources.cpus} | ({"GPU": 1.0} if gpu else {})])


def named_by(sweep: str) -> Callable[[Any], str]:
    """A trial's name holds the sweep's id: Ray Train would resume a run of the same name."""
    return lambda trial: f"{sweep[:8]}-{trial.trial_id}"
