"""References to runs and models, and the addresses of tracking servers."""

from __future__ import annotations

import pytest

from datasets.storage.address import AddressError
from orchestration.addresses import model_address, run_address, tracking_address

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
