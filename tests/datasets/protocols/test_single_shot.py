"""Single-shot galleries: the published draws, made anew from labels alone, and what one draw holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.conversion.convert import convert
from datasets.errors import DataError
from datasets.format.schema import Sample
from datasets.protocols import single_shot
from datasets.protocols.protocols import PROTOCOLS, check, galleries
from datasets.shards.dataset import Dataset, write_dataset
from tests import layouts

MODE = next(mode for mode in PROTOCOLS["prcc"].modes if mode.draws)


@pytest.fixture(scope="module")
def prcc(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("prcc")
    convert("prcc", layouts.unpack("prcc", folder / "tree").root, str(folder / "data"))
    return Dataset.open(str(folder / "data"))


def published() -> list[list[str]]:
    found = [parser.get("extra") or {} for parser in layouts.expected("prcc")["parsers"]]
    return next(extra["single_shot_galleries"] for extra in found if "single_shot_galleries" in extra)


def keys(dataset: Dataset, extra: dict[str, Any]) -> list[list[str]]:
    index = dataset.index("gallery")
    return [index.keys(rows) for rows in single_shot.galleries(index, np.arange(len(index)), 10, extra)]


def test_the_draws_are_the_published_ones_recorded_or_made_from_the_labels(prcc: Dataset) -> None:
    assert keys(prcc, prcc.manifest.extra) == published()
    assert keys(prcc, {}) == published()


def test_recorded_draws_count_before_any_other(prcc: Dataset) -> None:
    other = [rows[:2] for rows in published()[::-1]]
    assert keys(prcc, {single_shot.RECORD: other}) == other


def test_draws_are_made_anew_where_a_recorded_image_is_not_there(prcc: Dataset) -> None:
    gone = [["rgb/test/A/set_aside.jpg", *rows[1:]] for rows in published()]
    assert keys(prcc, {single_shot.RECORD: gone}) == published()


def test_a_draw_has_one_image_of_each_person_and_draws_differ(prcc: Dataset) -> None:
    index = prcc.index("gallery")
    drawn = galleries(PROTOCOLS["prcc"], MODE, index, prcc.manifest)
    assert len(drawn) == 10
    for rows in drawn:
        assert index.person[rows].tolist() == list(range(index.num_persons))
        assert (np.diff(rows) > 0).all()
    assert len({tuple(rows.tolist()) for rows in drawn}) > 1


def table(path: Path, gallery: str) -> Dataset:
    """PRCC's protocol on other data: a query of camera B, and a gallery of "person camera"."""
    content = {"query_same": ["1 B"], "query_diff": ["1 B"], "gallery": gallery.split(",")}
    samples = {
        split: [Sample(b"i", None, person, "x", camera, None, None, f"{split}/{n}") for n, (person, camera) in rows]
        for split, rows in ((split, enumerate(map(str.split, rows))) for split, rows in content.items())
    }
    about: dict[str, Any] = {"name": "x", "version": "1", "licence": "none", "label_map": None, "protocol": "prcc"}
    write_dataset(str(path), samples, **about)
    return Dataset.open(str(path))


def test_one_image_per_person_is_a_gallery_of_both_kinds(tmp_path: Path) -> None:
    dataset = table(tmp_path / "a", "1 A,2 A")
    check(PROTOCOLS["prcc"], dataset)
    drawn = galleries(PROTOCOLS["prcc"], MODE, dataset.index("gallery"), dataset.manifest)
    assert [rows.tolist() for rows in drawn] == [[0, 1]] * 10


def test_draws_without_a_valid_query_are_found_before_work(tmp_path: Path) -> None:
    dataset = table(tmp_path / "a", "1 A,1 B,1 B,1 B,2 A")
    with pytest.raises(
        DataError, match=r"mode 'same-clothes-single-shot' .*no valid query.*some draw of one image per"
    ):
        check(PROTOCOLS["prcc"], dataset)
