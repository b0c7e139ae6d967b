"""References to runs and models, and the addresses of tracking servers."""

from __future__ import annotations

import pytest

from datasets.storage.address import AddressError
from orchestration.addresses import cluster_address, model_address, run_address, tracking_address

NAME = "MLFLOW_TRACKING_URI"
ID = "0123456789abcdef" * 2


def test_ids_and_models_are_left_as_they_are() -> None:
    assert run_address(ID) == ID
    assert model_address(ID) == ID
    assert model_address("models:/people/3") == "models:/people/3"
    assert run_address("s3://reid/runs/") == "s3://reid/runs"
    for text in ("models:/people/3\n", "ftp://x", "s3://b//r"):
        with pytest.raises(AddressError):
            model_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000",
        "https://joe:p%2Fw@host/mlflow",
        "http://[::1]:5000",
        "sqlite:////data/mlflow.db",
        "postgresql://joe:pw@db:5432/mlflow?sslmode=require",
        "mysql+pymysql://joe:p/w@db/mlflow",
        "databricks",
    ],
)
def test_tracking_addresses(text: str) -> None:
    assert tracking_address(text, NAME) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (" ", "is blank"),
        ("http://host ", "blanks around"),
        ("http://ho\udcffst", "not UTF-8"),
        ("HTTP://host", "write http:// in lower-case"),
        ("http://", "expected http://host:port"),
        ("http://host:port", "expected http://host:port"),
        ("http://joe:pw/pw@host", "write %2F"),
        ("http://joe:pw?pw@host", "write %2F, %3F"),
        ("http://host/?token=pw", "has no query"),
        ("postgresql://joe:p w@db/x", "write %20"),
        ('postgresql://joe:"pw"@db/x', "write %20, %22"),
    ],
)
def test_others_are_refused_without_their_secrets(text: str, told: str) -> None:
    with pytest.raises(AddressError) as caught:
        tracking_address(text, NAME)
    message = str(caught.value)
    assert message.startswith(f"{NAME} = ")
    assert told in message
    assert "pw" not in message
    assert message.isprintable()


@pytest.mark.parametrize("text", ["auto", "10.0.0.1:6379", "head:6379", "ray://head:10001", "[::1]:6379"])
def test_addresses_of_clusters(text: str) -> None:
    assert cluster_address(text, "RAY_ADDRESS") == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (" head:6379", "blanks around"),
        ("he\nad:6379", "control character"),
        ("local", "unset RAY_ADDRESS"),
        ("http://head:8265", "`ray job submit`"),
        ("head", "expected host:port"),
        ("head:", "expected host:port"),
        ("head:6379/x", "expected host:port"),
        ("://head:6379", "expected host:port"),
        ("s3://head:6379", "expected host:port"),
        ("RAY://head:6379", "expected host:port"),
        ("ray://joe:pw@head:10001", "expected host:port"),
        ("", "is blank"),
    ],
)
def test_other_addresses_of_clusters_are_refused(text: str, told: str) -> None:
    with pytest.raises(AddressError) as caught:
        cluster_address(text, "RAY_ADDRESS")
    assert str(caught.value).startswith("RAY_ADDRESS = ")
    assert told in str(caught.value)
    assert "pw" not in str(caught.value)
    assert str(caught.value).isprintable()
