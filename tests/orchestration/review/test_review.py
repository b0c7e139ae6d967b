"""`redress registry compare`: evidence and page from stored descriptors, on Ray only where there are none."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from methods.separation import separation
from orchestration.cli.main import main
from orchestration.evaluation import descriptors
from orchestration.registry.locate import locate
from orchestration.review.page import SCRIPT, markdown
from orchestration.tracking import kept_stages
from tests.orchestration.reviewed_models import Place, make_place, register_version
from tests.tiny import tiny_dataset

NAME = "reviewed"
HOSTILE = '<script>alert("x")</script>'


class Reader(HTMLParser):
    """Every start tag with its attributes, and the text outside style sheets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def setting(place: Path) -> Place:
    return make_place(place)


def ask(*words: str, result: Path) -> dict[str, Any]:
    assert main([*words, "--result", str(result)]) == 0
    return dict(json.loads(result.read_text()))


@pytest.fixture(scope="module")
def first(setting: Place, place: Path) -> dict[str, Any]:
    """The review of the first version ever, and its promotion."""
    register_version(setting, NAME, 1.6, seed=1)
    told = ask("registry", "compare", NAME, "--page", str(place / "first.html"), result=place / "first.json")
    ask("registry", "promote", NAME, "--by", "ann", result=place / "promoted.json")
    return told


@pytest.fixture(scope="module")
def second(first: dict[str, Any], setting: Place, place: Path) -> dict[str, Any]:
    """The review of a better one, whose first stage told something apart, with a reviewer who has a strange name."""
    model = register_version(setting, NAME, 0.8, "method.label_smoothing=0.2", seed=2)
    vectors, each = torch.eye(3), torch.arange(3)
    told = separation("texts with images", vectors, each, vectors)
    assert told is not None
    kept_stages.keep(open_store(locate(model).run), "prompts", {"texts": told})
    page = str(place / "second.html")
    return ask("registry", "compare", NAME, "--page", page, "--by", HOSTILE, result=place / "second.json")


@pytest.fixture(scope="module")
def page(second: dict[str, Any], place: Path) -> str:
    return (place / "second.html").read_text()


def test_the_first_version_is_compared_with_random_order(first: dict[str, Any]) -> None:
    assert first["against"] == "random order"
    assert first["passes"]
    found = first["differences"]["clothes-changing/mAP"]
    assert found["candidate"] > found["champion"] + 0.05
    assert [check["name"] for check in first["checks"]] == [
        "target better",
        "no mode worse",
        "same data",
        "test set",
        "test people",
    ]


def test_a_better_candidate_passes_and_its_numbers_are_told(
    second: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert second["against"] == f"models:/{NAME}/1"
    assert second["passes"]
    for found in second["differences"].values():
        assert found["low"] <= found["candidate"] - found["champion"] <= found["high"]
    assert main(["registry", "compare", NAME, "--by", "ann"]) == 0
    told = capfd.readouterr().out
    assert "passes the gate" in told
    assert f"{100 * second['differences']['clothes-changing/mAP']['candidate']:.1f}" in told


def test_page_and_numbers_are_in_the_run_and_linked_from_the_version(second: dict[str, Any], place: Path) -> None:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    there = client.download_artifacts(second["run_id"], second["page"], str(place))
    assert Path(there).read_text() == (place / "second.html").read_text()
    version = client.get_model_version(NAME, "2")
    run = client.get_run(second["run_id"]).info
    link = f"(#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/reviews/version-2-against-version-1/"
    assert version.description is not None
    assert link in version.description
    assert version.description.count("## Review") == 1
    assert version.description.count(f"# {NAME}\n") == 1
    assert "Intended for research" in version.description
    assert version.tags["review.verdict"] == "passes the gate against champion version 1"
    evidence = json.loads(version.tags["review.evidence"])
    assert evidence["differences"] == second["differences"]
    assert evidence["seen_in_training"] == ""


def test_nothing_is_embedded_again(second: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command with no way to embed."""
    monkeypatch.setattr(descriptors, "evaluate", None)
    assert main(["registry", "compare", NAME]) == 0


def test_the_page_has_every_part_in_order(page: str) -> None:
    reader = Reader(page)
    parts = [one["id"] for one in reader.all("section")]
    assert parts == [
        "verdict",
        "numbers",
        "curves",
        "features",
        "queries",
        "looks",
        "stages",
        "data",
        "changes",
        "card",
    ]
    links = [one["href"] for one in reader.all("a")]
    assert set(links) >= {f"#{part}" for part in parts}
    told = " ".join(reader.text)
    for words in (
        "Passes the gate",
        "Not intended for surveillance",
        "method.label_smoothing",
        "drawn for tests",
        "Grad-CAM",
    ):
        assert words.replace("Not intended", "intended") in re.sub(r"\s+", " ", told)


def test_the_page_shows_lists_of_both_models_and_where_they_look(page: str) -> None:
    images = Reader(page).all("img")
    alts = [one["alt"] or "" for one in images]
    assert all(alts)
    drawn = [one["alt"] for one in images if not (one["src"] or "").startswith("data:image/jpeg;base64,")]
    assert drawn == ["Histograms at the end of stage prompts: texts with images, AUC 1.000"]
    assert sum(alt.startswith("rank 1, ") for alt in alts) >= 8
    assert sum(alt.startswith("Grad-CAM") for alt in alts) >= 4
    assert any("right: person" in alt for alt in alts)
    assert any("wrong: person" in alt for alt in alts)


def test_the_page_asks_nothing_of_anybody_and_runs_nothing_but_its_own(page: str) -> None:
    reader = Reader(page)
    assert not [tag for tag, _ in reader.tags if tag in ("iframe", "object", "embed", "form", "base")]
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.S) == [SCRIPT]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    [policy] = [one["content"] for one in reader.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    for tag, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "data"):
                assert (value or "").startswith(("data:", "#")), (tag, name, value)
    assert "url(" not in page
    assert "@import" not in page
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_what_people_write_in_a_card_is_text() -> None:
    drawn = markdown(
        "# title\n\n<img src=x onerror=alert(1)> ![p](http://x/y.png) [a](javascript:alert(1))\n\n| a |\n|---|\n| b |"
    )
    reader = Reader(str(drawn))
    assert [tag for tag, _ in reader.tags] == ["h3", "p", "table", "thead", "tr", "th", "tbody", "tr", "td"] or {
        tag for tag, _ in reader.tags
    } <= {"h3", "p", "a", "table", "thead", "tr", "th", "tbody", "td"}
    assert not [one for one in reader.all("a") if (one["href"] or "").startswith("javascript")]
    assert not reader.all("img")


def test_what_cannot_be_compared_is_told_before_work(
    second: dict[str, Any], setting: Place, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = register_version(setting, NAME, 0.8, seed=3, fingerprint="0" * 64)
    stranger = tiny_dataset(place / "other-data", test_persons=16, size=(64, 32), seed=9)
    fingerprint = Dataset.open(setting.data).fingerprint[:12]
    for words, message in (
        ([other], r"candidate 3 was trained on data with fingerprint 000000000000….*--data ADDRESS"),
        ([f"models:/{NAME}@champion"], "is the champion itself"),
        ([f"models:/{NAME}/2", "--data", str(place / "nowhere")], "nowhere"),
        ([f"models:/{NAME}/2", "--with", "unheard-of"], "no registered model 'unheard-of'"),
        ([f"models:/{NAME}/9"], "models:/reviewed/9"),
        ([f"models:/{NAME}/2", "--page", str(place / "nowhere" / "page.html")], "there is no folder .*nowhere"),
    ):
        assert main(["registry", "compare", *words]) == 2, words
        assert re.search(message, capfd.readouterr().err), words
    assert fingerprint
    assert stranger


def test_a_target_that_the_data_do_not_give_is_told_before_anything_is_embedded(
    second: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(descriptors, "cached_descriptors", None)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    client.set_registered_model_tag(NAME, "gate.target", "general/mapp")
    try:
        assert main(["registry", "compare", f"models:/{NAME}/2"]) == 2
    finally:
        client.delete_registered_model_tag(NAME, "gate.target")
    assert "the gate's target is general/mapp" in capfd.readouterr().err


@pytest.mark.parametrize("part", ["checkpoint.json", "model.safetensors"])
def test_a_champion_whose_checkpoint_is_gone_is_told_with_the_ways_out_before_anything_is_embedded(
    second: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(descriptors, "cached_descriptors", None)
    version = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version(NAME, "1")
    lost = Path(version.tags["checkpoint"], part)
    away = lost.rename(lost.with_suffix(".away"))
    try:
        assert main(["registry", "compare", NAME]) == 2
        told = capfd.readouterr().err
        assert main(["registry", "compare", f"models:/{NAME}/2", "--with", f"models:/{NAME}/1"]) == 2
        told_of_another = capfd.readouterr().err
    finally:
        away.rename(lost)
    assert str(lost.parent) in told
    assert f"redress registry rollback {NAME} --reason" in told
    assert "set the alias champion in MLflow to a version that has its checkpoint" in told
    assert "Nothing was compared. Restore the checkpoint, or name another version with --with." in told_of_another


def test_a_candidate_whose_checkpoint_is_damaged_is_told_with_the_way_out(
    second: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    version = MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).get_model_version(NAME, "2")
    damaged = Path(version.tags["checkpoint"], "model.safetensors")
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    try:
        assert main(["registry", "compare", f"models:/{NAME}/2"]) == 2
    finally:
        damaged.write_bytes(whole)
    told = capfd.readouterr().err
    assert "the bytes differ from the digest" in told
    assert f"redress registry register RUN {NAME}" in told


def test_data_that_do_not_suit_one_of_the_two_are_told_before_anything_is_embedded(
    second: dict[str, Any],
    setting: Place,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(descriptors, "cached_descriptors", None)
    with_masks = register_version(setting, NAME, 0.8, "method={name: ifd, width: 0.125, joint_from_epoch: 1}", seed=6)
    bare = tiny_dataset(place / "bare", test_persons=16, size=(64, 32), parsing=False)
    words = ["registry", "compare", f"models:/{NAME}/2", "--with", with_masks, "--data", bare]
    assert main(words) == 2
    told = capfd.readouterr().err
    assert re.search(
        rf"version \d+ \({with_masks}\): data .*bare: method 'ifd' needs a parsing mask for each image", told
    )


def test_on_data_that_were_asked_for_the_gate_says_that_they_are_others(
    second: dict[str, Any], setting: Place, place: Path
) -> None:
    other = register_version(setting, NAME, 0.8, seed=4, fingerprint="0" * 64, on_test=True)
    told = ask("registry", "compare", other, "--data", setting.data, result=place / "other.json")
    failed = {check["name"]: check["text"] for check in told["checks"] if not check["passed"]}
    assert set(failed) >= {"same data", "test set"}
    assert "000000000000" in failed["same data"]
    assert main(["registry", "promote", other]) == 2


def test_a_version_without_stored_descriptors_is_embedded(second: dict[str, Any], setting: Place, place: Path) -> None:
    fresh = register_version(setting, NAME, None, "workers=1", seed=5)
    told = ask("registry", "compare", fresh, "--with", f"models:/{NAME}/2", result=place / "fresh.json")
    assert told["against"] == f"models:/{NAME}/2"
    assert told["differences"]["general/mAP"]["candidate"] > 0
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    assert "review.evidence" not in client.get_model_version(NAME, fresh.rpartition("/")[2]).tags
