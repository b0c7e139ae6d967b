"""Upload a model's files to MLflow and create a version of them. Repeating it creates nothing twice."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType
from torch import Tensor

from datasets.images import decode
from orchestration.errors import RequestError, first_line
from orchestration.export import serving
from orchestration.export.model_card import Provenance, as_description
from orchestration.registry.versions import CANDIDATE, WEIGHTS
from orchestration.tracking.mlflow_filters import quoted
from orchestration.tracking.mlflow_retry import is_unavailable

SERVING, DECODE = Path(serving.__file__), Path(decode.__file__)
REQUIREMENTS = ("mlflow", "torch", "torchvision", "pillow", "numpy")
FILES = {
    "graph": "graph.pt2",
    "onnx": "model.onnx",
    "settings": "settings.json",
    "card": "card.md",
    "serving": SERVING.name,
    "decode": DECODE.name,
}
ATTEMPT = "registration"  # tag by which a repeated registration finds what it created before
DONE = "registration.done"  # tag: the version was made candidate once; later changes are the reviewers'


@dataclass(frozen=True)
class Version:
    """A registered model: `uri` is models:/name/version."""

    name: str
    version: str
    uri: str
    model_id: str
    digests: dict[str, str]


@dataclass(frozen=True)
class Packed:
    """The content of a new version of `name`: files by the keys of FILES, and their description.

    example: inputs of the graph in the order of `inputs`. dimensions: of a descriptor. attempt: a unique id of this
    registration, also among registrations of the same model.
    """

    name: str
    provenance: Provenance
    files: Mapping[str, bytes]
    example: tuple[Tensor, ...]
    inputs: tuple[str, ...]
    dimensions: int
    attempt: str

    @property
    def digests(self) -> dict[str, str]:
        return {part: sha256(content) for part, content in self.files.items() if part != "card"}


def publish(client: MlflowClient, packed: Packed) -> Version:
    """Create a version under the alias `candidate`, with its provenance in tags. What an earlier call with the same `packed`
    created is reused. Raises: RequestError where the name is not allowed; MLflow's errors where it is unavailable.
    """
    model_id = log(client, packed)
    created = find_attempt(client, packed.attempt) or create_version(client, packed, model_id)
    if DONE not in created.tags:
        if "decision" not in created.tags and is_newest(client, created):
            client.set_registered_model_alias(packed.name, CANDIDATE, created.version)
        client.set_model_version_tag(packed.name, created.version, DONE, "true")
    uri = f"models:/{packed.name}/{created.version}"
    return Version(packed.name, str(created.version), uri, model_id, packed.digests)


def log(client: MlflowClient, packed: Packed) -> str:
    """Log the pyfunc model to its run; returns the logged model's id.

    In single steps, since MLflow's `log_model` would read the history of every metric of the run.
    """
    run = client.get_run(packed.provenance.run_id)
    logged = find_logged(client, run.info.experiment_id, packed.attempt) or client.create_logged_model(
        run.info.experiment_id,
        name=model_name(packed.name),
        source_run_id=run.info.run_id,
        tags={ATTEMPT: packed.attempt},
    )
    if logged.status != LoggedModelStatus.READY:
        with tempfile.TemporaryDirectory() as directory:
            client.log_model_artifacts(logged.model_id, str(save(packed, logged.model_id, Path(directory))))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    outputs = run.outputs.model_outputs if run.outputs else ()
    if logged.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def find_logged(client: MlflowClient, experiment: str, attempt: str) -> LoggedModel | None:
    found = client.search_logged_models([experiment], filter_string=f"tags.{ATTEMPT} = '{attempt}'")
    return found[0] if found else None


def save(packed: Packed, model_id: str, directory: Path) -> Path:
    """Write the model as a folder in MLflow's format, below `directory`; returns its path."""
    for part, content in packed.files.items():
        (directory / FILES[part]).write_bytes(content)
    run_id, fingerprint = packed.provenance.run_id, packed.provenance.data_fingerprint
    mlflow.pyfunc.save_model(
        str(directory / "model"),
        mlflow_model=Model(run_id=run_id, model_id=model_id),
        python_model=str(directory / FILES["serving"]),
        artifacts={part: str(directory / FILES[part]) for part in packed.files if part != "serving"},
        signature=signature(packed.inputs, packed.dimensions),
        input_example={key: list(x.numpy()) for key, x in zip(packed.inputs, packed.example, strict=True)},
        pip_requirements=[f"{library}=={installed(library)}" for library in REQUIREMENTS],
        metadata={"run_id": run_id, "data_fingerprint": fingerprint},
    )
    return directory / "model"


def find_attempt(client: MlflowClient, attempt: str) -> ModelVersion | None:
    found = client.search_model_versions(f"tags.{ATTEMPT} = '{attempt}'")
    return found[0] if found else None


def find_registered(client: MlflowClient, name: str, run_id: str, checkpoint: str, weights: str) -> str | None:
    """models:/name/version of the newest complete version of this run's checkpoint with this digest; None without one."""
    versions = client.search_model_versions(f"name = {quoted(name)} and run_id = '{run_id}'")
    wanted = {"checkpoint": checkpoint, WEIGHTS: weights, DONE: "true"}
    same = [int(v.version) for v in versions if wanted.items() <= v.tags.items()]
    return f"models:/{name}/{max(same)}" if same else None


def is_newest(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether no later version has its name: a later one became the candidate already."""
    [newest] = client.search_model_versions(
        f"name = {quoted(version.name)}", max_results=1, order_by=["version_number DESC"]
    )
    return int(newest.version) == int(version.version)


def create_version(client: MlflowClient, packed: Packed, model_id: str) -> ModelVersion:
    name, provenance = packed.name, packed.provenance
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if is_unavailable(error):
            raise
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise RequestError(f"MLflow does not accept the model name {name!r}: {first_line(error)}") from error
    tags = {f"sha256.{part}": digest for part, digest in packed.digests.items()}
    tags |= {f"metric.{key}": f"{value:.6f}" for key, value in provenance.metrics.items()}
    tags |= {
        "run_id": provenance.run_id,
        "checkpoint": provenance.checkpoint,
        WEIGHTS: provenance.weights,
        "data.fingerprint": provenance.data_fingerprint,
        "source.digest": provenance.source_digest,
        "select_on_test": str(provenance.select_on_test).lower(),
        ATTEMPT: packed.attempt,
    }
    return client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=provenance.run_id,
        tags=tags,
        description=as_description(packed.files["card"].decode()),
        model_id=model_id,
    )


def signature(inputs: tuple[str, ...], dimensions: int) -> ModelSignature:
    """`images` or `bytes`: MLflow's tensor schemas know no alternatives, so shapes are checked by the serving file."""
    columns: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), key, required=False) for key in inputs]
    columns.append(ColSpec(DataType.binary, "bytes", required=False))
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype("float32"), (-1, dimensions))]))


def model_name(name: str) -> str:
    """A valid name of a logged model, which may not have some characters of a registered model's name."""
    return "".join("-" if c in "/:.%\"'" else c for c in name)


def installed(library: str) -> str:
    return version(library).partition("+")[0]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
