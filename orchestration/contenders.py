"""Who is compared in a review: the candidate, the champion or whom else was named, and the data that both are of."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from datasets.shards import Dataset
from orchestration import decisions, gate, tracking
from orchestration.decisions import CHAMPION, uri
from orchestration.errors import RequestError
from orchestration.gate import Gate
from orchestration.scoring import Located, locate


@dataclass(frozen=True)
class Contender:
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


def contenders(client: MlflowClient, model: str, against: str | None) -> tuple[Gate, Contender, Contender | None]:
    """The gate, the candidate, and whom it is compared with: None where there is no champion. Raises: RequestError."""
    version = decisions.find(client, model)
    number = decisions.aliases(client, version.name)[CHAMPION]
    other = decisions.find(client, against) if against else None
    if other is None and number is not None:
        other = client.get_model_version(version.name, number)
    if other is not None and uri(other) == uri(version):
        raise RequestError(f"{uri(version)} is the champion itself. Name the version to compare with it.")
    policy = gate.gate_of(client, version.name)
    candidate = Contender(version, located(version), f"candidate {version.version}")
    if other is None:
        return policy, candidate, None
    role = "champion" if against is None else "version"
    label = f"{role} {other.version}" if other.name == version.name else f"{other.name} {other.version}"
    return policy, candidate, Contender(other, located(other), label)


def located(version: ModelVersion) -> Located:
    found = locate(uri(version))
    if found.run_id is None and not version.run_id:
        raise RequestError(
            f"{uri(version)} belongs to no run, where its comparison could be kept. Register it from a run."
        )
    return found


def data_of(candidate: Contender, champion: Contender | None, data: str | None) -> tuple[str, str]:
    """The data to compare on, and what is not the same about the two models' data, "" where nothing.

    Raises: RequestError where the models are of different data and none were named.
    """
    if data:
        data = tracking.absolute(data)
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


def changed_data(candidate: Contender, champion: Contender | None, dataset: Dataset, *, given: bool) -> str:
    """How the data compared on differ from the candidate's own, "" where not. Raises: RequestError unless they were `given`."""
    if dataset.fingerprint == candidate.fingerprint:
        return ""
    told = (
        f"{tracking.without_secret(dataset.address)} has fingerprint {dataset.fingerprint[:12]}… and "
        f"{candidate.label} is of data with {candidate.fingerprint[:12] or 'unknown'}…"
    )
    if not given:
        raise RequestError(
            f"{uri(candidate.version)}: its data changed: {told}. Say with --data ADDRESS where the old ones are."
        )
    return told


def fingerprints(candidate: Contender, champion: Contender | None, dataset: Dataset) -> dict[str, str]:
    """What has which data fingerprint; one line where all are the same."""
    found = {"compared on": dataset.fingerprint, f"{candidate.label} is of": candidate.fingerprint or "unknown"}
    if champion:
        found[f"{champion.label} is of"] = champion.fingerprint or "unknown"
    return {"fingerprint (all)": dataset.fingerprint} if len(set(found.values())) == 1 else found
