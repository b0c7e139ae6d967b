"""The sweeps that come with redress."""

from __future__ import annotations

from pathlib import Path

import pytest

from methods import METHODS
from orchestration.cli.commands.tune import TUNE, requested_sweep
from orchestration.config.load import load, recipes
from orchestration.errors import RequestError
from orchestration.sweeps.presets import FOLDER, KEYS, read_sweep, sweeps
from orchestration.sweeps.settings import SweepSettings, check_values, with_defaults
from orchestration.sweeps.space import read_space


@pytest.mark.parametrize("name", sweeps())
def test_a_ready_made_sweep_fits_its_experiment(name: str) -> None:
    ready = read_sweep(name)
    space = read_space(ready["over"])
    if ready["experiment"] not in recipes():
        assert name not in METHODS, "the method is there: then its recipe, too"
        return
    experiment = load(ready.pop("experiment"), ["data=/given"])
    check_values(experiment, space)
    with_defaults(SweepSettings(**ready), experiment, space)


def test_a_ready_made_sweep_is_named_in_place_of_an_experiment_or_beside_one() -> None:
    experiment, settings = requested_sweep(TUNE.parse(["cal", "data=/given", "--seeds", "5"]))
    assert (experiment.name, settings.seeds, settings.register) == ("cal-ltcc", 5, "cal-ltcc")
    assert set(read_space(settings.over)) == {"method.tau", "method.epsilon"}
    experiment, settings = requested_sweep(TUNE.parse(["cal-demo", "data=/given", "--sweep", "cal", "--no-register"]))
    assert (experiment.name, settings.seeds, settings.register) == ("cal-demo", 3, None)
    _, settings = requested_sweep(TUNE.parse(["cal-demo", "data=/given", "--over", "method.tau=[1/4, 1/16]"]))
    assert settings.over == ("method.tau=[1/4, 1/16]",)
    assert settings.register == "cal-demo"


def test_a_sweep_of_ones_own_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("experiment: cal-demo\nover: {method.epsilon: [0, 0.1], precision: [null, x]}\nstop: median\n")
    experiment, settings = requested_sweep(TUNE.parse(["data=/given", "--sweep", str(file)]))
    assert (experiment.name, settings.stop) == ("cal-demo", "median")
    assert settings.over == ("method.epsilon=[0, 0.1]", 'precision=[null, "x"]')
    for mistake, told in (("seeds: three", "seeds = 'three': expected a whole number"), ("stop: [asha]", "stop = ")):
        file.write_text(f"experiment: cal-demo\n{mistake}\n")
        with pytest.raises(RequestError, match=told):
            read_sweep(str(file))


def test_words_that_name_no_sweep_are_refused_with_what_there_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("experiment: cal-demo\noverr: {}\n")
    for words, told in (
        (["--sweep", "call", "data=x"], r"no sweep 'call'. Did you mean cal\?"),
        (["--sweep", str(file), "data=x"], f"no setting overr; it has {KEYS[0]}"),
        (["data=x"], "tune which experiment"),
        (["--resume", "0" * 32, "--over", "a=[1, 2]"], "keeps its settings: leave out --over"),
    ):
        with pytest.raises(RequestError, match=told):
            requested_sweep(TUNE.parse(words))


def test_the_files_say_what_they_are_and_how_they_are_run() -> None:
    for name in sweeps():
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert f"redress tune {name} " in text
