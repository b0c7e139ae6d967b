"""`redress tune`: many trainings of one experiment, over a space of its settings, scored on the validation set.

Ray Tune runs the trials. `trial_queue`, `early_stopping` and `state` decide which trial is next, which stops and what the
scores are. A sweep reads its past from MLflow: it resumes after any process died, without `Tuner.restore`, which unpickles
from storage.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from datasets.shards.exclusive import exclusive
from orchestration import cluster, lost_cluster
from orchestration.addresses import split_stage
from orchestration.config.build import without_tables
from orchestration.config.load import Experiment
from orchestration.engine import checkpoint, weights
from orchestration.errors import RequestError, first_line, without_secret
from orchestration.evaluation.evaluate import evaluate, open_for_evaluation
from orchestration.progress import Progress
from orchestration.registry.register import register_checkpoint
from orchestration.signals import Interruption, number_of
from orchestration.sweeps.report import build_report, encode
from orchestration.sweeps.search_algorithms import SEARCH_ALGORITHMS
from orchestration.sweeps.settings import Plan, SweepSettings, plan
from orchestration.sweeps.shared_stage import shared_stage
from orchestration.sweeps.space import Values, shown
from orchestration.sweeps.state import Configuration, SweepState, Trial
from orchestration.tracking import mlflow_client, tracked_run
from orchestration.tracking.mlflow_retry import retry_while_unavailable
from orchestration.training import preparation
from orchestration.tuning import sweep_runs
from orchestration.tuning.kept_weights import KeptWeights
from orchestration.tuning.shared_stage import train_shared_stage
from orchestration.tuning.trial_queue import TrialQueue

# Ray Tune reads these when it is imported, or when a sweep starts.
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs are kept in MLflow
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # of a state that nobody reads
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class SweepFailedError(RuntimeError):
    """No configuration of the sweep was trained to its last epoch."""


def tune(
    experiment: Experiment,
    settings: SweepSettings,
    *,
    resume: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train every configuration, keep the sweep in MLflow, register the best. Returns sweep, best, points, model, pictures ….

    resume: the id of a sweep; its finished trials are not repeated.
    Raises: RequestError before any trial starts; KeyboardInterrupt if the sweep was interrupted; SweepFailedError.
    """
    progress = progress or Progress()
    with exclusive(tracked_run.open_run(resume).storage) if resume else nullcontext():
        return tune_alone(experiment, settings, resume, progress)


def tune_alone(
    experiment: Experiment, settings: SweepSettings, resume: str | None, progress: Progress
) -> dict[str, Any]:
    """As `tune`, while no other process of this machine runs the sweep that is to be resumed."""
    planned = plan(experiment, settings)
    prepared = preparation.prepare(experiment)
    backbone = preparation.fetch_backbone(prepared)
    check_on_data(planned, prepared)
    if experiment.init_from:
        address, reset = preparation.check_initial_weights(prepared, experiment.init_from)
        progress.say(f"initial weights: {address}; not loaded: {', '.join(reset) or 'none'}")
        if (
            split_stage(experiment.init_from)[1] is None
        ):  # an alias or a run may move on meanwhile; a stage's end does not
            experiment = experiment.model_copy(update={"init_from": address})
            planned = replace(planned, experiment=experiment)
    cluster.connect(progress.say)
    cluster.check_resources(experiment.group_sizes()[0], experiment.resources, progress.say)
    if resume:
        run = tracked_run.resume_run(resume, prepared.dataset.fingerprint)
    else:
        run = sweep_runs.start_sweep(experiment, prepared.dataset.fingerprint, asdict(planned.settings))
    with exclusive(run.storage):
        return carry_out(planned, prepared, run, backbone, progress)


def carry_out(
    planned: Plan,
    prepared: preparation.Prepared,
    run: tracked_run.TrackedRun,
    backbone: bytes | None,
    progress: Progress,
) -> dict[str, Any]:
    """Run a sweep that MLflow has, and end it there, however this ends. backbone: the weights that its trials begin with."""
    sweep = None
    try:
        sweep = Sweep(planned, prepared, run, progress)
        if backbone is not None:
            sweep.weights = KeptWeights.of(planned.experiment, weights.keep(run.store, backbone))
        if stage := shared_stage(planned.experiment, planned.space):
            sweep.behind = train_shared_stage(planned, prepared, run.run_id, stage, progress)
        with run.forward():
            sweep.run_trials()
        answer = sweep.finish()
    except KeyboardInterrupt as error:
        give_up(sweep, run, "FAILED" if lost_cluster.is_lost() else "KILLED")
        raise lost_cluster.error_of(Interruption(number_of(error), how_to_resume(run)), how_to_resume(run)) from None
    except BaseException:
        give_up(sweep, run, "FAILED")
        raise
    run.finish("FINISHED")
    return answer


def how_to_resume(run: tracked_run.TrackedRun) -> str:
    return f"the sweep was interrupted; its results are kept. Resume it with: redress tune --resume {run.run_id}"


def give_up(sweep: Sweep | None, run: tracked_run.TrackedRun, status: str) -> None:
    """Close open runs, the sweep's last. A failure of MLflow is reported and hides no other error."""
    if sweep is not None:
        sweep.close_trials_if_possible(status)
    run.finish(status)


def stored_sweep(sweep: str) -> tuple[Experiment, SweepSettings]:
    """The experiment and the settings that a sweep started with. Raises: RequestError."""
    experiment, settings = sweep_runs.read_settings(sweep)
    return Experiment.from_resolved(experiment), SweepSettings.from_plain(settings)


class Sweep:
    """A sweep as one process runs it."""

    def __init__(
        self, planned: Plan, prepared: preparation.Prepared, run: tracked_run.TrackedRun, progress: Progress
    ) -> None:
        self.plan, self.prepared, self.run, self.progress = planned, prepared, run, progress
        self.behind: dict[int, str] = {}  # seed → the end of the stage that its trials share
        self.weights: KeptWeights | None = None
        self.sweep_state = SweepState(planned.seeds)
        self.client = mlflow_client.connect(create=False)
        sweep_runs.read_back(self.client, run.run_id, planned.settings.objective, self.sweep_state)
        search = planned.settings.search
        assert search is not None
        search_algorithm = SEARCH_ALGORITHMS[search](
            planned.space, planned.points, planned.experiment.seed, self.sweep_state.configurations
        )
        self.queue = TrialQueue(self.sweep_state, search_algorithm, early_stopping=planned.rule is not None)
        if done := sum(len(configuration.results) for configuration in self.sweep_state):
            progress.say(f"resuming sweep {run.run_id}: {done} trials are done")

    def run_trials(self) -> None:
        """Run trials until none is left. Raises: KeyboardInterrupt if the sweep was interrupted."""
        from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner, with_resources

        from orchestration.tuning.ray_tune import ProgressCallback, Scheduler, Search, named_by, placement
        from orchestration.tuning.trial import Job, trainable

        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        experiment, settings = self.plan.experiment, self.plan.settings
        gpu = cluster.use_gpu(experiment.group_sizes()[0], experiment.resources)
        concurrent = num_concurrent(experiment, settings.concurrent, gpu)
        assert settings.every is not None
        process = f"{self.run.run_id}-{time.time_ns():x}"
        job = Job(
            sweep=self.run.run_id,
            process=process,
            tracking_uri=without_secret(self.run.tracking_uri),
            has_password=without_secret(self.run.tracking_uri) != self.run.tracking_uri,
            fingerprint=self.prepared.dataset.fingerprint,
            facts=without_tables(self.prepared.facts),
            objective=settings.objective,
            validate_every=settings.every,
            waits=self.plan.rule is not None,
            retries=settings.retries,
            gpu=gpu,
            weights=self.weights,
        )
        title = f"sweeping {experiment.name}"
        self.progress.say(f"{title}: {self.plan.num_trials} trials, {concurrent} at once; sweep {self.run.run_id}")
        with self.progress.bar(title) as bar:
            callback = ProgressCallback(lambda running: self.show_progress(bar, running))
            tuner = Tuner(
                with_resources(trainable(job), placement(experiment, gpu)),
                tune_config=TuneConfig(
                    search_alg=Search(self.queue, self.trial_experiment, callback),
                    scheduler=Scheduler(self.plan.rule, self.sweep_state.curves()),
                    num_samples=-1,
                    max_concurrent_trials=concurrent,
                    reuse_actors=experiment.group_sizes() == (1,),
                    trial_name_creator=named_by(self.run.run_id),
                    trial_dirname_creator=named_by(self.run.run_id),
                ),
                run_config=RunConfig(
                    name=process,
                    storage_path=self.run.store.join("ray"),
                    failure_config=FailureConfig(max_failures=settings.retries),
                    checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # training keeps its own
                    callbacks=[callback],
                    verbose=0,
                ),
            )
            logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
            tuner.fit()
        if not self.queue.finished:
            raise KeyboardInterrupt(how_to_resume(self.run))
        self.close_trials("FAILED")

    def trial_experiment(self, values: Values, seed: int) -> Experiment:
        """A trial's experiment, behind the stage that all share. Raises: RequestError."""
        experiment = self.plan.trial_experiment(values, seed)
        return experiment.model_copy(update={"init_from": self.behind[seed]}) if self.behind else experiment

    def show_progress(self, bar: Any, running: Mapping[str, tuple[Trial, int]]) -> None:
        """Progress in trials: those that ended, the seeds that a stopped first seed spares, and fractions of running ones."""
        seeds = len(self.plan.seeds)
        done = 0.0
        for configuration in self.sweep_state:
            done += seeds if configuration.stopped else len(configuration.results)
        done += sum(epoch / self.plan.experiment.epochs for _, epoch in running.values())
        notes = [f"{shown(trial.values)} seed {trial.seed}" for trial, _ in list(running.values())[:2]]
        if len(running) > len(notes):
            notes.append(f"{len(running) - len(notes)} more")
        best = self.sweep_state.best()
        lines = [f"running {' | '.join(notes)}"] if notes else []
        if best:
            lines.append(f"best {best.score} % at {shown(best.values)}")
        bar(done, max(self.plan.num_trials, done), note="; ".join(lines))

    def close_trials(self, status: str) -> None:
        """Close the runs of trials whose processes have ended."""
        retry_while_unavailable(
            lambda: sweep_runs.close_open_runs(self.client, self.run.run_id, status), "closing the sweep's trials"
        )

    def close_trials_if_possible(self, status: str) -> None:
        """As `close_trials`. A failure of MLflow is reported and hides no other error."""
        try:
            self.close_trials(status)
        except Exception as error:
            self.progress.say(f"MLflow may show trials of sweep {self.run.run_id} as running: {first_line(error)}")

    def finish(self) -> dict[str, Any]:
        """Log figures and tables to the parent run; register the best model."""
        settings = self.plan.settings
        best = self.sweep_state.best()
        report = build_report(self.plan.space, self.sweep_state, settings.objective)
        for name, data in report.pictures.items():
            self.run.log_picture(data, name)
        for name, data in report.pages.items():
            self.run.log_file(data, name)
        self.run.log_table(report.table, "points")
        answer: dict[str, Any] = {
            "sweep": self.run.run_id,
            "run": self.run.storage,
            "objective": settings.objective,
            "points": self.sweep_state.as_rows([settings.objective]),
            "best": None,
            "model": None,
            "pictures": sorted(report.pictures),
            "pages": sorted(report.pages),
        }
        if best is None or best.score is None:
            raise SweepFailedError(f"no configuration was trained to its last epoch.{first_failure(self.sweep_state)}")
        run_id = best.of("finished")[best.best_seed()].run_id
        answer["best"] = {
            "point": best.id, "values": best.values, "score": best.score.mean, "spread": best.score.spread,
            "seed": best.best_seed(), "run_id": run_id,
        }  # fmt: skip
        self.run.log_evaluation(
            {f"best/{settings.objective}": best.score.mean}, step=len(self.sweep_state.configurations)
        )
        self.run.set_tags({"sweep.best": best.id, "sweep.best-run": run_id, "sweep.best-values": shown(best.values)})
        if settings.register:
            answer["model"] = self.register(best, settings.register)
            self.run.set_tags({"sweep.model": answer["model"]})
        self.run.store.write("result.json", encode(answer))
        self.run.log_file(encode(answer), "result.json")
        return answer

    def register(self, best: Configuration, name: str) -> str:
        """Evaluate the best run of the best configuration and register it as candidate; its version links the sweep."""
        run_id = best.of("finished")[best.best_seed()].run_id
        assert run_id is not None
        child = tracked_run.open_run(run_id)
        chosen = checkpoint.find(child.storage)  # a sweep has select: last
        experiment = Experiment.from_resolved(chosen.experiment)
        with self.progress.bar(f"evaluating the best: {shown(best.values)}") as bar:
            folder = child.store.join("evaluation")
            result = evaluate(chosen.address, experiment, folder, progress=bar, say=self.progress.say)
        child.log_evaluation(result.metrics, step=chosen.progress.step)
        for picture, data in result.pictures.items():
            child.log_picture(data, picture)
        child.deliver()
        self.progress.say(f"registering {name}")
        attempt = uuid.uuid5(
            uuid.NAMESPACE_OID, f"{self.run.run_id} {chosen.address} {name}"
        ).hex  # once, however often resumed
        model = register_checkpoint(chosen.address, name, run_id, result.metrics, attempt=attempt)
        _, _, version = model.removeprefix("models:/").rpartition("/")
        score = best.score
        tags = {
            "sweep": self.run.run_id, "sweep.point": best.id, "sweep.values": shown(best.values),
            "sweep.objective": self.plan.settings.objective, "sweep.score": f"{score} %",
        }  # fmt: skip
        for key, value in tags.items():
            self.client.set_model_version_tag(name, version, key, value)
        return model


def check_on_data(planned: Plan, prepared: preparation.Prepared) -> None:
    """Check each value on the data, as the experiment is checked. Raises: RequestError."""
    _, protocol = open_for_evaluation(planned.experiment.data)
    for key, axis in planned.space.items():
        for value in axis.ends():
            try:
                experiment = planned.trial_experiment({key: value}, planned.experiment.seed)
            except RequestError:  # fits beside values of other keys
                continue
            try:
                preparation.check_on_data(experiment, prepared.dataset, protocol)
            except RequestError as error:
                raise RequestError(f"--over {key}: with {value}, {error}") from error


def first_failure(sweep_state: SweepState) -> str:
    reasons = [o.reason for configuration in sweep_state for o in configuration.of("failed").values() if o.reason]
    return f" The first failure: {reasons[0]}" if reasons else ""


def num_concurrent(experiment: Experiment, wanted: int | None, gpu: bool) -> int:
    """The number of trials that the connected cluster can train at once: at most `wanted`, at least one."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": experiment.resources.cpus} | ({"GPU": 1.0} if gpu else {})
    fits = cluster.trials_that_fit(nodes, needs, experiment.group_sizes()[0])
    return max(1, fits if wanted is None else min(wanted, fits))
