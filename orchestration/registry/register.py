"""Registering a run's model: exported so that it needs nothing of redress, checked, and loaded again."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel
from torch import Tensor, nn

from orchestration.errors import without_secret
from orchestration.export import serving
from orchestration.export.model_card import Provenance, write_card
from orchestration.export.torch_graph import Descriptor, output_dimensions, to_archive, trace
from orchestration.progress import doing
from orchestration.registry.publish import DECODE, FILES, SERVING, Packed, Version, find_registered, publish, sha256
from orchestration.registry.versions import find_version
from orchestration.tracking import mlflow_client
from orchestration.tracking.mlflow_retry import retry_while_unavailable
from orchestration.tracking.run_description import redact

__all__ = [
    "DECODE",
    "SERVING",
    "InputSettings",
    "Version",
    "check",
    "load",
    "register",
    "register_checkpoint",
]

BATCH = 64  # images per call of the graph in the serving file
EXAMPLE = 2
EXAMPLE_FRAMES = 3
# The keys that MLflow writes for a model of one code file and artifacts, with nothing pickled.
FLAVOR_KEYS = {
    "artifacts", "cloudpickle_version", "code", "env", "loader_module", "model_code_path", "python_version", "streamable",
}  # fmt: skip


@dataclass(frozen=True)
class InputSettings:
    """What a network takes as input, and how it was evaluated.

    size: (height, width) in pixels. mean, std: of the three channels, RGB, on the scale 0…1. flip: a descriptor adds the
    embedding of the mirror image, never for clips. inputs: the names of `embed`'s arguments. clips: images are clips of
    video, [B, T, 3, H, W].
    """

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    flip: bool = True
    inputs: tuple[str, ...] = ("images",)
    clips: bool = False


def register(
    method: nn.Module,
    name: str,
    provenance: Provenance,
    takes: InputSettings,
    *,
    example: Sequence[Tensor] | None = None,
    attempt: str | None = None,
    tracking_uri: str | None = None,
) -> Version:
    """Export `method` (a module with `embed`), log it to its run and register it under `name` as `candidate`.

    While MLflow is unavailable this retries. Nothing is created twice.

    example: a few inputs for the model's input example, images uint8 [b ≥ 2, 3, H, W] (and parsing uint8 [b, H, W]);
    random by default. attempt: identifies this registration; an interrupted one of the same attempt is resumed.
    Raises: RequestError where MLflow cannot be reached or the name is not allowed; ExportError; ServiceUnavailableError.
    """
    from orchestration.export.onnx_graph import to_onnx  # with the ONNX runtime, which only registering needs

    client = retry_while_unavailable(lambda: mlflow_client.connect(tracking_uri, create=False), f"registering {name}")
    example = tuple(example) if example else random_example(takes)
    descriptor = Descriptor(method, takes.mean, takes.std, takes.flip and not takes.clips)
    tensors = (example[0].float(), *example[1:])
    program = trace(descriptor, tensors)
    onnx = to_onnx(program, descriptor, tensors, takes.inputs)
    graph = to_archive(program, descriptor, tensors)
    dimensions = output_dimensions(program)
    settings: dict[str, Any] = {
        "height": takes.size[0],
        "width": takes.size[1],
        "inputs": list(takes.inputs),
        "clips": takes.clips,
        "batch": BATCH,
        "graph_sha256": sha256(graph),
        "decode_sha256": sha256(DECODE.read_bytes()),
    }
    card = write_card(name, provenance, size=takes.size, dimensions=dimensions, inputs=takes.inputs, clips=takes.clips)
    files = {
        "graph": graph,
        "onnx": onnx,
        "settings": encode(settings),
        "card": card.encode(),
        "serving": SERVING.read_bytes(),
        "decode": DECODE.read_bytes(),
    }
    packed = Packed(name, provenance, files, example, takes.inputs, dimensions, attempt or uuid.uuid4().hex)
    return retry_while_unavailable(lambda: publish(client, packed), f"registering {name}")


def register_checkpoint(
    address: str,
    name: str,
    run_id: str,
    metrics: Mapping[str, float],
    *,
    chosen_on_test: bool = False,
    attempt: str | None = None,
) -> str:
    """Register the checkpoint at `address` of that run under `name`; returns models:/name/version.

    chosen_on_test: the run was selected among others by its test results; tags and model card then say so.
    attempt, Raises: as in `register`. With an attempt, a version that has this run, checkpoint and digest is returned: the
    run may have been registered before.
    """
    from datasets.protocols.prospects import seen_in_training
    from datasets.protocols.protocols import PROTOCOLS
    from datasets.shards.dataset import Dataset
    from orchestration.config import build
    from orchestration.config.stored import trained_model
    from orchestration.engine import checkpoint

    found = checkpoint.find(address)
    digest = found.digests[checkpoint.FILES[0]]
    if attempt and (known := registered_before(name, run_id, without_secret(address), digest)):
        return known
    experiment, method = trained_model(found)
    augmentation = build.build_augmentation(experiment)
    dataset = Dataset.open(experiment.data)
    tags = retry_while_unavailable(
        lambda: mlflow_client.connect(create=False).get_run(run_id).data.tags, f"registering {name}"
    )
    provenance = Provenance(
        run_id=run_id,
        checkpoint=without_secret(address),
        weights=digest,
        experiment=experiment.name,
        settings=redact(experiment.resolved()),
        data_name=f"{dataset.manifest.name} {dataset.manifest.version}",
        data_fingerprint=dataset.fingerprint,
        licence=dataset.manifest.licence,
        label_map=found.facts["label_map"],
        seen_in_training=seen_in_training(PROTOCOLS[dataset.manifest.protocol], dataset),
        source_digest=tags.get("source.digest", ""),
        metrics={key: value for key, value in metrics.items() if value is not None},
        select=experiment.select,
        select_on_test=experiment.select_on_test or chosen_on_test,
    )
    return register(
        method,
        name,
        provenance,
        InputSettings(
            size=(augmentation.height, augmentation.width),
            mean=augmentation.mean,
            std=augmentation.std,
            flip=experiment.evaluate.flip,
            inputs=method.inputs,
            clips=PROTOCOLS[dataset.manifest.protocol].sample == "tracklet",
        ),
        attempt=attempt,
    ).uri


def registered_before(name: str, run_id: str, address: str, digest: str) -> str | None:
    return retry_while_unavailable(
        lambda: find_registered(mlflow_client.connect(create=False), name, run_id, address, digest),
        f"registering {name}",
    )


def load(uri: str, *, tracking_uri: str | None = None) -> PyFuncModel:
    """A registered model (models:/name/version or models:/name@alias), loaded after its files match its tags.

    Raises: RequestError where there is no such version; RefusedModelError where a file was changed or carries code.
    """
    client = mlflow_client.connect(tracking_uri, create=False)
    found = find_version(client, uri)
    with doing(f"downloading and loading {uri}"), tempfile.TemporaryDirectory() as directory:
        path = mlflow.artifacts.download_artifacts(f"models:/{found.name}/{found.version}", dst_path=directory)
        check(Path(path), found.tags)
        return mlflow.pyfunc.load_model(path)


def check(folder: Path, tags: Mapping[str, str]) -> None:
    """Check the files of the model in `folder` against the digests in its version's tags. Raises: RefusedModelError."""
    flavors = Model.load(str(folder)).flavors
    flavor = flavors.get("python_function", {})
    wanted = {"loader_module": "mlflow.pyfunc.loaders.code_model", "model_code_path": SERVING.name, "code": None}
    found = {key: flavor.get(key) for key in wanted} | {"model_code_path": Path(flavor.get("model_code_path", "")).name}
    if set(flavors) != {"python_function"} or found != wanted or not set(flavor) <= FLAVOR_KEYS:
        raise serving.RefusedModelError(
            f"MLmodel loads more than {SERVING.name} and its files: it was changed after registration. Do not use this "
            "version."
        )
    optional = ("graph", "onnx", "settings", "decode")  # versions registered earlier have fewer
    known = [part for part in optional if part in flavor["artifacts"] or f"sha256.{part}" in tags]
    parts = {part: folder / flavor["artifacts"].get(part, {"path": FILES[part]})["path"] for part in known}
    parts["serving"] = folder / SERVING.name
    for part, path in parts.items():
        expected = tags.get(f"sha256.{part}")
        digest = sha256(path.read_bytes()) if path.is_file() else "none: the file is missing"
        if digest != expected:
            raise serving.RefusedModelError(
                f"{part} ({path.name}) has SHA-256 {digest}; the version was registered with {expected}. The file was "
                "changed after registration. Do not use this version."
            )
    serving.check_archive(parts["graph"].read_bytes())


def random_example(takes: InputSettings) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (EXAMPLE, EXAMPLE_FRAMES, 3, *takes.size) if takes.clips else (EXAMPLE, 3, *takes.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    maps = torch.randint(
        0, 6, (EXAMPLE, *takes.size), dtype=torch.uint8, generator=generator
    )  # labels of every label map
    return (images, maps) if "parsing" in takes.inputs else (images,)


def encode(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, indent=1, sort_keys=True).encode()
