"""An experiment is a recipe and overrides, checked as a whole: every mistake is told at once, with its mend."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.store.artifact.utils.models import _parse_model_uri
from pydantic import ValidationError

from datasets.images.augment import Augmentation
from methods.clothes_sampling import ClothesSampling
from orchestration.config import build
from orchestration.config.load import Experiment, load, override
from orchestration.config.recipes import FOLDER
from orchestration.config.settings import SGD, Adam, AugmentSettings, ClothesSamplingSettings, is_model_name
from orchestration.errors import RequestError
from tests.orchestration.config.complaints import DATA, complaint, line


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
    assert report.startswith("experiment cal-ltcc has 3 errors\n")
    epsilon = line(report, "method.epsilonn = 0.2")
    assert "(command line)" in epsilon
    assert '"cal" has no such setting; it has backbone' in epsilon
    assert epsilon.endswith("Did you mean epsilon?")
    workers = line(report, "workers = 5")
    assert (
        "5 workers cannot share 8 people × 8 images equally. Set workers to 1, 2, 4 or 8, or batch.people to 5 or 10"
        in (workers)
    )
    assert "is required" in line(report, "data")
    assert "data=FOLDER or data=s3://" in line(report, "data")


def test_an_unknown_experiment_is_answered_with_the_likely_one_and_the_list() -> None:
    with pytest.raises(
        RequestError, match=r"no experiment 'cal-lttc'\. Did you mean cal-ltcc\? Choose baseline-.*cal-prcc"
    ):
        load("cal-lttc")
    with pytest.raises(RequestError, match=r"no experiment 'nowhere\.yaml'"):
        load("nowhere.yaml")


def test_a_key_at_the_wrong_place_is_answered_with_the_right_one() -> None:
    assert line(complaint("people=4"), "people = 4").endswith("Did you mean batch.people?")
    assert "Did you mean optimizers.model.momentum" not in complaint("momentum=0.9")
    assert line(complaint("sede=4"), "sede = 4").endswith("Did you mean seed?")


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
        ("register='a?b#c'", "nor ? nor # nor @"),
        ("register=a@b", "nor ? nor # nor @"),
        ("register='a\tb'", "neither / nor :"),
        ("register=' a'", "no blanks around it"),
        ("batch=8", "expected settings (key: value)"),
        ("batch.window=al", "expected a whole number or all. Did you mean all?"),
        ("batch.sampler=distnct", "expected distinct, chunks or appearance. Did you mean distinct?"),
        ("precision=float16", "expected float32, tf32, bfloat16 or float64. Did you mean bfloat16?"),
        ("resources.gpu=yess", "expected true or false or auto"),
        ("stream.cache_bytes=1GX", "expected a size such as 512MiB"),
        ("stream.disk_cache=cache", "an absolute folder on the workers' own disks"),
        ("stream.disk_cache=s3://reid/cache", "an absolute folder on the workers' own disks"),
        ("stream.disk_cache=S3://reid/cache", "an absolute folder on the workers' own disks"),
        ('stream.disk_cache="/var/tmp "', "blanks around the address"),
        ('stream.disk_cache="/var/\\u0007"', "a control character"),
        ("stream.disk_cache=file:///var/ca%23che?x", "write %3F"),
        ("stream.disk_cache_bytes=1", "must be at least"),
        ("select=best", "best:val_query/clothes-changing/mAP"),
        ("method.name=call", "Did you mean cal?"),
        ("method.backbone=resnet20", "expected resnet18, resnet34, resnet50 or resnet101"),
        ("optimizers.model.name=sdg", "expected adam, adamw or sgd. Did you mean sgd?"),
        ("optimizers.model.schedule.milestones=[20, x]", "item 2: expected a whole number"),
        ("optimizers.model.schedule.name=cosin", "Did you mean cosine?"),
        ("augment.erase_area=[0.1]", "item 2: is required as well"),
    ],
)
def test_a_wrong_value_is_told_with_what_is_allowed(word: str, told: str) -> None:
    report = complaint(word)
    assert report.startswith("experiment cal-ltcc has 1 error\n"), report
    row = line(report, word.partition("=")[0])
    assert "(command line)" in row
    assert told in row


def test_what_the_file_says_is_blamed_on_the_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("method: {name: baseline}\noptimizers: {model: {name: adam, lr: 1e-3}}\nepochs: ten\n")
    report = complaint(name=str(mine))
    assert "experiment mine has 1 error" in report
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
    assert "is not an override: expected key=value" in line(complaint(word), word)


def test_values_that_are_no_yaml_or_go_below_a_value_are_named() -> None:
    assert "is not valid YAML" in line(complaint("batch={people: 8"), "batch={people: 8")
    assert "epochs is 60, which is not a group of settings" in line(complaint("epochs.x=3"), "epochs.x = 3")


def test_files_that_are_no_recipes_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    for content, told in (
        ("method: [", r"invalid YAML: .*line \d+, column"),
        ("- a\n- b\n", r"expected an experiment\'s settings \(key: value\), found list"),
        ("epochs: 1\nepochs: 2\n", r"duplicate key 'epochs' \(line 2"),
        ("", "found NoneType"),
    ):
        broken.write_text(content)
        with pytest.raises(RequestError, match=f"broken.yaml: .*{told}"):
            load(str(broken))


def test_a_mistake_hides_no_other_and_brings_no_more() -> None:
    report = complaint("method.name=call", "precision=float16", "workers=3", "foo=1")
    keys = [row.split()[0] for row in report.splitlines()[1:]]
    assert sorted(keys) == ["foo", "method.name", "precision", "workers"]


def test_overriding_a_stored_experiment_blames_words_and_run() -> None:
    stored = load("cal-demo", [DATA]).resolved()
    assert override(stored, ["evaluate.batch=7"]).evaluate.batch == 7
    with pytest.raises(RequestError, match=r"experiment cal-demo has 1 error\n  evaluate.batch = x +\(command line\)"):
        override(stored, ["evaluate.batch=x"])
    with pytest.raises(RequestError, match=r"tau = no +\(the run\)"):
        override(stored | {"method": {"name": "cal", "tau": "no"}}, [], source="the run")


def test_an_experiment_of_another_version_says_so() -> None:
    stored = load("cal-demo", [DATA]).resolved()
    with pytest.raises(RequestError, match=r"another version of redress, or is damaged \(frobnicate"):
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
    assert names == set(build.OPTIMIZERS)


@given(st.text(min_size=1) | st.text(st.sampled_from("ab ?#@/:%\\\t\n'\""), min_size=1))
def test_a_name_that_is_taken_is_the_one_that_mlflow_loads(name: str) -> None:
    try:
        is_model_name(name)
    except ValueError:
        return
    assert _parse_model_uri(f"models:/{name}/1").name == name
    assert _parse_model_uri(f"models:/{name}@champion").name == name
