"""A run's tags, parameters and data set in MLflow: complete, within its limits, and without a secret."""

from __future__ import annotations

import json

import pytest

from orchestration.tracking import provenance
from orchestration.tracking.run_description import VALUE_LIMIT, dataset_input, describe, flatten, redact

FINGERPRINT = "0123456789abcdef" * 4
SECRET = "s3://key:secret@bucket/ltcc"


def test_the_tags_say_data_code_seed_and_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDRESS_COMMIT", "abc")
    experiment = {"name": "tiny", "data": SECRET, "seed": 3, "threads": 1, "workers": 2, "select": "last"}
    assert describe(experiment, FINGERPRINT) == {
        "data.address": "s3://bucket/ltcc",
        "data.fingerprint": FINGERPRINT,
        "source.digest": provenance.source_digest(),
        "source.commit": "abc",
        "mlflow.source.git.commit": "abc",
        "seed": "3",
        "threads": "1",
        "workers": "2",
        "select": "last",
        "select_on_test": "false",
        "experiment": "tiny",
    }


def test_what_is_unknown_has_no_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: None)
    tags = describe({"select_on_test": True}, FINGERPRINT)
    assert set(tags) == {"data.fingerprint", "source.digest", "select_on_test"}
    assert tags["select_on_test"] == "true"
    assert describe({"workers": {"min": 2, "max": 8}}, FINGERPRINT)["workers"] == "2 to 8"


@pytest.mark.parametrize(
    ("address", "name", "uri"),
    [
        (SECRET, "ltcc", "s3://bucket/ltcc"),
        ("/data/ltcc/", "ltcc", "/data/ltcc/"),
        (None, "data", ""),
    ],
)
def test_the_data_set_has_a_name_an_address_and_a_digest(address: str | None, name: str, uri: str) -> None:
    found = dataset_input({"data": address}, FINGERPRINT)
    assert found.dataset.name == name
    assert json.loads(found.dataset.source) == {"uri": uri}
    assert found.dataset.digest == FINGERPRINT[:36]
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_settings_become_dotted_names_with_text() -> None:
    tree = {"a": {"b": {"c": 1, "text": "as it is"}, "none": None}, "list": [1, {"d": 2}], "empty": {}, "flag": True}
    assert flatten(tree) == {
        "a.b.c": "1",
        "a.b.text": "as it is",
        "a.none": "null",
        "list": '[1, {"d": 2}]',
        "empty": "{}",
        "flag": "true",
    }


def test_a_long_value_is_cut_and_secrets_are_left_out_of_every_value() -> None:
    flat = flatten({"long": "x" * (VALUE_LIMIT + 1), "data": SECRET, "all": [SECRET]})
    assert flat == {"long": "x" * VALUE_LIMIT, "data": "s3://bucket/ltcc", "all": '["s3://bucket/ltcc"]'}


def test_redacting_keeps_the_tree() -> None:
    tree = {"data": SECRET, "mixed": [{"data": (SECRET, 1)}], "seed": 3, "none": None}
    assert redact(tree) == {
        "data": "s3://bucket/ltcc",
        "mixed": [{"data": ["s3://bucket/ltcc", 1]}],
        "seed": 3,
        "none": None,
    }
