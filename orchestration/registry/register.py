"""The registry: a run's model as something that needs nothing of redress, under a name, with a version and aliases."""

from __future__ import annotations

import io
import json
import tempfile
import uuid
from collections.abc import Mapping, Sequence
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
from orchestration.export.torch_graph import Descriptor, to_archive, trace
from orchestration.registry.publish import FILES, SERVING, Packed, Version, publish, sha256
from orchestration.registry.versions import find_version
from orchestration.tracking import mlflow_client
from orchestration.tracking.mlflow_retry import retry_while_unavailable
from orchestration.tracking.run_description import redact

__all__ = [
    "SERVING",
    "Version",
    "check",
    "load",
    "register",
    "register_checkpoint",
]

BATCH = 64  # images that the serving file puts through the graph at once
EXAMPLE = 2
EXAMPLE_FRAMES = 3
# What MLflow writes of a model that is one file of code, its artifacts and nothing pickled.
DESCRIBED = {
    "artifacts", "cloudpickle_version", "code", "env", "loader_module", "model_code_path", "python_version", "streamable",
}  # fmt: skip


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
    clips: bool = False,
    attempt: str | None = None,
    tracking_uri: str | None = None,
) -> Version:
    """Export `method` (a module with `embed`), log it to its run and register it under `name` as `candidate`.

    Where MLflow goes away meanwhile this waits and goes on; whatever was there already is not made twice.

    size: (H, W) that the network takes. mean, std: of the three channels, on the scale 0…1. flip: as evaluated.
    example: a few inputs for the model's input example, images uint8 [b ≥ 2, 3, H, W] (and parsing uint8 [b, H, W]);
    drawn at random where there are none. inputs: the names of `embed`'s arguments. clips: images are clips of video.
    attempt: names this registration; one of the same name that did not come to its end is taken up.
    Raises: RequestError where MLflow cannot be reached or the name is not allowed; ExportError; ServiceUnavailableError.
    """
    from orchestration.export.onnx_graph import to_onnx  # with the ONNX runtime, which only registering needs

    client = retry_while_unavailable(lambda: mlflow_client.connect(tracking_uri), f"registering {name}")
    example = tuple(example) if example else random_example(size, inputs, clips)
    descriptor = Descriptor(method, mean, std, flip and not clips)
    tensors = (example[0].float(), *example[1:])
    program = trace(descriptor, tensors)
    onnx = to_onnx(program, descriptor, tensors, inputs)
    graph = to_archive(program, descriptor, tensors)
    with torch.no_grad():
        features = torch.export.load(io.BytesIO(graph)).module(check_guards=False)(*tensors)
    settings: dict[str, Any] = {
        "height": size[0],
        "width": size[1],
        "inputs": list(inputs),
        "clips": clips,
        "batch": BATCH,
        "graph_sha256": sha256(graph),
    }
    card = write_card(name, provenance, size=size, dimensions=features.shape[1], inputs=inputs, clips=clips)
    files = {
        "graph": graph,
        "onnx": onnx,
        "settings": encode(settings),
        "card": card.encode(),
        "serving": SERVING.read_bytes(),
    }
    packed = Packed(name, provenance, files, example, inputs, features.shape[1], attempt or uuid.uuid4().hex)
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

    chosen_on_test: the run was preferred to others by its test results, which tags and model card then say.
    attempt: of a registration that may have been begun before.
    """
    from datasets.protocols.protocols import PROTOCOLS
    from datasets.shards.dataset import Dataset
    from orchestration.config import build
    from orchestration.config.load import Experiment
    from orchestration.engine import checkpoint

    found = checkpoint.find(address)
    experiment = Experiment.from_resolved(found.experiment)
    method = build.build_method(experiment, found.facts)
    checkpoint.load_method_state(method, found)
    augmentation = build.build_augmentation(experiment)
    dataset = Dataset.open(experiment.data)
    tags = retry_while_unavailable(lambda: mlflow_client.connect().get_run(run_id).data.tags, f"registering {name}")
    provenance = Provenance(
        run_id=run_id,
        checkpoint=without_secret(address),
        weights=found.digests[checkpoint.FILES[0]],
        experiment=experiment.name,
        settings=redact(experiment.resolved()),
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
        clips=PROTOCOLS[dataset.manifest.protocol].sample == "tracklet",
        attempt=attempt,
    ).uri


def load(uri: str, *, tracking_uri: str | None = None) -> PyFuncModel:
    """A registered model (models:/name/version or models:/name@alias), after its files were checked against its tags.

    Raises: RequestError where there is none; RefusedModelError where a file is not what was registered or carries code.
    """
    client = mlflow_client.connect(tracking_uri)
    found = find_version(client, uri)
    with tempfile.TemporaryDirectory() as directory:
        path = mlflow.artifacts.download_artifacts(f"models:/{found.name}/{found.version}", dst_path=directory)
        check(Path(path), found.tags)
        return mlflow.pyfunc.load_model(path)


def check(folder: Path, tags: Mapping[str, str]) -> None:
    """Raise RefusedModelError unless the model in `folder` has the digests that its version was registered with."""
    flavors = Model.load(str(folder)).flavors
    flavor = flavors.get("python_function", {})
    wanted = {"loader_module": "mlflow.pyfunc.loaders.code_model", "model_code_path": SERVING.name, "code": None}
    found = {key: flavor.get(key) for key in wanted} | {"model_code_path": Path(flavor.get("model_code_path", "")).name}
    if set(flavors) != {"python_function"} or found != wanted or not set(flavor) <= DESCRIBED:
        raise serving.RefusedModelError(
            f"MLmodel asks for more than {SERVING.name} and its files to be loaded. It was changed after registration: do not "
            "use this version."
        )
    known = [part for part in ("graph", "onnx", "settings") if part in flavor["artifacts"] or f"sha256.{part}" in tags]
    parts = {part: folder / flavor["artifacts"].get(part, {"path": FILES[part]})["path"] for part in known}
    parts["serving"] = folder / SERVING.name
    for part, path in parts.items():
        expected = tags.get(f"sha256.{part}")
        digest = sha256(path.read_bytes()) if path.is_file() else "none: it is gone"
        if digest != expected:
            raise serving.RefusedModelError(
                f"{part} ({path.name}) has SHA-256 {digest}; the version was registered with {expected}. The files were "
                "changed after registration: do not use this version."
            )
    serving.check_archive(parts["graph"].read_bytes())


def random_example(size: tuple[int, int], inputs: tuple[str, ...], clips: bool) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shape = (EXAMPLE, EXAMPLE_FRAMES, 3, *size) if clips else (EXAMPLE, 3, *size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    maps = torch.randint(0, 6, (EXAMPLE, *size), dtype=torch.uint8, generator=generator)  # labels of every label map
    return (images, maps) if "parsing" in inputs else (images,)


def encode(settings: Mapping[str, Any]) -> bytes:
    return json.dumps(settings, indent=1, sort_keys=True).encode()
