"""What a checkpoint says of its training, checked: the experiment, what was known of the data, the method with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from methods.method import Method
from methods.sharded import share
from orchestration.config.build import build_method, is_description
from orchestration.config.load import Experiment, override
from orchestration.engine.checkpoint import DESCRIPTION, Checkpoint, all_facts
from orchestration.engine.restore import load_method_state
from orchestration.errors import RequestError


def experiment_of(found: Checkpoint, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that a checkpoint is of, with `key=value` overrides.

    Raises: RequestError that names the file where its description is damaged; RequestError listing wrong overrides.
    """
    try:
        experiment = Experiment.from_resolved(found.experiment)
    except RequestError as error:
        raise RequestError(f"{description_of(found)}: {error}") from error
    return override(experiment.resolved(), overrides, source="the run") if overrides else experiment


def facts_of(found: Checkpoint) -> dict[str, Any]:
    """What a checkpoint tells of its training data (`build.describe_data`).

    Raises: RequestError that names the file; CorruptCheckpointError where the file of its tables is damaged.
    """
    facts = all_facts(found)
    if not is_description(facts):
        raise RequestError(
            f"{description_of(found)} is damaged: its facts do not describe training data (num_persons, clothes_owner, "
            "label_map). Restore the file, or use another checkpoint."
        )
    return facts


def trained_model(found: Checkpoint) -> tuple[Experiment, Method]:
    """The experiment and the method of a checkpoint, with its weights; without classifiers whose classes are divided.

    Raises: RequestError that names the file where the description is damaged, or tensors that do not fit the method;
    CorruptCheckpointError.
    """
    experiment = experiment_of(found)
    method = build_method(experiment, facts_of(found), share.NONE)
    load_method_state(method, found)
    return experiment, method


def description_of(found: Checkpoint) -> str:
    return found.store.join(*filter(None, (found.folder, DESCRIPTION)))
