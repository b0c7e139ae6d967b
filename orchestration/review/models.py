"""The models under review (the candidate, and the champion or another version) and the data to compare them on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from datasets.protocols.protocols import Protocol
from datasets.shards.dataset import Dataset
from datasets.storage.address import parse_address
from datasets.storage.store import StoreError
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import CorruptCheckpointError
from orchestration.errors import RequestError, UnreachableError, without_secret
from orchestration.evaluation.evaluate import check_fits
from orchestration.registry import gate, versions
from orchestration.registry.gate import Gate
from orchestration.registry.locate import Located, locate
from orchestration.registry.versions import CHAMPION, uri


@dataclass(frozen=True)
class ReviewedModel:
    """A registered version and the checkpoint that it was exported from. label: its name in sentences."""

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
    """The gate, the candidate, and the version to compare it with: None where there is no champion.

    Raises: RequestError.
    """
    version = versions.find(client, model)
    number = versions.aliases(client, version.name)[CHAMPION]
    other = versions.find(client, against) if against else None
    if other is None and number is not None:
        other = client.get_model_version(version.name, number)
    if other is not None and uri(other) == uri(version):
        raise RequestError(f"{uri(version)} is the champion itself. Name another version to compare with it.")
    policy = gate.gate_of(client, version.name)
    candidate = ReviewedModel(version, located(version, register_again(version)), f"candidate {version.version}")
    if other is None:
        return policy, candidate, None
    role = "champion" if against is None else "version"
    label = f"{role} {other.version}" if other.name == version.name else f"{other.name} {other.version}"
    remedy = change_champion(version.name) if against is None else "name another version with --with"
    return policy, candidate, ReviewedModel(other, located(other, remedy), label)


def register_again(version: ModelVersion) -> str:
    return f"register a run that has its checkpoint: redress registry register RUN {version.name}"


def change_champion(name: str) -> str:
    return (
        f"undo the promotion (`redress registry rollback {name} --reason …`), set the alias {CHAMPION} in MLflow to a version "
        "that has its checkpoint, or compare with another version (--with models:/NAME/VERSION)"
    )


def located(version: ModelVersion, remedy: str) -> Located:
    """The checkpoint of a version, whose weights are read once: descriptors and Grad-CAM need them.

    Raises: RequestError that names what is missing, and the `remedy` besides restoring it.
    """
    try:
        found = locate(uri(version))
        checkpoint.load_tensors(found.checkpoint, checkpoint.FILES[0])
    except UnreachableError:
        raise
    except (RequestError, StoreError, CorruptCheckpointError) as error:
        raise RequestError(f"{error}\nNothing was compared. Restore the checkpoint, or {remedy}.") from error
    if found.run_id is None and not version.run_id:
        raise RequestError(
            f"{uri(version)} belongs to no run, and its comparison would be stored there. Register it from a run."
        )
    return found


def data_of(candidate: ReviewedModel, champion: ReviewedModel | None, data: str | None) -> tuple[str, str]:
    """The address of the data to compare on, and how the two models' data differ, "" where they do not.

    Raises: RequestError where the models have different data and `data` names none.
    """
    if data:
        data = str(parse_address(data))
    if champion is None or champion.fingerprint == candidate.fingerprint:
        return data or candidate.located.checkpoint.experiment["data"], ""
    named = {one.label: one.fingerprint[:12] or "unknown" for one in (champion, candidate)}
    difference = " and ".join(
        f"{label} was trained on data with fingerprint {fingerprint}…" for label, fingerprint in named.items()
    )
    if data is None:
        raise RequestError(
            f"{uri(candidate.version)}: {difference}. Name one data set to compare both on with --data ADDRESS. Promotion "
            "will then need --override."
        )
    return data, difference


def changed_data(candidate: ReviewedModel, champion: ReviewedModel | None, dataset: Dataset, *, given: bool) -> str:
    """How the data compared on differ from the candidate's own, "" where they do not.

    Raises: RequestError where they differ and were not `given` by the user.
    """
    if dataset.fingerprint == candidate.fingerprint:
        return ""
    difference = (
        f"{without_secret(dataset.address)} has fingerprint {dataset.fingerprint[:12]}… and "
        f"{candidate.label} was trained on data with {candidate.fingerprint[:12] or 'unknown'}…"
    )
    if not given:
        raise RequestError(
            f"{uri(candidate.version)}: its data changed: {difference}. Set --data ADDRESS to the unchanged data."
        )
    return difference


def check_data(models: Iterable[ReviewedModel | None], dataset: Dataset, protocol: Protocol) -> None:
    """Check that each model can be evaluated on the data. Raises: RequestError that names the one that cannot."""
    for one in filter(None, models):
        try:
            check_fits(one.located.checkpoint, dataset, protocol)
        except RequestError as error:
            raise RequestError(f"{one.label} ({uri(one.version)}): {error}") from error


def fingerprints(candidate: ReviewedModel, champion: ReviewedModel | None, dataset: Dataset) -> dict[str, str]:
    """Data fingerprints by description; one entry where all are equal."""
    found = {"compared on": dataset.fingerprint, f"{candidate.label} trained on": candidate.fingerprint or "unknown"}
    if champion:
        found[f"{champion.label} trained on"] = champion.fingerprint or "unknown"
    return {"fingerprint (all)": dataset.fingerprint} if len(set(found.values())) == 1 else found
