"""`redress registry compare`: candidate and champion on the same queries, as evidence in tags and as a page."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from datasets.protocols.prospects import seen_in_training
from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset
from orchestration.config.settings import completed
from orchestration.errors import RequestError, without_secret
from orchestration.evaluation import descriptors
from orchestration.evaluation.distances import distances_of
from orchestration.evaluation.evaluate import open_for_evaluation
from orchestration.evaluation.tsne import plane_of
from orchestration.export.model_card import as_description
from orchestration.measures import compared
from orchestration.progress import Progress
from orchestration.registry import decisions, gate
from orchestration.registry.decisions import EVIDENCE
from orchestration.registry.gate import Check, Gate
from orchestration.registry.versions import uri
from orchestration.review.bootstrap import RESAMPLES
from orchestration.review.comparison import SEED, ModeComparison, compare
from orchestration.review.models import (
    ReviewedModel,
    changed_data,
    check_data,
    data_of,
    fingerprints,
    models_under_review,
)
from orchestration.review.page import FeatureSpace, ModelSummary, Review, write_page
from orchestration.review.stages import render_stages
from orchestration.review.thumbnails import render_cases, render_explanations
from orchestration.tracking import mlflow_client
from orchestration.tracking.run_description import flatten

PAGE, NUMBERS = "review.html", "comparison.json"
RANDOM_ORDER = "random order"
HEADING = "## Review"
NOT_COMPARED = (
    "name",
    "storage",
    "experiment",
    "register",
    "workers",
    "strategy",
    "resources",
    "max_failures",
    "hang_s",
)


def review(
    model: str,
    *,
    against: str | None = None,
    data: str | None = None,
    page: str | None = None,
    who: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare a version with the champion, or with the version `against`; returns differences, checks and the page's path.

    data: the data set to compare on; by default the candidate's own. page: a file for another copy of the page.
    The page is logged to the candidate's run, and its evidence to the version's tags: promotion requires it.
    Raises: RequestError before work starts where the two cannot be compared.
    """
    progress = progress or Progress()
    if page and not Path(page).absolute().parent.is_dir():
        raise RequestError(f"--page {page}: there is no folder {Path(page).parent}. Create it, or name another file.")
    client = mlflow_client.connect(create=False)
    who = decisions.reviewer(who, client.tracking_uri)
    progress.say("opening the models and their data")
    policy, candidate, champion = models_under_review(client, model, against)
    address, note = data_of(candidate, champion, data)
    dataset, protocol = open_for_evaluation(address)
    target = gate.target_of(policy, [f"{mode.name}/{measure}" for mode in protocol.modes for measure in compared()])
    note = note or changed_data(candidate, champion, dataset, given=data is not None)
    check_data((candidate, champion), dataset, protocol)
    indexes = named_indexes(dataset, sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)}))
    reference, proposed = (
        descriptors.cached_descriptors(one.located, address, dataset, protocol, indexes, progress)
        if one
        else descriptors.random_order(protocol, indexes)
        for one in (champion, candidate)
    )
    progress.say("comparing the rankings")
    comparisons = compare(protocol, indexes, reference, proposed, dataset.manifest, confidence=policy.confidence)
    evidence = evidence_of(candidate, champion, dataset, note, policy, comparisons, who)
    checks = gate.run_checks(evidence, policy)
    progress.say("rendering the review page")
    html = write_page(
        Review(
            name=candidate.version.name,
            model=uri(candidate.version),
            champion=summarise(client, champion),
            candidate=summarise(client, candidate),
            is_first=champion is None,
            gate=policy,
            target=target,
            checks=checks,
            comparisons=comparisons,
            features=[
                FeatureSpace(
                    one.label,
                    distances_of(protocol, indexes, found),
                    plane_of(protocol, indexes, found),
                )
                for one, found in ((champion, reference), (candidate, proposed))
                if one
            ],
            cases=render_cases(dataset, indexes, comparisons),
            explanations=render_explanations(
                {one.label: one.located.checkpoint for one in (champion, candidate) if one},
                dataset,
                indexes,
                next(one for one in comparisons if target.rpartition("/")[0] == one.mode.name),
            ),
            stages=render_stages({one.label: one.located.run for one in (champion, candidate) if one}),
            manifest=dataset.manifest,
            data=without_secret(address),
            fingerprints=fingerprints(candidate, champion, dataset),
            changes=changes(champion, candidate) if champion else {},
            card=card_of(candidate.version),
            resamples=RESAMPLES,
            who=evidence["who"],
            when=evidence["when"],
        )
    )
    place = store_review(client, candidate, evidence, checks, html, is_evidence=against is None)
    if page:
        Path(page).write_text(html, encoding="utf-8")
    return {
        "model": uri(candidate.version),
        "against": uri(champion.version) if champion else RANDOM_ORDER,
        "run_id": candidate.run_id,
        "data": without_secret(address),
        "confidence": policy.confidence,
        "target": target,
        "differences": evidence["differences"],
        "passes": all(check.passed for check in checks),
        "checks": [asdict(check) for check in checks],
        "changed": {one.mode.name: {"better": one.num_better, "worse": one.num_worse} for one in comparisons},
        "page": place,
        "page_address": address_of(client, candidate.run_id, place),
        "copy": str(Path(page).absolute()) if page else None,
    }


def address_of(client: MlflowClient, run_id: str, artifact: str) -> str:
    """Where an artifact lies: a path where the artifacts are on this machine."""
    root = without_secret(client.get_run(run_id).info.artifact_uri).rstrip("/")
    return f"{unquote(root.removeprefix('file://')) if root.startswith('file://') else root}/{artifact}"


def named_indexes(dataset: Dataset, splits: Sequence[str]) -> dict[str, Any]:
    return dict(zip(splits, dataset.indexes(*splits), strict=True))


def evidence_of(
    candidate: ReviewedModel,
    champion: ReviewedModel | None,
    dataset: Dataset,
    note: str,
    policy: Gate,
    comparisons: Sequence[ModeComparison],
    who: str,
) -> dict[str, Any]:
    """The evidence that promotion checks, as plain JSON; missing ends of intervals are null."""
    found: dict[str, Any] = {}
    for one in comparisons:
        for measure, difference in one.differences.items():
            found[f"{one.mode.name}/{measure}"] = {
                "champion": difference.champion,
                "candidate": difference.candidate,
                "low": None if math.isnan(difference.low) else difference.low,
                "high": None if math.isnan(difference.high) else difference.high,
            }
    return {
        "model": uri(candidate.version),
        "against": str(champion.version.version) if champion else None,
        "data": dataset.fingerprint,
        "same_data": not note,
        "data_note": note,
        "seen_in_training": "" if note else seen_in_training(PROTOCOLS[dataset.manifest.protocol], dataset) or "",
        "select_on_test": candidate.version.tags.get("select_on_test") == "true",
        "confidence": policy.confidence,
        "resamples": RESAMPLES,
        "seed": SEED,
        "queries": {one.mode.name: one.num_queries for one in comparisons},
        "differences": found,
        "who": who,
        "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def store_review(
    client: MlflowClient,
    candidate: ReviewedModel,
    evidence: Mapping[str, Any],
    checks: Sequence[Check],
    page: str,
    *,
    is_evidence: bool,
) -> str:
    """Log page and numbers to the candidate's run, and link them from the version; returns the page's artifact path.

    is_evidence: the comparison is with the champion, so the evidence also goes to the version's tags.
    """
    version = candidate.version
    run_id = candidate.run_id
    against = f"version-{evidence['against']}" if evidence["against"] else "random-order"
    moment = evidence["when"].replace(":", "").replace("+0000", "Z")
    folder = f"reviews/version-{version.version}-against-{against}/{moment}"
    numbers = dict(evidence) | {"checks": [asdict(check) for check in checks]}
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, PAGE).write_text(page, encoding="utf-8")
        Path(directory, NUMBERS).write_text(json.dumps(numbers, indent=1), encoding="utf-8")
        client.log_artifacts(run_id, directory, folder)
    place = f"{folder}/{PAGE}"
    if not is_evidence:
        return place
    compared = (
        f"champion version {evidence['against']}" if evidence["against"] else f"{RANDOM_ORDER} (there is no champion)"
    )
    verdict = f"{'passes' if all(check.passed for check in checks) else 'does not pass'} the gate against {compared}"
    tags = {
        "review.verdict": verdict,
        "review.page": place,
        "review.at": evidence["when"],
        EVIDENCE: json.dumps(evidence),
    }
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    experiment = client.get_run(run_id).info.experiment_id
    link = f"#/experiments/{experiment}/runs/{run_id}/artifacts/{place}"
    text = f"{HEADING}\n\n[Review page]({link}): {verdict} ({evidence['when']}).\n\n{card_of(version)}"
    client.update_model_version(version.name, version.version, description=as_description(text))
    return place


def card_of(version: ModelVersion) -> str:
    """The model card in a version's description, without the link to the review."""
    text = version.description or ""
    if not text.startswith(HEADING):
        return text
    _, _, card = text.partition(f"\n# {version.name}\n")
    return f"# {version.name}\n{card}"


def summarise(client: MlflowClient, reviewed: ReviewedModel | None) -> ModelSummary:
    if reviewed is None:
        return ModelSummary(RANDOM_ORDER, {})
    version = reviewed.version
    tags = client.get_run(reviewed.run_id).data.tags
    progress = reviewed.located.checkpoint.progress
    facts = {
        "run": reviewed.run_id,
        "recipe": str(reviewed.located.checkpoint.experiment.get("name", "")),
        "checkpoint": f"epoch {progress.epoch}, step {progress.step}",
        "registered": datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        "code digest": tags.get("source.digest", version.tags.get("source.digest", ""))[:16],
        "commit": tags.get("source.commit", ""),
        "trained on": reviewed.fingerprint[:16],
        "decision": decisions.describe_last(version.tags),
    }
    return ModelSummary(reviewed.label, {key: value for key, value in facts.items() if value})


def changes(champion: ReviewedModel, candidate: ReviewedModel) -> dict[str, tuple[str, str]]:
    """Settings that differ, without secrets."""
    old, new = (flatten(completed(one.located.checkpoint.experiment)) for one in (champion, candidate))
    return {
        key: (old.get(key, "–"), new.get(key, "–"))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and key.partition(".")[0] not in NOT_COMPARED
    }
