"""The registry: a run's model as something that needs nothing of redress, under a name, with a version and aliases."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType
from torch import Tensor, nn

from orchestration import serving, tracking
from orchestration.errors import RequestError
from orchestration.export import Descriptor, export
from orchestration.forwarder import first_line
from orchestration.model_card import Provenance, write_card

SERVING = Path(serving.__file__)
REQUIREMENTS = ("mlflow", "torch", "torchvision", "numpy")
CANDIDATE = "candidate"
BATCH = 64  # images that the serving file puts through the graph at once
EXAMPLE = 2
FILES = {"graph": "graph.pt2", "settings": "settings.json", "card": "card.md", "serving": SERVING.name}


@dataclass(frozen=True)
class Version:
    """A registered model: `uri` is models:/name/version."""

    name: str
    version: str
    uri: str
    model_id: str
    digests: dict[str, str]


def register(
    method: nn.Module,
    name: str,
    provenance: Provenance,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    flip: bool = True,
    example: Sequence[Tensor] | None = None,
    inputs: tuple[str, ...] = ("images",),
    tracking_uri: str | None = None,
) -> Version:
    """Export `method` (a module with `embed`), log it to its run and register it under `name` as `candidate`.

    size: (H, W) that the network takes. mean, std: of the three channels, on the scale 0…1. flip: as evaluated.
    example: a few inputs for the model's input example, images uint8 [b ≥ 2, 3, H, W] (and parsing uint8 [b, H, W]);
    drawn at random where there are none. inputs: the names of `embed`'s arguments.
    Raises: RequestError where MLflow cannot be reached or the name is not allowed; ExportError.
    """
    client = tracking.connect(tracking_uri)
    example = tuple(example) if example else random_example(size, inputs)
    descriptor = Descriptor(method, mean, std, flip)
    tensors = (example[0].float(), *example[1:])
    graph = export(descriptor, tensors)
    with torch.no_grad():
        features = torch.export.load(io.BytesIO(graph)).module(check_guards=False)(*tensors)
    settings: dict[str, Any] = {
        "height": size[0],
        "width": size[1],
        "inputs": list(inputs),
        "batch": BATCH,
        "graph_sha256": sha256(graph),
    }
    card = write_card(name, provenance, size=size, dimensions=features.shape[1], inputs=inputs)
    model_id = log(client, graph, settings, card, provenance, name, example, features.shape[1])
    digests = {
        "graph": settings["graph_sha256"],
        "serving": sha256(SERVING.read_bytes()),
        "settings": sha256(encode(settings)),
    }
    return create_version(client, name, model_id, provenance, digests, card)


def log(
    client: MlflowClient,
    graph: bytes,
    settings: dict[str, Any],
    card: str,
    provenance: Provenance,
    name: str,
    example: tuple[Tensor, ...],
    dimensions: int,
) -> str:
    """Log the pyfunc model to its run; returns the logged model's id.

    Step by step, since MLflow's own `log_model` reads the history of every metric of the run.
    """
    run = client.get_run(provenance.run_id)
    logged = client.create_logged_model(run.info.experiment_id, name=model_name(name), source_run_id=provenance.run_id)
    inputs = tuple(settings["inputs"])
    contents = {"graph": graph, "settings": encode(settings), "card": card.encode(), "serving": SERVING.read_bytes()}
    with tempfile.TemporaryDirectory() as directory:
        for part, content in contents.items():
            Path(directory, FILES[part]).write_bytes(content)
        folder = Path(directory, "model")
        mlflow.pyfunc.save_model(
            str(folder),
            mlflow_model=Model(run_id=provenance.run_id, model_id=logged.model_id),
            python_model=str(Path(directory, FILES["serving"])),
            artifacts={part: str(Path(directory, FILES[part])) for part in ("graph", "settings", "card")},
            signature=signature(inputs, dimensions),
            input_example={key: list(x.numpy()) for key, x in zip(inputs, example, strict=True)},
            pip_requirements=[f"{library}=={installed(library)}" for library in REQUIREMENTS],
            metadata={"run_id": provenance.run_id, "data_fingerprint": provenance.data_fingerprint},
        )
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(provenance.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return logged.model_id


def create_version(
    client: MlflowClient, name: str, model_id: str, provenance: Provenance, digests: Mapping[str, str], card: str
) -> Version:
    """A version with its evidence in tags, under the alias `candidate`."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise RequestError(f"the registry does not take the name {name!r}: {first_line(error)}") from error
    tags = {f"sha256.{part}": digest for part, digest in digests.items()}
    tags |= {f"metric.{key}": f"{value:.6f}" for key, value in provenance.metrics.items()}
    tags |= {
        "run_id": provenance.run_id,
        "checkpoint": provenance.checkpoint,
        "data.fingerprint": provenance.data_fingerprint,
        "source.digest": provenance.source_digest,
        "select_on_test": str(provenance.select_on_test).lower(),
    }
    created = client.create_model_version(
        name,
        source=f"models:/{model_id}",
        run_id=provenance.run_id,
        tags=tags,
        description=card,
        model_id=model_id,
    )
    client.set_registered_model_alias(name, CANDIDATE, created.version)
    return Version(name, str(created.version), f"models:/{name}/{created.version}", model_id, dict(digests))


def register_checkpoint(
    address: str, name: str, run_id: str, metrics: Mapping[str, float], *, chosen_on_test: bool = False
) -> str:
    """Register the checkpoint at `address` of that run under `name`; returns models:/name/version.

    chosen_on_test: the run was preferred to others by its test results, which tags and model card then say.
    """
    from datasets.shards import Dataset
    from orchestration import assembly, checkpoint
    from orchestration.experiment import Experiment

    found = checkpoint.find(address)
    experiment = Experiment.from_resolved(found.experiment)
    method = assembly.build_method(experiment, found.facts)
    checkpoint.load_method_state(method, found)
    augmentation = assembly.build_augmentation(experiment)
    dataset = Dataset.open(experiment.data)
    tags = tracking.connect().get_run(run_id).data.tags
    provenance = Provenance(
        run_id=run_id,
        checkpoint=tracking.without_secret(address),
        experiment=experiment.name,
        settings=tracking.redact(experiment.resolved()),
        data_name=f"{dataset.manifest.name} {dataset.manifest.version}",
        data_fingerprint=dataset.fingerprint,
        licence=dataset.manifest.licence,
        label_map=found.facts["label_map"],
        source_digest=tags.get("source.digest", ""),
        metrics={key: value for key, value in metrics.items() if value is not None},
        select=experiment.select,
        select_on_test=experiment.select_on_test or chosen_on_test,
    )
    return register(
        method,
        name,
        provenance,
        size=(augmentation.height, augmentation.width),
        mean=augmentation.mean,
        std=augmentation.std,
        flip=experiment.evaluate.flip,
        inputs=method.inputs,
    ).uri


def load(uri: str, *, tracking_uri: str | None = None) -> PyFuncModel:
    """A registered model (models:/name/version or models:/name@alias), after its files were checked against its tags.

    Raises: RequestError where there is none; RefusedModelError where a file is not what was registered or carries code.
    """
    client = tracking.connect(tracking_uri)
    found = find_version(client, uri)
    with tempfile.TemporaryDirectory() as directory:
        path = mlflow.artifacts.download_artifacts(f"models:/{found.name}/{found.version}", dst_path=directory)
        check(Path(path), found.tags)
        return mlflow.pyfunc.load_model(path)


def check(folder: Path, tags: Mapping[str, str]) -> None:
    """Raise RefusedModelError unless the model in `folder` has the digests that its version was registered with."""
    flavor = Model.load(str(folder)).flavors["python_function"]
    parts = {part: folder / flavor["artifacts"][part]["path"] for part in ("graph", "settings")}
    parts["serving"] = folder / Path(flavor["model_code_path"]).name
    for part, path in parts.items():
        expected, digest = tags.get(f"sha256.{part}"), sha256(path.read_bytes())
        if digest != expected:
            raise serving.RefusedModelError(
                f"{part} ({path.name}) has SHA-256 {digest}; the version was registered with {expected}. The files were "
                "changed after registration: do not use this version."
            )
    serving.check_archive(parts["graph"].read_bytes())


def find_version(client: MlflowClient, uri: str) -> mlflow.entities.model_registry.ModelVersion:
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if not at:
        name, _, number = name.rpartition("/")
    try:
        return client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, number)
    except MlflowException as error:
        raise RequestError(
            f"{uri}: {first_line(error)}. Expected models:/NAME/VERSION or models:/NAME@ALIAS of a registered model."
        ) from error


def signature(inputs: tuple[str, ...], dimensions: int) -> ModelSignature:
    """`images` or `bytes`: MLflow's tensor schemas know no alternatives, so shapes are checked by the serving file."""
    columns: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), key, required=False) for key in inputs]
    columns.append(ColSpec(DataType.binary, "bytes", required=False))
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype("float32"), (-1, dimensions))]))


def random_example(size: tuple[int, int], inputs: tuple[str, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (EXAMPLE, 3, *size), dtype=torch.uint8, generator=generator)
    maps = torch.randint(0, 6, (EXAMPLE, *size), dtype=torch.uint8, generator=generator)  # labels of every label map
    return (images, maps) if "parsing" in inputs else (images,)


def model_name(name: str) -> str:
    """A logged model's name may not have these characters, a registered one's may."""
    return "".join("-" if c in "/:.%\"'" else c for c in name)


def installed(library: str) -> str:
    return version(library).partition("+")[0]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encode(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, indent=1, sort_keys=True).encode()
