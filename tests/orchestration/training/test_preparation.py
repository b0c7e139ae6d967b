"""What the data lack for an experiment, and the batch that they would serve. Also: `test_bad_input.py`, `test_resume.py`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from datasets.shards.dataset import SplitIndex
from datasets.synthetic.presets import PRESETS
from orchestration.config.load import load
from orchestration.training.preparation import fitting, lacking


@pytest.mark.parametrize("persons", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("batch", [(8, 8, 1), (8, 8, 2), (8, 4, 4), (9, 3, 3), (8, 2, 2)])
def test_a_smaller_batch_that_is_proposed_fits(batch: tuple[int, int, int], persons: int) -> None:
    people, lanes, workers = batch
    words = ["data=/given", f"batch.people={people}", f"batch.lanes={lanes}", f"workers={workers}"]
    proposed = fitting(load("cal-demo", words), persons)
    fits = load("cal-demo", [*words, *proposed])
    [now] = fits.group_sizes()
    assert persons - now < fits.batch.people <= persons
    assert now == min(workers, persons)


def test_a_smaller_batch_for_a_range_of_workers_keeps_its_smallest_group() -> None:
    words = ["data=/given", "batch={people: 12, images: 2, lanes: 12}", "workers={min: 2, max: 4}"]
    proposed = fitting(load("cal-demo", words), 7)
    assert proposed == ["batch.people=6", "batch.lanes=6"]
    assert load("cal-demo", [*words, *proposed]).group_sizes() == (2, 3)


def test_everything_that_data_lacks_is_said_at_once() -> None:
    """The smallest rendered people without masks and outfits, for a method that needs both, in too large a batch."""
    smallest = PRESETS["tiny"].train_persons
    index = cast("SplitIndex", SimpleNamespace(has_parsing=False, has_clothes=False, num_persons=smallest, clothes=None,
                                               lacking=lambda column: "3 of 9 images"))  # fmt: skip
    found = list(lacking(load("ifd-demo", ["data=/given"]), index))
    assert "needs parsing masks" in found[0]
    assert "needs clothes labels, and 3 of 9 images of split 'train' have none" in found[1]
    assert len(found) == 3
    assert fitting(load("cal-demo", ["data=/given"]), smallest) == ["batch.people=6", "batch.lanes=6"]
    assert found[-1].endswith(f"split 'train' has {smallest}. Set batch.people=6 batch.lanes=6.")


def test_the_smoke_recipe_fits_the_smallest_rendered_people() -> None:
    recipe, tiny = load("smoke", ["data=/given"]), PRESETS["tiny"]
    assert recipe.batch.people == tiny.train_persons
    assert (recipe.augment.height, recipe.augment.width) == (tiny.height, tiny.width)
    assert list(lacking(recipe, cast("SplitIndex", SimpleNamespace(has_clothes=True, num_persons=6)))) == []
