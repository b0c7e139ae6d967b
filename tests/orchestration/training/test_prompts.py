"""Methods of prompts, as a user trains them: what their data must have, their weights and their first stage, checked early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from datasets.shards.dataset import Dataset, write_dataset
from datasets.storage.store import open_store
from methods import ccaf
from methods.backbones.clip.image_tower import ImageTower
from methods.backbones.clip.prompts import VOCABULARY
from methods.backbones.clip.sizes import TOWERS
from methods.backbones.clip.text_tower import TextTower
from orchestration.cli.main import failure
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.registry import register
from orchestration.sweeps.settings import SweepSettings, plan
from orchestration.tracking.journal import read_steps
from orchestration.training.preparation import fetch_backbone, prepare
from orchestration.training.train import train
from orchestration.training.worker import WorkerConfig, run
from orchestration.tuning.tune import check_on_data
from tests.tiny import tiny_dataset, tiny_samples

RECIPES = ("ccaf-prcc", "clip-reid-prcc")
WIDTH = 1 / 16


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As Market-1501: no outfits, no masks, distractors in the gallery, junk beside it."""
    address = tmp_path_factory.mktemp("data") / "market"
    splits = {
        split: [
            replace(one, parsing=None, clothes=None, camera=str(1 + number % 6)) for number, one in enumerate(found)
        ]
        for split, found in (
            ("train", tiny_samples("train", persons=16, clothes=2, images=2)),
            ("query", tiny_samples("query")),
            ("gallery", tiny_samples("gallery")),
        )
    }
    extra = list(tiny_samples("distractors", persons=1, clothes=2, images=1))
    for split, person in (("gallery", "0000"), ("junk", "-1")):
        splits[split] = [
            *(replace(one, person=person, parsing=None, clothes=None, key=f"{split}-{one.key}") for one in extra),
            *splits.get(split, ()),
        ]
    write_dataset(
        str(address), splits, name="Market-1501", version="1", licence="drawn for tests", label_map=None,
        protocol="market1501",
    )  # fmt: skip
    return str(address)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As PRCC, with masks and clothes labels."""
    return tiny_dataset(tmp_path_factory.mktemp("data") / "prcc", persons=16, clothes=2, images=2, splits="prcc")


def small(recipe: str, data: str, storage: Path, *overrides: str) -> Experiment:
    words = [
        f"data={data}",
        f"storage={storage / 'runs'}",
        f"method.width={WIDTH}",
        "augment={height: 32, width: 16, pad: 2}",
    ]
    words += [
        "batch={people: 8, images: 2, lanes: 2}",
        "epochs=2",
        "method.encoder_from_epoch=1",
        "method.prompt_batch=16",
    ]
    return load(recipe, [*words, "threads=1", "weights=null", *overrides])


def trained(wanted: Experiment, folder: Path) -> str:
    """What a worker does, without Ray."""
    store = open_store(str(folder))
    run(WorkerConfig(wanted.resolved(), store.address, prepare(wanted).facts), store, torch.device("cpu"))
    return store.address


def refused(told: str, wanted: Experiment, storage: Path) -> None:
    """Ends with exit status 2 and one message that says `told`, before there is a run."""
    with pytest.raises(RequestError, match=told) as raised:
        train(wanted)
    assert failure(raised.value)["status"] == 2
    assert not (storage / "runs").exists()


# What the data must have


def test_the_recipe_for_market_1501_passes_every_check_on_such_data(market: str) -> None:
    prepared = prepare(load("clip-reid-market1501", [f"data={market}"]))
    assert prepared.facts["clothes_owner"].tolist() == []
    assert (prepared.facts["num_images"], prepared.facts["num_persons"], prepared.facts["label_map"]) == (64, 16, None)
    assert prepared.num_steps == 120 + 60  # 64 rows, and 16 people × 4 images


def test_clip_reid_trains_both_stages_on_data_without_masks_and_outfits(market: str, tmp_path: Path) -> None:
    address = trained(small("clip-reid-market1501", market, tmp_path), tmp_path / "run")
    steps = [record for _, record in read_steps(open_store(address))]
    assert list(dict.fromkeys(step["stage"] for step in steps)) == ["prompts", "fine-tuning"]
    assert {name for name in steps[0]["metrics"] if name.startswith("loss/")} == {
        "loss/prompts",
        "loss/prompts-persons",
    }
    assert {name for name in steps[-1]["metrics"] if name.startswith("loss/")} == {
        "loss/model", "loss/identity", "loss/triplet", "loss/text",
    }  # fmt: skip
    found = checkpoint.find(address)
    kinds = {name.partition(".")[0] for name in checkpoint.load_tensors(found, checkpoint.FILES[0])}
    assert kinds == {"encoder", "classifier", "text", "prompts"}


@pytest.mark.system  # it needs no server, and takes as long as one
@pytest.mark.timeout(300)
def test_clip_reid_is_trained_scored_and_registered_on_data_as_market_1501(
    market: str, place: Path, ray_cluster: str
) -> None:
    words = ["workers=2", "resources.cpus=0.5", "register=clip-reid"]
    result = train(small("clip-reid-market1501", market, place, *words))
    assert {name.partition("/")[0] for name in result["metrics"] if name.endswith("/mAP")} == {"general"}
    files = [sample.image for sample in Dataset.open(market).samples("query")]
    found: Any = register.load(result["model"]).predict({"bytes": files})
    assert found.shape == (len(files), 48 + 32)  # 768 ++ 512 at a sixteenth of the width


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        (["method.image_alignment=true"], ("masks",)),
        (["method.shown_to_prompts=shielding"], ("masks",)),
        (["method.clothes_minimisation=true"], ("masks", "clothes")),
        (["method.clothes_minimisation=true", "method.clothes_targets=one-hot"], ("clothes",)),
    ],
)
def test_what_more_settings_need_is_said_before_a_worker_starts(
    changes: list[str], lacks: tuple[str, ...], market: str, tmp_path: Path
) -> None:
    has_projection = "method.clothes_minimisation=true" in changes
    changes = [*changes, *["optimizers.projection={name: adam, lr: 1.0e-4}"] * has_projection]
    wanted = small("clip-reid-market1501", market, tmp_path, *changes)
    told = {"masks": "'ccaf' needs parsing masks", "clothes": "'ccaf' needs clothes labels, and 64 of 64"}
    refused("(?s)" + ".*".join(told[one] for one in lacks), wanted, tmp_path)
    with pytest.raises(RequestError) as raised:
        prepare(wanted)
    assert [told[one] in str(raised.value) for one in told] == [one in lacks for one in told]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_table_or_prompts_that_no_worker_can_hold_are_refused_before_a_worker_starts(
    recipe: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, views = small(recipe, data, tmp_path), 2 if recipe == "ccaf-prcc" else 1
    monkeypatch.setattr(ccaf, "MOST_TABLE_BYTES", 4 * 32 * views * 64 - 1)
    refused(rf"^data {data}: features of 64 images, {views} × 32 numbers each, take .*fewer images", wanted, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(ccaf, "MOST_CLASSES", 15)
    refused(rf"^data {data}: (48 persons and outfits|16 persons) need a prompt each.*fewer people", wanted, tmp_path)


@pytest.mark.parametrize(
    ("over", "most_classes", "told"),
    [
        ("method.image_alignment=[false, true]", 50_000, "with True, .*'ccaf' needs parsing masks"),
        ("method.prompt_tokens=[2, 4]", 15, "with 2, .*16 persons need a prompt each"),
    ],
)
def test_what_the_values_of_a_sweep_need_is_said_before_a_trial_starts(
    over: str, most_classes: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = ("train", "query", "gallery", "val_query", "val_gallery")
    bare = tiny_dataset(tmp_path / "bare", persons=16, images=2, splits=splits, parsing=False)
    wanted = small("clip-reid-ltcc", bare, tmp_path)
    planned, prepared = plan(wanted, SweepSettings(over=(over,))), prepare(wanted)
    monkeypatch.setattr(ccaf, "MOST_CLASSES", most_classes)
    with pytest.raises(RequestError, match=rf"--over {over.partition('=')[0]}: {told}"):
        check_on_data(planned, prepared)


# Weights


def published(factor: float = WIDTH) -> dict[str, Tensor]:
    torch.manual_seed(5)
    size = TOWERS["vit-b16"].scaled(factor)
    image, text = ImageTower(size), TextTower(size, VOCABULARY)
    return {f"visual.{key}": value for key, value in image.state_dict().items()} | text.state_dict()


def of_another_grid(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"visual.positional_embedding": state["visual.positional_embedding"][: 1 + 7 * 7].clone()}


def without_text(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith("visual.")}


def of_another_width(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return published(2 * WIDTH)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (of_another_grid, r"image tower of these weights \(OpenAI's names\) is of another size: grid 7 × 7, expected 14 × 14"),
        (of_another_width, r"image tower of these weights .* is of another size: width 96, expected 48"),
        (without_text, r"these weights .* have no text tower.*token_embedding"),
        (None, r"cannot be read .*Expected 'published', or the path"),
    ],
    ids=["grid", "width", "text tower", "absent"],
)  # fmt: skip
def test_weights_that_do_not_fit_or_are_not_there_are_refused_before_a_worker_starts(
    recipe: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None, told: str, data: str, tmp_path: Path
) -> None:
    file = tmp_path / "clip.safetensors"
    if change:
        safetensors.torch.save_file(change(published()), file)
    refused(rf"(?s)^weights = {file}: .*{told}", small(recipe, data, tmp_path, f"weights={file}"), tmp_path)


def test_weights_that_fit_are_what_both_recipes_start_from(data: str, tmp_path: Path) -> None:
    state, file = published(), tmp_path / "clip.safetensors"
    safetensors.torch.save_file(state, file)
    for recipe in RECIPES:
        prepared = prepare(small(recipe, data, tmp_path, f"weights={file}"))
        fetched = fetch_backbone(prepared)
        assert fetched is not None
        method = build.build_method(prepared.experiment, prepared.facts)
        method.load_backbone(safetensors.torch.load(fetched))
        own = method.state_dict()
        assert torch.equal(own["encoder.tower.conv1.weight"], state["visual.conv1.weight"])
        assert torch.equal(own["text.text_projection"], state["text_projection"])


# The first stage of another run


@pytest.mark.parametrize("recipe", RECIPES)
def test_prompts_of_other_data_are_refused_before_a_worker_starts(recipe: str, data: str, tmp_path: Path) -> None:
    """As many people in as many clothes: every shape fits."""
    first = trained(small(recipe, data, tmp_path, "until=prompts"), tmp_path / "first")
    other = tiny_dataset(tmp_path / "other", persons=16, clothes=2, images=2, splits="prcc", seed=1)
    assert Dataset.open(other).fingerprint != Dataset.open(data).fingerprint
    told = rf"init_from = {first}@prompts: stage 'prompts' was trained on other data than {other}"
    refused(told, small(recipe, other, tmp_path, f"init_from={first}@prompts"), tmp_path)
