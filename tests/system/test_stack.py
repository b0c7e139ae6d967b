"""The whole of a served installation: PostgreSQL's tables, artifacts on S3, users with passwords; set by addresses alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from datasets.synthetic.dataset import render_dataset
from orchestration.errors import RequestError
from orchestration.registry import decisions
from orchestration.registry.decisions import EVIDENCE
from orchestration.registry.versions import aliases
from orchestration.tracking import mlflow_client
from tests.servers.mlflow_server import Backing, mlflow_server
from tests.servers.postgres import PASSWORD as TABLES_PASSWORD
from tests.servers.postgres import postgres
from tests.servers.swift import ObjectStore

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ADMIN = ("admin", "a-password-of-the-stack-test")
SMALL = [
    "epochs=1", "batch.people=4", "batch.images=4", "batch.lanes=2", "augment.height=64", "augment.width=32",
    "method.width=0.125", "optimizers.model.schedule=null", "workers=1", "resources.cpus=1",
]  # fmt: skip
COMMANDS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from orchestration.cli.main import main
for number, words in enumerate(json.loads(sys.argv[3])):
    status = main([*words, "--result", f"{sys.argv[2]}/{number}.json"])
    if status:
        sys.exit(status)
"""


@dataclass(frozen=True)
class Stack:
    """A running installation and what its users know of it."""

    address: str
    bucket: str
    secrets: tuple[str, ...]


@pytest.fixture(scope="module")
def stack(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    bucket = object_store.create_bucket("stack")
    with postgres(home / "postgres.log") as tables:
        backing = Backing(tables, f"{bucket}/mlflow", ADMIN, object_store.environment)
        with mlflow_server(home / "mlflow", backing=backing) as address, pytest.MonkeyPatch.context() as patch:
            names = {"MLFLOW_TRACKING_USERNAME": ADMIN[0], "MLFLOW_TRACKING_PASSWORD": ADMIN[1]}
            for name, value in (object_store.environment | names | {"MLFLOW_TRACKING_URI": address}).items():
                patch.setenv(name, value)
            render_dataset(f"{bucket}/data", preset="tiny", splits="ltcc", workers=1)
            yield Stack(address, bucket, (ADMIN[1], TABLES_PASSWORD, object_store.secret_key))
            mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def answers(stack: Stack, root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Train and register, evaluate and search; then a second model is compared, promoted and taken back.

    As typed on a machine that knows the addresses.
    """
    folder = tmp_path_factory.mktemp("answers")
    data, model = f"{stack.bucket}/data", "models:/of-stack@candidate"
    words = ["baseline-demo", f"data={data}", f"storage={stack.bucket}/runs", "register=of-stack", *SMALL]
    commands = [
        ["train", *words],
        ["evaluate", model, f"data={data}"],
        ["search", model, data, "--out", str(folder / "search.png")],
        ["registry", "compare", "of-stack"],
        ["registry", "promote", "of-stack", "--override", "somebody has to be the first"],
        ["train", *words, "seed=2"],
        ["registry", "compare", "of-stack"],
        ["registry", "promote", "of-stack", "--override", "chosen for a test", "--by", ADMIN[0]],
        ["registry", "rollback", "of-stack", "--reason", "it was only a test"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(root), str(folder), json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert not [secret for secret in stack.secrets if secret in done.stdout + done.stderr]
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(len(commands))]


def test_a_run_and_its_model_are_on_the_server_and_their_files_on_s3(
    stack: Stack, answers: list[dict[str, Any]]
) -> None:
    trained, evaluated, searched = answers[:3]
    client = MlflowClient(stack.address)
    run = client.get_run(trained["run_id"])
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss/model")]
    assert steps == list(range(len(steps)))
    assert steps
    assert trained["model"] == "models:/of-stack/1"
    assert evaluated["metrics"] == pytest.approx(trained["metrics"], abs=1e-6)
    assert evaluated["run_id"] == trained["run_id"]
    assert searched["checkpoint"] == trained["checkpoint"]
    files = open_store(f"{stack.bucket}/mlflow").list()
    assert any(name.endswith("pictures/cmc.png") for name in files), files
    assert {name.rpartition("/")[2] for name in files} >= {"graph.pt2", "model.onnx", "serving.py"}


def test_the_model_loads_back_and_search_finds_what_it_describes(
    stack: Stack, answers: list[dict[str, Any]], tmp_path: Path
) -> None:
    searched = answers[2]
    assert Path(searched["picture"]).read_bytes()[:4] == b"\x89PNG"
    mlflow.set_tracking_uri(stack.address)
    model = mlflow.pyfunc.load_model("models:/of-stack/1")
    dataset = Dataset.open(f"{stack.bucket}/data")
    images = {s.key: s.image for split in ("query", "gallery") for s in dataset.samples(split)}
    for one in searched["results"][:2]:
        keys = [one["image"], *(found["image"] for found in one["found"])]
        features = model.predict({"bytes": [images[key] for key in keys]})
        told = [found["similarity"] for found in one["found"]]
        np.testing.assert_allclose(features[1:] @ features[0], told, atol=2e-4)


def test_a_model_is_compared_promoted_and_taken_back_on_the_server(stack: Stack, answers: list[dict[str, Any]]) -> None:
    compared, promoted, undone = answers[6:]
    client = MlflowClient(stack.address)
    first, second = (client.get_model_version("of-stack", number) for number in "12")
    assert answers[5]["model"] == "models:/of-stack/2"
    assert promoted["aliases"] == {"champion": "2", "previous": "1"}
    assert undone["aliases"]["champion"] == "1"
    assert aliases(client, "of-stack")["champion"] == "1"
    made = [(one.what, one.version, one.who) for one in decisions.decisions(client, "of-stack")]
    assert made == [("promoted", "1", ADMIN[0]), ("promoted", "2", ADMIN[0]), ("promoted: rolled back", "2", ADMIN[0])]
    assert json.loads(second.tags[EVIDENCE])["against"] == first.version
    files = open_store(f"{stack.bucket}/mlflow")
    [page] = [name for name in files.list() if name.endswith(compared["page"])]
    text = files.read(page).decode()
    assert "of-stack" in text
    assert not [secret for secret in stack.secrets if secret in text]


def test_of_two_reviewers_who_decide_at_once_on_the_server_one_wins(
    stack: Stack, answers: list[dict[str, Any]]
) -> None:
    client, start = MlflowClient(stack.address), threading.Barrier(2)
    before = len(decisions.decisions(client, "of-stack"))

    def decide(why: str) -> str:
        start.wait()
        try:
            decisions.promote("models:/of-stack/2", override=why)
        except RequestError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(decide, ("ann", "bob")))
    assert sorted(bool(text) for text in told) == [False, True], told
    assert aliases(client, "of-stack")["champion"] == "2"
    assert len(decisions.decisions(client, "of-stack")) == before + 1
    assert not client.search_registered_models("name LIKE '%.lock-%'")


def test_who_does_not_say_who_they_are_is_told_how(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-wrong-one")
    with pytest.raises(RequestError, match="denied access") as told:
        mlflow_client.connect(stack.address)
    assert "Credentials are wrong: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in str(told.value)
    assert "a-wrong-one" not in str(told.value)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    with pytest.raises(RequestError, match="Credentials are missing: set MLFLOW_TRACKING_USERNAME"):
        mlflow_client.connect(stack.address)


def test_no_secret_is_in_what_a_run_leaves(stack: Stack, answers: list[dict[str, Any]]) -> None:
    client = MlflowClient(stack.address)
    run = client.get_run(answers[0]["run_id"])
    version = client.get_model_version("of-stack", "1")
    told = json.dumps([run.to_dictionary(), version.tags, version.description, answers], default=str)
    assert not [secret for secret in stack.secrets if secret in told]
    for place in ("runs", "mlflow"):
        store = open_store(f"{stack.bucket}/{place}")
        for name in store.list():
            content = store.read(name)
            assert not [secret for secret in stack.secrets if secret.encode() in content], name
    assert all(secret in str(os.environ) or secret == TABLES_PASSWORD for secret in stack.secrets), "they were in use"
