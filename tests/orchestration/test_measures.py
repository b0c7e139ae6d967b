"""The table of measures: what it reads off a ranking, and that a new line in it reaches everything that names measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.entities import Metric, Run, RunData, RunInfo, RunTag

from datasets.protocols.protocols import PROTOCOLS
from datasets.shards.dataset import Dataset
from methods.matches import Labels
from methods.ranking import Ranking, rank_distances
from orchestration.cli import tables
from orchestration.evaluation.embed import Descriptors
from orchestration.evaluation.evaluate import metric_names
from orchestration.evaluation.modes import CMC_RANKS, Evaluation, rank_modes
from orchestration.export import model_card
from orchestration.measures import DISTANCES, MEASURES, Measure, compared, measured, modes_of
from orchestration.review.comparison import compare
from orchestration.tracking import runs
from tests.conftest import ROOT
from tests.orchestration.reviewed_models import people
from tests.tiny import tiny_dataset


def some_ranking() -> Ranking:
    """Two queries of a gallery of three: one match at position 1, two at positions 2 and 3."""
    query, gallery = (
        Labels(*map(np.array, columns)) for columns in (([0, 1], [0, 0], [0, 1]), ([0, 1, 1], [1, 1, 1], [0, 1, 1]))
    )
    return rank_distances(torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]), query, gallery, "general", CMC_RANKS)


def test_measures_are_named_fractions_that_json_can_hold() -> None:
    found = json.loads(json.dumps(measured(some_ranking())))
    assert found == {"rank-1": 0.5, "mAP": pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2), "mINP": (1 + 2 / 3) / 2}


def test_a_measure_with_values_per_query_is_their_mean() -> None:
    found = some_ranking()
    for name in compared():
        assert (per_query := MEASURES[name].per_query)
        assert measured(found)[name] == pytest.approx(np.nanmean(per_query(found)))


def test_the_table_keeps_the_names_and_the_order_that_stored_results_have() -> None:
    assert list(MEASURES) == ["rank-1", "rank-5", "rank-10", "rank-20", "mAP", "mINP"]
    assert compared() == ["mAP", "rank-1"]


def mean_reciprocal_rank(found: Ranking) -> np.ndarray:
    """float64 [Q], NaN where the query has no match."""
    with np.errstate(divide="ignore"):
        return np.where(found.first_match > 0, 1 / found.first_match, np.nan)


@pytest.fixture
def new(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a measure that the table has for the time of a test: the one line."""
    line = Measure(lambda found: float(np.nanmean(mean_reciprocal_rank(found))), per_query=mean_reciprocal_rank)
    monkeypatch.setitem(MEASURES, "MRR", line)
    return "MRR"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(tiny_dataset(tmp_path / "data", test_persons=12))


def descriptors(dataset: Dataset, noise: float, seed: int) -> dict[str, Descriptors]:
    indexes = dict(zip(("query", "gallery"), dataset.indexes("query", "gallery"), strict=True))
    return {
        split: Descriptors(np.arange(len(index)), people(index.person, noise, seed + number))
        for number, (split, index) in enumerate(indexes.items())
    }


def evaluated(dataset: Dataset, model: dict[str, Descriptors]) -> Evaluation:
    indexes = dict(zip(("query", "gallery"), dataset.indexes("query", "gallery"), strict=True))
    return rank_modes(PROTOCOLS["ltcc"], indexes, model, dataset.manifest)


def test_a_new_measure_is_evaluated_and_known_before_the_evaluation(new: str, dataset: Dataset) -> None:
    result = evaluated(dataset, descriptors(dataset, 1.0, 1))
    for mode, ranking in result.rankings.items():
        first = ranking.first_match[ranking.first_match > 0]
        assert result.metrics[f"{mode}/{new}"] == pytest.approx(np.mean(1 / first))
    assert result.metrics.keys() == metric_names(dataset, PROTOCOLS["ltcc"]).keys()


def test_a_new_measure_is_compared(new: str, dataset: Dataset) -> None:
    champion, candidate = descriptors(dataset, 1.5, 1), descriptors(dataset, 1.0, 2)
    indexes = dict(zip(("query", "gallery"), dataset.indexes("query", "gallery"), strict=True))
    scores = [evaluated(dataset, model).metrics for model in (champion, candidate)]
    for mode in compare(PROTOCOLS["ltcc"], indexes, champion, candidate, dataset.manifest, confidence=0.95):
        assert list(mode.differences) == ["mAP", "rank-1", new]
        difference, name = mode.differences[new], f"{mode.mode.name}/{new}"
        assert [difference.champion, difference.candidate] == pytest.approx([one[name] for one in scores])
        assert difference.low <= difference.delta <= difference.high


def test_a_new_measure_is_listed_of_a_run(new: str) -> None:
    names = [f"general/{new}", "general/rank-20", "loss/identity", f"system/{new}", f"speed/{new}"]
    data = RunData([Metric(name, 0.25, 0, 0) for name in names], tags=[RunTag("storage", "somewhere")])
    info = RunInfo("run", "0", "user", "FINISHED", 0, 1, "active", run_name="a run")
    assert runs.summary(Run(info, data), "redress")["metrics"] == {f"general/{new}": 0.25, "general/rank-20": 0.25}


def test_a_new_measure_is_shown_in_tables_and_on_the_model_card(new: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_metrics("evaluation", {"general/mAP": 0.5, "general/rank-20": 0.75, f"general/{new}": 0.123})
    shown = capsys.readouterr().out
    assert new in shown
    assert "12.3" in shown
    assert "rank-20" not in shown
    scores = {"general/mAP": 0.5, "general/rank-20": 0.75, f"general/{new}": 0.123, DISTANCES[0]: 0.3}
    card = model_card.results(scores)
    assert card == f"| mode | rank-20 | mAP | {new} |\n|---|---:|---:|---:|\n| general | 75.0 | 50.0 | 12.3 |"


def test_the_table_is_read_without_importing_torch() -> None:
    """`redress runs list` reads it."""
    check = "import sys, orchestration.measures; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_metrics_that_are_no_measures_have_no_mode() -> None:
    names = ["general/mAP", "distance/delta", "general/rank-1", "clothes-changing-head/mAP", "speed", "loss/model"]
    assert modes_of(names) == ["general", "clothes-changing-head"]
