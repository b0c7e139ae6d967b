"""An experiment is a recipe and overrides, checked as a whole: every mistake is told at once, with its mend."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError

from datasets.augment import Augmentation
from methods import METHODS
from methods.clothes_sampling import ClothesSampling
from orchestration import assembly
from orchestration.demo import demo_recipes
from orchestration.errors import RequestError
from orchestration.experiment import Experiment, load, override, recipes
from orchestration.recipes import FOLDER, summary
from orchestration.settings import SGD, Adam, AugmentSettings, ClothesSamplingSettings
from tests import golden

DATA = "data=s3://reid/ltcc"


def complaint(*words: str, name: str = "cal-ltcc", data: bool = True) -> str:
    """What `load` says."""
    with pytest.raises(RequestError) as raised:
        load(name, [*([DATA] if data else []), *words])
    return str(raised.value)


def line(report: str, key: str) -> str:
    """The report's line about a key."""
    found = [row for row in report.splitlines() if re.match(rf"  {re.escape(key)}( |$)", row)]
    assert len(found) == 1, report
    return found[0]


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_an_experiment_that_survives_storage(name: str) -> None:
    experiment = load(name, [DATA])
    resolved = json.loads(json.dumps(experiment.resolved()))
    assert Experiment.from_resolved(resolved) == experiment
    assert override(resolved, []) == experiment
    assert experiment.name == name


def test_every_method_has_a_recipe() -> None:
    assert {load(name, [DATA]).method.name for name in recipes()} == set(METHODS)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_opens_with_what_it_is_and_its_command(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert len(summary(name)) > 20
    assert f"redress train {name} data=" in text


@pytest.mark.parametrize("name", ["cal-ltcc", "cal-prcc", "baseline-ltcc", "baseline-prcc"])
def test_papers_recipes_have_the_papers_numbers(name: str) -> None:
    experiment = load(name, [DATA])
    assert (experiment.augment.height, experiment.augment.width) == (384, 192)
    assert (experiment.batch.people, experiment.batch.images, experiment.epochs) == (8, 8, 60)
    model = experiment.optimizers["model"]
    assert (model.name, model.lr, model.weight_decay) == ("adam", 3.5e-4, 5e-4)
    rates = [model.lr * assembly.factor(model.schedule, epoch, 60) for epoch in (0, 19, 20, 39, 40, 59)]
    assert rates == pytest.approx([3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6])
    method = experiment.resolved()["method"]
    assert method["label_smoothing"] == 0.1
    if method["name"] == "cal":
        assert (method["tau"], method["epsilon"], method["adversarial_from_epoch"]) == (1 / 16, 0.1, 25)
        assert experiment.optimizers["clothes_classifier"].schedule is None


@pytest.mark.parametrize("name", ["cal-ccvid", "baseline-ccvid"])
def test_papers_recipes_for_video_have_the_papers_numbers(name: str) -> None:
    experiment = load(name, [DATA])
    batch, augment = experiment.batch, experiment.augment
    assert (augment.height, augment.width, augment.flip) == (256, 128, 0.5)
    assert (augment.pad, augment.enlarge, augment.crop_probability, augment.erase) == (0, 1, 0, 0)
    assert batch.clip is not None
    assert (batch.people, batch.images, batch.clip.length, batch.clip.stride) == (8, 4, 8, 4)
    assert (experiment.epochs, experiment.evaluate.flip) == (150, False)
    model = experiment.optimizers["model"]
    rates = [model.lr * assembly.factor(model.schedule, epoch, 150) for epoch in (39, 40, 79, 80, 119, 120)]
    assert rates == pytest.approx([3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6, 3.5e-7])
    method = experiment.resolved()["method"]
    assert (method["label_smoothing"], method["pooling"]) == (0, "max")
    assert method.get("adversarial_from_epoch", 50) == 50


def test_the_recipe_of_pixel_sampling_has_the_papers_numbers_and_the_codes_schedule() -> None:
    experiment = load("pixel-sampling-prcc", [DATA])
    assert (experiment.augment.height, experiment.augment.width, experiment.epochs) == (256, 128, 60)
    assert (experiment.batch.people, experiment.batch.images, experiment.weights) == (16, 4, "imagenet")
    model = experiment.optimizers["model"]
    assert (model.name, model.lr, model.momentum, model.weight_decay) == ("sgd", 3.5e-3, 0.9, 5e-4)
    (case,) = (case for case in golden.load_if_there("schedules") if case.id == "sps_schedule")
    factors = [assembly.factor(model.schedule, epoch, 60) for epoch in range(60)]
    case.check("lr_factor", torch.tensor(factors, dtype=torch.float64))


def test_demo_recipes_run_on_one_two_and_four_workers() -> None:
    for name in ("baseline-demo", "cal-demo"):
        for workers in (1, 2, 4):
            assert load(name, [DATA, f"workers={workers}"]).workers == workers


def test_nothing_changes_after_validation() -> None:
    experiment = load("cal-demo", [DATA])
    with pytest.raises(ValidationError, match="frozen"):
        experiment.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        experiment.method.tau = 1.0  # type: ignore[attr-defined]


def test_overrides_are_yaml_and_the_last_one_counts() -> None:
    words = ["epochs=30", "epochs=40", "batch.window=4", "batch={people: 16, images: 4, lanes: 4}", "register='2024'"]
    experiment = load("cal-ltcc", [DATA, *words, "optimizers.model.lr=1e-3", "select=last", "checkpoint.keep="])
    assert experiment.epochs == 40
    assert (experiment.batch.people, experiment.batch.images, experiment.batch.window) == (16, 4, "all")
    assert experiment.register_as == "2024"
    assert experiment.optimizers["model"].lr == 1e-3
    assert experiment.checkpoint.keep is None


def test_an_optimizer_is_taken_out_with_null() -> None:
    words = ["method.proxies=memory", "optimizers.clothes_classifier=null"]
    assert set(load("cal-ltcc", [DATA, *words]).optimizers) == {"model"}


def test_paths_become_absolute_and_addresses_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = load("cal-ltcc", ["data=some/data", "init_from=old/run"])
    assert experiment.data == str(tmp_path / "some/data")
    assert experiment.storage == str(tmp_path / "runs")
    assert experiment.init_from == str(tmp_path / "old/run")
    for no_path in ("0123456789abcdef" * 2, "models:/cal-ltcc@candidate"):
        assert load("cal-ltcc", ["data=d", f"init_from={no_path}"]).init_from == no_path
    assert experiment.weights == "imagenet"
    assert load("cal-ltcc", [DATA, "storage=s3://reid/runs"]).storage == "s3://reid/runs"


def test_a_recipe_may_lie_anywhere(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text((FOLDER / "cal-demo.yaml").read_text() + f"\n{DATA.replace('=', ': ')}\n")
    experiment = load(str(mine))
    assert experiment.name == "mine"
    assert experiment.data == "s3://reid/ltcc"


# What is wrong with the request


def test_all_mistakes_come_in_one_report_with_value_source_and_mend() -> None:
    report = complaint("method.epsilonn=0.2", "workers=5", data=False)
    assert report.startswith("experiment cal-ltcc has 3 mistakes\n")
    epsilon = line(report, "method.epsilonn = 0.2")
    assert "(command line)" in epsilon
    assert '"cal" has no such setting; it has backbone' in epsilon
    assert epsilon.endswith("Meant epsilon?")
    workers = line(report, "workers = 5")
    assert (
        "8 people × 8 images do not divide over 5 workers. Set workers to 1, 2, 4 or 8, or batch.people to 5 or 10"
        in (workers)
    )
    assert "is needed" in line(report, "data")
    assert "data=FOLDER or data=s3://" in line(report, "data")


def test_an_unknown_experiment_is_answered_with_the_likely_one_and_the_list() -> None:
    with pytest.raises(
        RequestError, match=r"no experiment 'cal-lttc'\. Meant cal-ltcc\? There are baseline-.*cal-prcc"
    ):
        load("cal-lttc")
    with pytest.raises(RequestError, match=r"no experiment 'nowhere\.yaml'"):
        load("nowhere.yaml")


def test_a_key_at_the_wrong_place_is_answered_with_the_right_one() -> None:
    assert line(complaint("people=4"), "people = 4").endswith("Meant batch.people?")
    assert "Meant optimizers.model.momentum" not in complaint("momentum=0.9")
    assert line(complaint("sede=4"), "sede = 4").endswith("Meant seed?")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("epochs=many", "expected a whole number"),
        ("epochs='8'", "expected a whole number"),
        ("epochs=true", "expected a whole number"),
        ("seed=1.5", "expected a whole number"),
        ("epochs=0", "must be at least 1"),
        ("augment.flip=1.5", "must be at most 1"),
        ("optimizers.model.lr=-1", "must be above 0"),
        ("method.tau=x", "expected a number"),
        ("method.tau=0", "must be above 0"),
        ("sync_batch_norm=maybe", "expected true or false"),
        ("register=3", "expected text (in quotes where it reads as a number)"),
        ("register=a/b", "neither / nor :"),
        ("batch=8", "expected settings (key: value)"),
        ("batch.window=al", "expected a whole number or all. Meant all?"),
        ("batch.sampler=distnct", "expected distinct, chunks or appearance. Meant distinct?"),
        ("precision=float16", "expected float32, bfloat16 or float64. Meant bfloat16?"),
        ("resources.gpu=yess", "expected true or false or auto"),
        ("stream.cache_bytes=1GX", "expected a size such as 512MiB"),
        ("stream.disk_cache=cache", "an absolute folder on the workers' own disks"),
        ("stream.disk_cache=s3://reid/cache", "an absolute folder on the workers' own disks"),
        ("stream.disk_cache_bytes=1", "must be at least"),
        ("select=best", "best:val_query/clothes-changing/mAP"),
        ("method.name=call", "Meant cal?"),
        ("method.backbone=resnet20", "expected resnet18, resnet34, resnet50 or resnet101"),
        ("optimizers.model.name=sdg", "expected adam, adamw or sgd. Meant sgd?"),
        ("optimizers.model.schedule.milestones=[20, x]", "item 2: expected a whole number"),
        ("optimizers.model.schedule.name=cosin", "Meant cosine?"),
        ("augment.erase_area=[0.1]", "item 2: is needed as well"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(word: str, told: str) -> None:
    report = complaint(word)
    assert report.startswith("experiment cal-ltcc has a mistake\n"), report
    row = line(report, word.partition("=")[0])
    assert "(command line)" in row
    assert told in row


def test_what_the_file_says_is_blamed_on_the_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("method: {name: baseline}\noptimizers: {model: {name: adam, lr: 1e-3}}\nepochs: ten\n")
    report = complaint(name=str(mine))
    assert "experiment mine has a mistake" in report
    assert "(mine.yaml)" in line(report, "epochs = ten")


def test_settings_of_another_method_or_optimizer_are_no_settings_of_this_one() -> None:
    assert '"adam" has no such setting' in line(complaint("optimizers.model.momentum=0.9"), "optimizers.model.momentum")
    report = complaint("method.name=baseline")
    assert '"baseline" has no such setting' in line(report, "method.tau = 0.0625")


def test_what_a_method_itself_refuses_is_in_the_report() -> None:
    report = complaint("method.proxies=memory", "method.objective=negative", "optimizers.clothes_classifier=null")
    assert 'set proxies to "classifier" or objective to "cal"' in line(report, "method")


@pytest.mark.parametrize("word", ["--foo", "epochs", "=3", "a b=3"])
def test_words_that_are_no_overrides_are_named(word: str) -> None:
    assert "is no override: expected key=value" in line(complaint(word), word)


def test_values_that_are_no_yaml_or_go_below_a_value_are_named() -> None:
    assert "is no YAML" in line(complaint("batch={people: 8"), "batch={people: 8")
    assert "epochs is 60, which has no settings of its own" in line(complaint("epochs.x=3"), "epochs.x = 3")


def test_files_that_are_no_recipes_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    for content, told in (
        ("method: [", r"no YAML: .*line \d+, column"),
        ("- a\n- b\n", "holds list, expected an experiment's settings"),
        ("epochs: 1\nepochs: 2\n", r"'epochs' stands there twice \(line 2"),
        ("", "holds NoneType"),
    ):
        broken.write_text(content)
        with pytest.raises(RequestError, match=f"broken.yaml: .*{told}"):
            load(str(broken))


# What cannot be together


def test_lanes_divide_people_and_workers_divide_lanes() -> None:
    report = complaint("batch.people=12", "workers=2")
    assert "12 people × 8 images do not divide over 8 lanes of whole people" in line(report, "batch.people = 12")
    assert "Set batch.lanes to 2, 4, 6 or 12, or batch.people to 8 or 16" in report
    report = complaint("batch.people=12", "batch.lanes=4", "workers=3")
    assert "4 lanes do not divide over 3 workers. Set workers to 1, 2 or 4, or batch.lanes to 3, 6 or 12" in (
        line(report, "workers = 3")
    )


def test_a_mend_is_a_mend() -> None:
    """What the messages about batches advise is accepted."""
    for words in (
        ["workers=5", "batch.people=10", "batch.lanes=5"],
        ["batch.people=12", "workers=2", "batch.lanes=6"],
        ["batch.people=12", "workers=3", "batch.lanes=12"],
        ["epochs=20", "method.adversarial_from_epoch=19"],
        ["select=best:val_query/clothes-changing/mAP", "checkpoint.keep=null"],
        ["select=best:query/general/rank-1", "select_on_test=true", "checkpoint.keep=null"],
        ["method.width=0.5", "weights=null"],
    ):
        load("cal-ltcc", [DATA, *words])


def test_outfits_are_asked_of_the_sampler_that_minds_them() -> None:
    report = complaint("batch.appearances=2")
    assert "sampler 'chunks' minds no outfits" in line(report, "batch.appearances = 2")
    assert "Set batch.appearances=null, or batch.sampler=appearance" in report
    assert "Set batch.appearances=2" in line(complaint("batch.sampler=appearance"), "batch.sampler = appearance")
    report = complaint("batch.sampler=appearance", "batch.appearances=9")
    assert "8 images of a person cannot show 9 outfits" in line(report, "batch.appearances = 9")
    assert "Set batch.appearances to at most 8, or batch.images to at least 9" in report
    load("cal-ltcc", [DATA, "batch.sampler=appearance", "batch.appearances=2"])


def test_clips_are_for_methods_that_take_them() -> None:
    for name, method in METHODS.items():
        recipe = next(r for r in recipes() if load(r, [DATA]).method.name == name)
        if method.takes_clips:
            assert load(recipe, [DATA, "batch.clip={length: 4}"]).batch.clip is not None
        else:
            with pytest.raises(RequestError, match=r"takes images, not clips. Set batch.clip=null.*cal"):
                load(recipe, [DATA, "batch.clip={length: 4}"])


@pytest.mark.parametrize("given", ["null", "{beside: false}"])
def test_other_clothes_come_where_a_method_compares_them(given: str) -> None:
    with pytest.raises(RequestError) as raised:
        load("pixel-sampling-prcc", [DATA, f"augment.clothes_sampling={given}"])
    told = line(str(raised.value), "augment.clothes_sampling")
    assert "compares each image with the same in other clothes. Set augment.clothes_sampling={}" in told
    assert told.endswith("or method.consistency_weight=0")
    load("pixel-sampling-prcc", [DATA, f"augment.clothes_sampling={given}", "method.consistency_weight=0"])
    load("cal-prcc", [DATA, f"augment.clothes_sampling={given}"])


def test_a_stage_that_would_never_come_is_no_stage() -> None:
    report = complaint("epochs=20")
    assert "stage 'adversarial' begins at epoch 25 of 0 … 19 and would never come" in line(report, "epochs = 20")
    assert "Set method.adversarial_from_epoch below 20, or epochs above 25" in report
    assert line(complaint("method.adversarial_from_epoch=60"), "method.adversarial_from_epoch = 60")


def test_optimizers_are_those_that_the_method_trains() -> None:
    report = complaint("optimizers.clothes_classifier=null", "optimizers.head={name: sgd, lr: 0.1}")
    assert '"cal" trains it. Set optimizers.clothes_classifier.name=adam' in line(
        report, "optimizers.clothes_classifier"
    )
    assert "Set optimizers.head=null" in line(report, "optimizers.head")


def test_choosing_by_the_test_set_is_said_openly() -> None:
    report = complaint("select=best:query/general/rank-1", "checkpoint.keep=null")
    assert "'query' is of the test set" in report
    assert "select_on_test=true" in report
    assert "selects nothing" in line(complaint("select_on_test=true"), "select_on_test = true")
    report = complaint("select=best:val_query/general/rank-1", "select_on_test=true", "checkpoint.keep=null")
    assert "not of the test set" in line(report, "select_on_test = true")


def test_checkpoints_to_choose_from_are_kept() -> None:
    assert "Set checkpoint.keep=null" in complaint("select=best:val_query/general/rank-1")


def test_published_weights_fit_published_shapes_alone() -> None:
    assert "Set weights=null" in complaint("method.width=0.5")


def test_a_mistake_hides_no_other_and_brings_no_more() -> None:
    report = complaint("method.name=call", "precision=float16", "workers=3", "foo=1")
    keys = [row.split()[0] for row in report.splitlines()[1:]]
    assert sorted(keys) == ["foo", "method.name", "precision", "workers"]


def test_overriding_a_stored_experiment_blames_words_and_run() -> None:
    stored = load("cal-demo", [DATA]).resolved()
    assert override(stored, ["evaluate.batch=7"]).evaluate.batch == 7
    with pytest.raises(
        RequestError, match=r"experiment cal-demo has a mistake\n  evaluate.batch = x +\(command line\)"
    ):
        override(stored, ["evaluate.batch=x"])
    with pytest.raises(RequestError, match=r"tau = no +\(the run\)"):
        override(stored | {"method": {"name": "cal", "tau": "no"}}, [], source="the run")


def test_an_experiment_of_another_version_says_so() -> None:
    stored = load("cal-demo", [DATA]).resolved()
    with pytest.raises(RequestError, match=r"another version of redress \(frobnicate"):
        Experiment.from_resolved(stored | {"frobnicate": 1})


# Settings that stand for something elsewhere


def test_augmentation_settings_are_those_of_the_transform() -> None:
    there = {field.name: field.default for field in fields(Augmentation)}
    ours = {name: field.default for name, field in AugmentSettings.model_fields.items() if name != "clothes_sampling"}
    assert set(ours) == set(there)
    assert {name: value for name, value in ours.items() if name not in ("height", "width")} == {
        name: value for name, value in there.items() if name not in ("height", "width")
    }


def test_clothes_sampling_settings_are_those_of_the_sampler() -> None:
    there = {field.name: field.default for field in fields(ClothesSampling) if field.name != "part_of_label"}
    assert {name: field.default for name, field in ClothesSamplingSettings.model_fields.items()} == there


def test_every_named_optimizer_can_be_built() -> None:
    names = {name for model in (Adam, SGD) for name in get_args(model.model_fields["name"].annotation)}
    assert names == set(assembly.OPTIMIZERS)


def test_the_demo_trains_recipes_that_there_are() -> None:
    assert len(demo_recipes()) > 1
    assert set(demo_recipes()) <= set(recipes())
