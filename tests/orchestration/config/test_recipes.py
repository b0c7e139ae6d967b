"""The recipes that come with redress: whole, with their papers' numbers, and for every method."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods import METHODS
from orchestration.cli.commands.demo import demo_recipes
from orchestration.config import build
from orchestration.config.load import Experiment, load, override, recipes
from orchestration.config.recipes import FOLDER, check_names, read_overrides, setting_names, summary
from orchestration.config.settings import SGD, BatchSettings, EvaluateSettings
from orchestration.errors import RequestError
from tests import golden
from tests.orchestration.config.complaints import DATA, complaint

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_an_experiment_that_survives_storage(name: str) -> None:
    experiment = load(name, [DATA])
    resolved = json.loads(json.dumps(experiment.resolved()))
    assert Experiment.from_resolved(resolved) == experiment
    assert override(resolved, []) == experiment
    assert experiment.name == name


CHECKED = """
import sys
from orchestration.config.load import load, recipes

for name in recipes():
    load(name, ["data=/given", "weights=null"])
print([name for name in ("torchvision", "torch._dynamo") if name in sys.modules])
"""


def test_a_process_that_only_checks_experiments_imports_neither_torchvision_nor_a_compiler() -> None:
    """They take 180 MiB and a second in each driver and controller."""
    done = subprocess.run([sys.executable, "-c", CHECKED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_method_has_a_recipe() -> None:
    assert {load(name, [DATA]).method.name for name in recipes()} == set(METHODS)


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_opens_with_what_it_is_and_its_command(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert len(summary(name)) > 20
    assert f"redress train {name} data=" in text


@pytest.mark.parametrize(
    ("name", "scored"),
    [("cal-ltcc", 12), ("cal-prcc", 12), ("baseline-ltcc", 12), ("baseline-prcc", 12), ("cal-ccvid", 15),
     ("baseline-ccvid", 15), ("pixel-sampling-prcc", 60)],
)  # fmt: skip
def test_a_recipe_tells_how_to_select_among_as_many_epochs_as_the_published_code(name: str, scored: int) -> None:
    [words] = re.findall(r"(?m)^#   (select=.*)$", (FOLDER / f"{name}.yaml").read_text())
    experiment = load(name, [DATA, *words.split()])
    assert experiment.epochs == scored * experiment.checkpoint.every_epochs
    assert experiment.select_on_test


@pytest.mark.parametrize("name", ["cal-ltcc", "cal-prcc", "baseline-ltcc", "baseline-prcc"])
def test_papers_recipes_have_the_papers_numbers(name: str) -> None:
    experiment = load(name, [DATA])
    assert (experiment.augment.height, experiment.augment.width) == (384, 192)
    assert (experiment.batch.people, experiment.batch.images, experiment.epochs) == (8, 8, 60)
    model = experiment.optimizers["model"]
    assert (model.name, model.lr, model.weight_decay) == ("adam", 3.5e-4, 5e-4)
    rates = [model.lr * build.factor(model.schedule, epoch, 60) for epoch in (0, 19, 20, 39, 40, 59)]
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
    rates = [model.lr * build.factor(model.schedule, epoch, 150) for epoch in (39, 40, 79, 80, 119, 120)]
    assert rates == pytest.approx([3.5e-4, 3.5e-5, 3.5e-5, 3.5e-6, 3.5e-6, 3.5e-7])
    method = experiment.resolved()["method"]
    assert (method["label_smoothing"], method["pooling"]) == (0, "max")
    assert method.get("adversarial_from_epoch", 50) == 50


def test_the_recipe_of_pixel_sampling_has_the_papers_numbers_and_the_codes_schedule() -> None:
    experiment = load("pixel-sampling-prcc", [DATA])
    assert (experiment.augment.height, experiment.augment.width, experiment.epochs) == (256, 128, 60)
    assert (experiment.batch.people, experiment.batch.images, experiment.weights) == (16, 4, "imagenet")
    model = experiment.optimizers["model"]
    assert isinstance(model, SGD)
    assert (model.name, model.lr, model.momentum, model.weight_decay) == ("sgd", 3.5e-3, 0.9, 5e-4)
    if case := golden.find("schedules", "sps_schedule"):
        factors = [build.factor(model.schedule, epoch, 60) for epoch in range(60)]
        case.check("lr_factor", torch.tensor(factors, dtype=torch.float64))


@pytest.mark.parametrize("data", ["ltcc", "prcc", "vcclothes", "deepchange"])
def test_the_recipes_of_ccaf_have_the_papers_numbers(data: str) -> None:
    """Sec. 4.2."""
    experiment = load(f"ccaf-{data}", [DATA])
    assert (experiment.augment.height, experiment.augment.width) == (256, 128)
    assert (experiment.batch.people, experiment.batch.images, experiment.epochs) == (16, 4, 120 + 40)
    method = experiment.resolved()["method"]
    assert (method["tower"], method["encoder_from_epoch"], method["prompt_batch"]) == ("vit-b16", 120, 64)
    assert (method["lambda_con"], method["lambda_dis"], method["triplet_margin"]) == (0.1, 1.0, 0.3)
    rates = {name: optimizer.lr for name, optimizer in experiment.optimizers.items()}
    assert rates == {"prompts": 3.5e-4, "model": 5e-6, "projection": 5e-6}
    for optimizer in experiment.optimizers.values():
        assert (optimizer.name, optimizer.schedule and optimizer.schedule.name) == ("adam", "cosine")


def test_demo_recipes_run_on_one_two_and_four_workers() -> None:
    for name in ("baseline-demo", "cal-demo"):
        for workers in (1, 2, 4):
            assert load(name, [DATA, f"workers={workers}"]).workers == workers


def test_the_demo_trains_recipes_that_there_are() -> None:
    assert len(demo_recipes()) > 1
    assert set(demo_recipes()) <= set(recipes())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{2020-01-01: 3}", "is no text: put it in quotes"),
        ("{1: 3}", "key 1 is no text"),
        ("{[a]: 3}", "is no text"),
        ("&a [*a]", "aliases (*name) are not read"),
        ("[" * 2000, "nested deeper than 20 levels"),
        ("[" * 2000 + "]" * 2000, "nested deeper than 20 levels"),
        ("{a: " * 2000 + "1" + "}" * 2000, "nested deeper than 20 levels"),
        (".inf", "'.inf' is not finite"),
        ("1e400", "'1e400' is not finite"),
        ("9" * 5000, "cannot be read as int"),
        ("2020-13-45", "cannot be read as timestamp"),
        ("!!int x", "'x' cannot be read as int"),
        ("!!bool maybe", "'maybe' cannot be read as bool"),
        ("!!timestamp x", "'x' cannot be read as timestamp"),
        (r'"\udc80"', "is not valid Unicode"),
    ],
)
def test_a_value_that_no_setting_can_have_is_one_message(text: str, told: str) -> None:
    _, wrong = read_overrides([f"batch={text}"])
    [(_, message)] = wrong
    assert message.startswith("the value is not valid YAML: ")
    assert told in message


@given(st.text(st.sampled_from("[]{}&*!a:,- \n'\"1e.~<%?|>#@")) | st.text())
def test_any_text_is_a_plain_value_or_one_message(text: str) -> None:
    overrides, wrong = read_overrides([f"batch={text}"])
    assert len(overrides) + len(wrong) == 1
    for _, value in overrides:
        json.dumps(value, default=str)


def test_the_names_read_off_the_source_are_the_settings() -> None:
    names = setting_names()
    assert list(names) == [field.alias or name for name, field in Experiment.model_fields.items()]
    assert names["batch"] == tuple(BatchSettings.model_fields)
    assert names["evaluate"] == tuple(EvaluateSettings.model_fields)


def test_every_recipe_has_known_names() -> None:
    for name in recipes():
        check_names(name, ["batch.people=4", "register=x", "optimizers.model.lr=1"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["epohcs=3"],
            r"epohcs = 3 +\(command line\) +an experiment has no such setting; it has name, .*mean epochs\?",
        ),
        (["people=3"], r"Did you mean batch\.people\?"),
        (["lr=3"], r"Did you mean optimizers\.model\.lr"),
        (["epohcs=3", "seeed.x=1"], r"(?s)2 errors.*Did you mean epochs.*Did you mean seed"),
    ],
)
def test_a_name_that_no_setting_has_is_told_early_as_load_tells_it(words: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        check_names("cal-ltcc", words)
    assert re.search(told, complaint(*words))


EARLY = [["train", "cal-lttc"], ["train", "cal-ltcc", "epohcs=3"], ["tune", "cal-lttc"], ["tune", "cal-ltcc", "epohcs=3"],
         ["evaluate", "x", "epohcs=3"], ["experiments", "show", "cal-ltcc", "epohcs=3"]]  # fmt: skip
LATER = [["train", "cal-ltcc", "data=/x", "method.epsilonn=1"], ["tune", "cal-ltcc", "data=/x", "method.epsilonn=1"],
         ["experiments", "show", "cal-ltcc", "method.epsilonn=1"]]  # fmt: skip
RUN = """
import json, sys, time
from orchestration.cli.main import main
for words in json.loads(sys.argv[1]):
    before = time.process_time()
    status = main(words)
    print(status, round(time.process_time() - before, 2), *({"torch", "ray", "mlflow", "pandas"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(("commands", "heavy"), [(EARLY, []), (LATER, ["torch"])], ids=["early", "later"])
def test_a_misspelt_name_is_refused_at_once(commands: list[list[str]], heavy: list[str]) -> None:
    """One process has all of them: what one imports, the next would be found with."""
    call = [sys.executable, "-c", RUN, json.dumps(commands)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.count("Did you mean") == len(commands)
    for words, line in zip(commands, done.stdout.splitlines(), strict=True):
        status, seconds, *imported = line.split()
        assert (status, imported) == ("2", heavy), words
        if not heavy:
            assert float(seconds) < 1, words  # 0.2 to 0.5 s on an idle machine
