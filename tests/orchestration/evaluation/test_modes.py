"""From a converted tree to metrics: every protocol ranks as a plain loop over the published parsers' own tables does."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from datasets.conversion.convert import convert
from datasets.protocols import protocols
from datasets.protocols.protocols import PROTOCOLS, Protocol, check
from datasets.shards.dataset import Dataset, SplitIndex
from methods.reranking import rerank
from orchestration.config.settings import RerankSettings
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.evaluate import metric_names
from orchestration.evaluation.modes import Evaluation, query_table, rank_modes
from tests import layouts
from tests.orchestration.evaluation.published import Row, reference
from tests.tiny import jpeg

TABLES = {  # mode → which parser's table, query split, and the rule of the published evaluator
    "ltcc": {m: ({}, "query", m) for m in ("general", "same-clothes", "clothes-changing")},
    "ccvid": {m: ({}, "query", m) for m in ("general", "same-clothes", "clothes-changing")},
    "prcc": {"same-clothes": ({}, "query_same", "general"), "clothes-changing": ({}, "query_diff", "general")},
    "vcclothes": {
        "general": ({"mode": "all"}, "query", "general"),
        "same-clothes": ({"mode": "sc"}, "query", "general"),
        "clothes-changing": ({"mode": "cc"}, "query", "general"),
    },
    **{name: {"general": ({}, "query", "general")} for name in ("deepchange", "last", "market1501", "msmt17")},
}
RERANK = RerankSettings(k1=4, k2=2, weight=0.3)


@dataclass(frozen=True)
class Ranked:
    dataset: Dataset
    protocol: Protocol
    feature: dict[str, np.ndarray]  # key of an image, or name of a tracklet → what stands for it
    result: Evaluation

    def indexes(self, *splits: str) -> dict[str, SplitIndex]:
        return dict(zip(splits, self.dataset.indexes(*splits), strict=True))


def ranked(layout: str, source: Path, destination: Path) -> Ranked:
    """A converted tree with a random feature for everything that its protocol ranks, scored."""
    convert(layout, source, str(destination))
    dataset, protocol = Dataset.open(str(destination)), PROTOCOLS[layout]
    check(protocol, dataset)
    splits = sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    rng = np.random.default_rng(1)
    descriptors, feature = {}, {}
    for split, index in indexes.items():
        rows = protocols.samples(protocol, index)
        values = F.normalize(torch.from_numpy(rng.standard_normal((len(rows), 8))).float(), dim=1)
        descriptors[split] = Descriptors(rows, values)
        is_video = protocol.sample == "tracklet"
        names = [index.sequence_names[s] for s in index.sequence[rows]] if is_video else index.keys(rows)
        feature |= dict(zip(names, values.double().numpy(), strict=True))
    result = rank_modes(protocol, indexes, descriptors, dataset.manifest, reranking=RERANK)
    return Ranked(dataset, protocol, feature, result)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranked]:
    found = {}
    for name in layouts.names():
        folder = tmp_path_factory.mktemp(name)
        found[name] = ranked(name, layouts.unpack(name, folder / "tree").root, folder / "data")
    return found


def plain(of: Ranked, query: Sequence[Row], gallery: Sequence[Row]) -> np.ndarray:
    q, g = (np.stack([of.feature[row["path"]] for row in rows]) for rows in (query, gallery))
    return -q @ g.T


def reranked(of: Ranked, query: Sequence[Row], gallery: Sequence[Row]) -> np.ndarray:
    q, g = (torch.from_numpy(np.stack([of.feature[row["path"]] for row in rows])) for rows in (query, gallery))
    return torch.cat(list(rerank(q, g, **RERANK.model_dump()).blocks())).numpy()


def agree(metrics: dict[str, float], mode: str, expected: dict[str, float]) -> None:
    found = {name.rpartition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{mode}/")}
    found.pop("mINP")
    assert found == pytest.approx(expected, abs=1e-12), mode


def table_of(name: str, options: dict[str, Any]) -> dict[str, list[Row]]:
    parsers = layouts.expected(name)["parsers"]
    return next(parser["splits"] for parser in parsers if options.items() <= parser["options"].items())


@pytest.mark.parametrize("name", [name for name in TABLES if name in layouts.names()])
def test_every_mode_equals_the_published_evaluator_on_the_published_tables(
    scores: dict[str, Ranked], name: str
) -> None:
    for mode, (options, split, rule) in TABLES[name].items():
        rows = table_of(name, options)
        query, gallery = (sorted(rows[s], key=lambda row: row["path"]) for s in (split, "gallery"))
        expected = reference(plain(scores[name], query, gallery), query, gallery, rule)
        agree(scores[name].result.metrics, mode, expected)
        expected = reference(reranked(scores[name], query, gallery), query, gallery, rule)
        agree(scores[name].result.metrics, f"{mode}-reranked", expected)


@pytest.mark.parametrize(("mode", "split"), [("same-clothes", "query_same"), ("clothes-changing", "query_diff")])
@pytest.mark.parametrize(("suffix", "distance"), [("", plain), ("-reranked", reranked)], ids=["plain", "reranked"])
def test_single_shot_metrics_are_means_over_the_published_draws(
    scores: dict[str, Ranked], mode: str, split: str, suffix: str, distance: Any
) -> None:
    rows = table_of("prcc", {})
    draws = next(p["extra"]["single_shot_galleries"] for p in layouts.expected("prcc")["parsers"] if p.get("extra"))
    of_path = {row["path"]: row for row in rows["gallery"]}
    each = []
    for paths in draws:
        gallery = [of_path[path] for path in paths]
        each.append(reference(distance(scores["prcc"], rows[split], gallery), rows[split], gallery, "general"))
    expected = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    agree(scores["prcc"].result.metrics, f"{mode}-single-shot{suffix}", expected)


def test_a_querys_precision_is_its_mean_over_the_draws(scores: dict[str, Ranked]) -> None:
    prcc = scores["prcc"]
    splits = ("query_same", "query_diff", "gallery")
    data = query_table(prcc.protocol, prcc.indexes(*splits), prcc.result.rankings)
    table = pq.read_table(io.BytesIO(data)).to_pylist()
    mode = "clothes-changing-single-shot"
    mine = {row["query"]: row for row in table if row["mode"] == mode}
    keys = prcc.dataset.index("query_diff").keys()
    assert list(mine) == keys
    # one match in each draw: precision is one over its position
    assert np.mean([row["average_precision"] for row in mine.values()]) == pytest.approx(
        prcc.result.metrics[f"{mode}/mAP"]
    )
    assert all(1 / row["average_precision"] <= row["first_match"] + 1e-12 for row in mine.values())
    assert {row["mode"] for row in table} == set(prcc.result.rankings)


def test_junk_is_never_ranked_and_distractors_are_always_wrong(scores: dict[str, Ranked]) -> None:
    market = scores["market1501"]
    assert market.dataset.split("junk").rows > 0
    ranked_keys = {key for key in market.feature if "bounding_box_test" in key}
    persons = {key.rpartition("/")[2].partition("_")[0] for key in ranked_keys}
    assert "-1" not in persons
    assert "0000" in persons
    for one in market.result.lists["general"]:
        index = market.dataset.index("gallery")
        names = [index.person_names[person] for person in index.person[one.gallery]]
        assert not any(right for name, right in zip(names, one.is_match, strict=True) if name == "0000")


def test_a_tracklet_is_named_by_its_sequence(scores: dict[str, Ranked]) -> None:
    video = scores["ccvid"]
    data = query_table(
        video.protocol,
        video.indexes("query", "gallery"),
        video.result.rankings,
    )
    table = pq.read_table(io.BytesIO(data)).to_pylist()
    expected = sorted(row["path"] for row in table_of("ccvid", {})["query"])
    assert sorted(row["query"] for row in table if row["mode"] == "general") == expected


def celebrities(root: Path, files: Iterable[str]) -> Path:
    rng = np.random.default_rng(0)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(jpeg(rng.integers(0, 255, (8, 4, 3)).astype(np.uint8)))
    return root


def test_without_cameras_every_gallery_image_of_the_person_counts(tmp_path: Path) -> None:
    """Celeb-reID restarts its numbers in each subset: equal ones in query and gallery are no same camera."""
    files = [f"{split}/{p}_{n}_0.jpg" for split in ("train", "query") for p in (3, 5, 12) for n in (1, 2)]
    files += [f"gallery/{p}_{n}_7.jpg" for p in (3, 5, 12, 40) for n in (1, 2, 3)]
    celeb = ranked("celebreid", celebrities(tmp_path / "tree", files), tmp_path / "data")
    rows = {
        split: [
            {"path": file, "pid": int(file.partition("/")[2].partition("_")[0]), "camid": file}
            for file in sorted(files) if file.startswith(split)
        ]
        for split in ("query", "gallery")
    }  # fmt: skip
    query, gallery = rows["query"], rows["gallery"]
    agree(celeb.result.metrics, "general", reference(plain(celeb, query, gallery), query, gallery, "general"))
    assert celeb.result.rankings["general"].num_valid == 6


def test_re_ranked_modes_are_added_and_replace_none(scores: dict[str, Ranked]) -> None:
    for name, of in scores.items():
        plain_names = set(metric_names(of.dataset, of.protocol))
        every_name = set(metric_names(of.dataset, of.protocol, reranked=True))
        assert set(of.result.metrics) == every_name, name
        assert {n for n in every_name if "-reranked/" not in n} == plain_names
        assert len(every_name) == 2 * len(plain_names)


def test_lists_for_people_are_of_whole_galleries_and_in_order(scores: dict[str, Ranked]) -> None:
    prcc = scores["prcc"].result
    assert set(prcc.lists) == {f"{m}-clothes{s}" if m == "same" else f"clothes-{m}{s}"
                               for m in ("same", "changing") for s in ("", "-reranked")}  # fmt: skip
    for name, lists in prcc.lists.items():
        for one in lists:
            order = np.sort(one.shown_value) if name.endswith("-reranked") else -np.sort(-one.shown_value)
            assert one.shown_value.tolist() == order.tolist()
