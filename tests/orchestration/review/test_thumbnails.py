"""The pictures of the review page: the right images of the right queries, small; Grad-CAM, or a sentence on why not."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.images.decode import decode_image
from datasets.shards.dataset import Dataset, SplitIndex
from orchestration.evaluation import explain
from orchestration.evaluation.modes import RankedList
from orchestration.review import thumbnails
from orchestration.review.comparison import Changed
from orchestration.review.thumbnails import EXPLAINED, HEIGHT, jpeg, render_cases, render_explanations
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, dict[str, SplitIndex]]:
    dataset = Dataset.open(
        tiny_dataset(tmp_path_factory.mktemp("data") / "data", test_persons=4, row_group_bytes=8 << 10)
    )
    return dataset, dict(zip(("query", "gallery"), dataset.indexes("query", "gallery"), strict=True))


def image_of(source: str) -> np.ndarray:
    assert source.startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))


@pytest.mark.parametrize(("size", "shown"), [((100, 50), (100, 50)), ((448, 100), (224, 50)), ((2000, 1), (224, 1))])
def test_a_picture_is_at_most_so_high(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert image_of(jpeg(np.zeros((*size, 3), np.uint8))).shape == (*shown, 3)
    assert max(shown[0], HEIGHT) == HEIGHT


def listed(query: int, gallery: list[int], matches: list[bool], ap: float) -> RankedList:
    return RankedList(query, ap, np.array(gallery), np.linspace(0.9, 0.5, len(gallery)), np.array(matches))


def comparison(better: list[Changed], worse: list[Changed]) -> Any:
    mode = SimpleNamespace(name="general", query="query", gallery="gallery")
    return SimpleNamespace(mode=mode, better=better, worse=worse)


def test_a_case_shows_the_query_and_both_models_lists(data: tuple[Dataset, dict[str, SplitIndex]]) -> None:
    dataset, indexes = data
    last = len(indexes["gallery"]) - 1
    change = Changed(3, listed(3, [last, 0], [False, True], 0.25), listed(3, [0, 5], [True, False], 0.5))
    [case], [] = render_cases(dataset, indexes, [comparison([change], [])])["general"]
    samples = {split: {one.key: one for one in dataset.samples(split)} for split in indexes}
    query = samples["query"][indexes["query"].keys()[3]]
    assert (case.person, case.wears, case.camera) == (query.person, f"outfit {query.clothes}", query.camera)
    assert case.query.alt == f"query: person {query.person}, outfit {query.clothes}, camera {query.camera}"
    assert (case.champion_ap, case.candidate_ap) == (0.25, 0.5)
    for entries, rows in ((case.champion, [last, 0]), (case.candidate, [0, 5])):
        for place, (entry, row) in enumerate(zip(entries, rows, strict=True), start=1):
            sample = samples["gallery"][indexes["gallery"].keys()[row]]
            assert entry.person == sample.person
            verdict = "right" if entry.is_match else "wrong"
            assert entry.picture.alt.startswith(
                f"rank {place}, {verdict}: person {sample.person}, outfit {sample.clothes}"
            )
            given = decode_image(sample.image).permute(1, 2, 0).numpy().astype(int)
            assert np.abs(image_of(entry.picture.source) - given).mean() < 12, "that image, as another JPEG"
    assert [entry.is_match for entry in case.champion] == [False, True]
    assert [entry.similarity for entry in case.candidate] == [0.9, 0.5]


def test_labels_that_are_missing_are_called_unknown_or_left_out(data: tuple[Dataset, dict[str, SplitIndex]]) -> None:
    _, indexes = data
    nothing = np.full(len(indexes["gallery"]), -1)
    facts: dict[str, Any] = {name: getattr(indexes["gallery"], name) for name in SplitIndex.__dataclass_fields__}
    bare = SplitIndex(**(facts | {"clothes": nothing, "camera": nothing}))
    found = thumbnails.entries(listed(0, [2], [True], 1.0), bare, {2: "data:,"})
    assert found[0].wears == ""
    assert found[0].picture.alt == f"rank 1, right: person {found[0].person}, camera unknown"


def explained(models: list[str]) -> Any:
    """What `explain_samples` returns: a grey image with a bright heat map per sample."""
    calls: list[tuple[Any, list[list[str]]]] = []

    def explain_samples(model: Any, samples: list[list[Any]]) -> list[list[explain.Explanation]]:
        calls.append((model, [[sample.key for sample in part] for part in samples]))
        image = np.full((8, 4, 3), 90, np.uint8)
        heat = SimpleNamespace(picture=np.full((8, 4, 3), 200, np.uint8))
        return [[explain.Explanation(image, {"Grad-CAM": heat}) for _ in part] for part in samples]  # type: ignore[dict-item]

    return explain_samples, calls


def test_both_models_explain_the_queries_that_changed_most(
    data: tuple[Dataset, dict[str, SplitIndex]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, indexes = data
    changes = [Changed(q, listed(q, [q], [False], 0.1), listed(q, [q + 1], [True], 0.8)) for q in range(4)]
    explain_samples, calls = explained(["a", "b"])
    monkeypatch.setattr(explain, "explain_samples", explain_samples)
    models: Any = {"champion 1": "old", "candidate 2": "new"}
    found = render_explanations(models, dataset, indexes, comparison(changes[:3], changes[3:]))
    assert not isinstance(found, str)
    assert len(found) == EXPLAINED + 1
    person = indexes["query"].person_names[indexes["query"].person[0]]
    assert found[0].title == f"Person {person}, AP 10 % → 80 %"
    assert [(one.of, one.is_match) for one in found[0].matches] == [("champion 1", False), ("candidate 2", True)]
    keys = {split: index.keys() for split, index in indexes.items()}
    queries = [keys["query"][q] for q in (0, 1, 3)]
    assert calls == [
        ("old", [queries, [keys["gallery"][q] for q in (0, 1, 3)]]),
        ("new", [queries, [keys["gallery"][q + 1] for q in (0, 1, 3)]]),
    ]
    alts = [picture.alt for picture in (*found[0].matches[1].query, *found[0].matches[1].nearest)]
    assert alts == [
        "query as input of candidate 2",
        "Grad-CAM: regions of the query's descriptor, brighter is more",
        "nearest entry of candidate 2, right",
        "Grad-CAM: regions that make it similar to the query, brighter is more",
    ]


def test_without_a_change_or_with_a_failure_there_is_a_sentence(
    data: tuple[Dataset, dict[str, SplitIndex]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dataset, indexes = data
    assert render_explanations({}, dataset, indexes, comparison([], [])) == "Both models rank every query alike."

    def fail(*_: Any) -> None:
        raise MemoryError("no memory left")

    monkeypatch.setattr(explain, "explain_samples", fail)
    change = Changed(0, listed(0, [0], [True], 0.1), listed(0, [1], [True], 0.8))
    models: Any = {"candidate 2": "new"}
    text = render_explanations(models, dataset, indexes, comparison([change], []))
    assert text == "Grad-CAM could not be rendered: MemoryError: no memory left"
    assert "no Grad-CAM on the review page" in caplog.text


def test_samples_are_in_the_order_of_their_rows(data: tuple[Dataset, dict[str, SplitIndex]], tmp_path: Path) -> None:
    dataset, indexes = data
    keys = indexes["gallery"].keys()
    found = thumbnails.samples(dataset, indexes["gallery"], [5, 0, 5, 3])
    assert [sample.key for sample in found] == [keys[row] for row in (5, 0, 5, 3)]
