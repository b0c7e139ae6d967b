"""`select: best:SPLIT/METRIC`: the model of a run is the best of its checkpoints at the ends of epochs.

Workers score each of them when they have written it (`worker`), so that only the best and the newest need to be kept. A
checkpoint that has no score of this kind, such as one of redress 0.1.0, is scored when training has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets.storage.store import Store
from orchestration.config.epochs import end_epoch, scored_epochs
from orchestration.config.load import Experiment
from orchestration.config.meta import build_on_meta
from orchestration.config.settings import completed
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import Checkpoint, Score
from orchestration.errors import RequestError
from orchestration.evaluation.evaluate import check_inputs, evaluate, metric_names, open_for_evaluation
from orchestration.progress import Progress
from orchestration.training.milestones import candidates

WITHOUT_EFFECT = {"batch", "cues"}  # settings of evaluation that do not change a score


def selection(experiment: Experiment) -> tuple[str, str]:
    """Split and metric of `select: best:SPLIT/METRIC`."""
    split, _, metric = experiment.select.removeprefix("best:").partition("/")
    return split, metric


def is_on_test(experiment: Experiment) -> bool:
    return not selection(experiment)[0].startswith("val_")


def measured_by(experiment: Experiment) -> dict[str, Any]:
    """Everything in an experiment that a score depends on beside the weights. Scores that differ in it do not compare."""
    how = experiment.evaluate.model_dump(mode="json", exclude=WITHOUT_EFFECT)
    return {"select": experiment.select, **how}


def check_selection(experiment: Experiment) -> None:
    """Check that the data set has the split and the metric by which `select` chooses the checkpoint. Raises: RequestError."""
    split, metric = selection(experiment)
    dataset, protocol = open_for_evaluation(experiment.data, validation=not is_on_test(experiment))
    check_inputs(experiment, dataset.manifest.label_map, dataset, protocol)
    names = metric_names(dataset, protocol, reranked=experiment.evaluate.rerank is not None)
    if names.get(metric) != split:
        listed = ", ".join(f"best:{query}/{name}" for name, query in names.items())
        raise RequestError(
            f"select = {experiment.select}: protocol {protocol.name!r} has no such metric. There are {listed}."
        )


def candidate_epochs(experiment: Experiment) -> list[int]:
    """The epochs, counted from 1, whose checkpoints are candidates."""
    stages = build_on_meta(experiment).stages()
    end = end_epoch(experiment, stages)
    return candidates(scored_epochs(stages, 0, end), experiment.checkpoint.every_epochs, end)


def is_candidate(found: Checkpoint, epochs: Sequence[int]) -> bool:
    return found.end_of_epoch and found.progress.epoch in epochs


def check_candidates(experiment: Experiment, store: Store) -> None:
    """Check that a run can be resumed with this `select`: every candidate is there, or was dropped because of its score.

    Raises: RequestError.
    """
    newest = checkpoint.latest(store)
    if newest is None or experiment.select == "last":
        return
    by = measured_by(experiment)
    stored = completed(newest.experiment)
    began = measured_by(Experiment.from_resolved(stored))
    if began != by and stored["checkpoint"]["keep"] is not None:
        changed = ", ".join(
            f"{key}: began with {began.get(key)}, now {by[key]}" for key in by if began.get(key) != by[key]
        )
        raise RequestError(
            f"run {store.address} keeps the checkpoints that its own settings choose, and others are gone ({changed}). Resume "
            "it with these settings, or with select=last."
        )
    epochs = candidate_epochs(experiment)
    missing = [
        found
        for found in checkpoint.readable(store)
        if is_candidate(found, epochs)
        and found.folder < newest.folder
        and (found.score is None or found.score.by != by)
    ]
    if missing and experiment.checkpoint.keep is not None:
        raise RequestError(
            f"{len(missing)} checkpoints of run {store.address} have no score by {experiment.select} yet. They are scored when "
            "training has ended. Set checkpoint.keep=null until then."
        )


def choose_checkpoint(experiment: Experiment, store: Store, progress: Progress) -> Checkpoint | None:
    """The newest checkpoint, or with `select: best:…` the best at the end of an epoch; the oldest of equally good ones.

    None where the run has no checkpoint. Raises: CorruptCheckpointError.
    """
    newest = checkpoint.latest(store)
    if newest is None or experiment.select == "last":
        return newest
    by, epochs = measured_by(experiment), candidate_epochs(experiment)
    scored: list[tuple[float, Checkpoint]] = []
    for folder in checkpoint.complete_folders(store):
        candidate = checkpoint.read(store, folder)
        if not is_candidate(candidate, epochs):
            continue
        score = candidate.score
        if score is None or score.by != by:
            score = Score(score_checkpoint(experiment, candidate, store, progress), by)
            checkpoint.record_score(store, candidate.folder, score)
        scored.append((score.value, candidate))
    return max(scored, key=lambda pair: pair[0])[1] if scored else newest


def score_checkpoint(experiment: Experiment, candidate: Checkpoint, store: Store, progress: Progress) -> float:
    """The metric that `select` names, from an evaluation of the checkpoint."""
    without_cues = experiment.evaluate.model_copy(update={"cues": ()})
    with progress.bar(f"selecting: epoch {candidate.progress.epoch}") as bar:
        result = evaluate(
            candidate.address,
            experiment.model_copy(update={"evaluate": without_cues}),
            store.join("selection", f"{candidate.progress.step:08d}"),
            validation=not is_on_test(experiment),
            details=False,
            progress=bar,
            say=progress.say,
        )
    return result.metrics[selection(experiment)[1]]
