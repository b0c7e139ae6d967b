"""Who is compared in a review: the candidate, the champion or whom else was named, and the data that both are of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import Dataset
from datasets.storage.store import StoreError
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import CorruptCheckpointError
from orchestration.errors import RequestError, UnreachableError, without_secret
from orchestration.evaluation.evaluate import check_fits
from orchestration.registry import gate, versions
from orchestration.registry.gate import Gate
from orchestration.registry.locate import Located, locate
from orchestration.registry.versions import CHAMPION, uri
from orchestration.tracking import tracked_run


@dataclass(frozen=True)
class ReviewedModel:
    """A registered version and the checkpoint that it was made of. label: as a sentence calls it."""

    version: ModelVersion
    located: Located
    label: str

    @property
    def fingerprint(self) -> str:
        return self.version.tags.get("data.fingerprint", "")

    @property
    def run_id(self) -> str:
        return self.version.run_id or self.located.run_id or ""


def models_under_review(
    client: MlflowClient, model: str, against: str | None
) -> tuple[Gate, ReviewedModel, ReviewedModel | None]:
    """The gate, the candidate, and whom it is compared with: None where there is no champion. Raises: RequestError."""
    version = versions.find(client, model)
    number = versions.aliases(client, version.name)[CHAMPION]
    other = versions.find(client, against) if against else None
    if other is None and number is not None:
        other = client.get_model_version(version.name, number)
    if other is not None and uri(other) == uri(version):
        raise RequestError(f"{uri(version)} is the champion itself. Name the version to compare with it.")
    policy = gate.gate_of(client, version.name)
    candidate = ReviewedModel(version, located(version, again(version)), f"candidate {version.version}")
    if other is None:
        return policy, candidate, None
    role = "champion" if against is None else "version"
    label = f"{role} {other.version}" if other.name == version.name else f"{other.name} {other.version}"
    way_out = other_champion(version.name) if against is None else "name another version with --with"
    return policy, candidate, ReviewedModel(other, located(other, way_out), label)


def again(version: ModelVersion) -> str:
    return f"register a run whose checkpoint is there: redress registry register RUN {version.name}"


def other_champion(name: str) -> str:
    return (
        f"undo the promotion (`redress registry rollback {name} --reason …`), set the alias {CHAMPION} to a version whose "
        "checkpoint is there, in MLflow, or compare with a version that you name (--with models:/NAME/VERSION)"
    )


def located(version: ModelVersion, way_out: str) -> Located:
    """The checkpoint of a version, after its weights were read: descriptors and what the network sees are made of them.

    Raises: RequestError that names what is gone, and the `way_out` beside bringing it back.
    """
    try:
        found = locate(uri(version))
        checkpoint.load_tensors(found.checkpoint, checkpoint.FILES[0])
    except UnreachableError:
        raise
    except (RequestError, StoreError, CorruptCheckpointError) as error:
        raise RequestError(f"{error}\nNothing was compared. Bring that back, or {way_out}.") from error
    if found.run_id is None and not version.run_id:
        raise RequestError(
            f"{uri(version)} belongs to no run, where its comparison could be kept. Register it from a run."
        )
    return found


def data_of(candidate: ReviewedModel, champion: ReviewedModel | None, data: str | None) -> tuple[str, str]:
    """The data to compare on, and what is not the same about the two models' data, "" where nothing.

    Raises: RequestError where the models are of different data and none were named.
    """
    if data:
        data = tracked_run.absolute(data)
    if champion is None or champion.fingerprint == candidate.fingerprint:
        return data or candidate.located.checkpoint.experiment["data"], ""
    named = {one.label: one.fingerprint[:12] or "unknown" for one in (champion, candidate)}
    told = " and ".join(f"{label} is of data with fingerprint {fingerprint}…" for label, fingerprint in named.items())
    if data is None:
        raise RequestError(
            f"{uri(candidate.version)}: {told}. Their numbers are of different data. To compare both on one data set, name "
            "it with --data ADDRESS; promotion will then need --override."
        )
    return data, told


def changed_data(candidate: ReviewedModel, champion: ReviewedModel | None, dataset: Dataset, *, given: bool) -> str:
    """How the data compared on differ from the candidate's own, "" where not. Raises: RequestError unless they were `given`."""
    if dataset.fingerprint == candidate.fingerprint:
        return ""
    told = (
        f"{without_secret(dataset.address)} has fingerprint {dataset.fingerprint[:12]}… and "
        f"{candidate.label} is of data with {candidate.fingerprint[:12] or 'unknown'}…"
    )
    if not given:
        raise RequestError(
            f"{uri(candidate.version)}: its data changed: {told}. Say with --data ADDRESS where the old ones are."
        )
    return told


def check_data(models: Iterable[ReviewedModel | None], dataset: Dataset, protocol: Protocol) -> None:
    """Each can be evaluated on the data. Raises: RequestError that says which cannot."""
    for one in filter(None, models):
        try:
            check_fits(one.located.checkpoint, dataset, protocol)
        except RequestError as error:
            raise RequestError(f"{one.label} ({uri(one.version)}): {error}") from error


def fingerprints(candidate: ReviewedModel, champion: ReviewedModel | None, dataset: Dataset) -> dict[str, str]:
    """What has which data fingerprint; one line where all are the same."""
    found = {"compared on": dataset.fingerprint, f"{candidate.label} is of": candidate.fingerprint or "unknown"}
    if champion:
        found[f"{champion.label} is of"] = champion.fingerprint or "unknown"
    return {"fingerprint (all)": dataset.fingerprint} if len(set(found.values())) == 1 else found
