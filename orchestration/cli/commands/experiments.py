"""`redress experiments`: the recipes that come with redress."""

from __future__ import annotations

from orchestration.cli.command import Answer, Command, Group
from orchestration.cli.options import SETTINGS, Options, argument, arguments
from orchestration.cli.tables import print_facts


def list_experiments(options: Options) -> Answer:
    from orchestration.config.recipes import recipes, summary

    return {"experiments": {name: summary(name) for name in recipes()}}


def show_experiments(answer: Answer) -> None:
    print_facts(answer["experiments"])


class ShowOptions(Options):
    name: str = argument("EXPERIMENT", "a recipe or a YAML file")
    overrides: list[str] = arguments("key=value", SETTINGS, takes_settings=True)


def resolve_experiment(options: ShowOptions) -> Answer:
    from orchestration.config import recipes

    recipes.check_names(options.name, options.overrides)
    from orchestration.config.load import load

    names_data = any(setting.startswith("data=") for setting in options.overrides)
    has_data = names_data or "data" in recipes.read(recipes.find(options.name))
    overrides = options.overrides if has_data else [*options.overrides, "data=."]
    resolved = load(options.name, overrides).resolved()
    return {"experiment": resolved if has_data else resolved | {"data": None}}


def show_experiment(answer: Answer) -> None:
    import yaml

    print(yaml.safe_dump(answer["experiment"], sort_keys=False, allow_unicode=True), end="")


EXPERIMENTS = Group(
    "experiments",
    "list the recipes that come with redress, or show one",
    (Command("show", "show every setting of an experiment as YAML", ShowOptions, resolve_experiment, show_experiment),),
    default=Command(
        "experiments", "list the recipes that come with redress", Options, list_experiments, show_experiments
    ),
)
