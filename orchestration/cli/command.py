"""The commands and their words. What each takes is told by `redress COMMAND --help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from orchestration.cli import data as data_options
from orchestration.cli import registry as registry_options
from orchestration.cli import tune as tune_options
from orchestration.cli.argument_types import positive
from orchestration.errors import RequestError

MODEL = "a run's id or storage, a checkpoint, models:/NAME/VERSION or models:/NAME@ALIAS"
OVERRIDES = "settings to change, such as batch.people=16; values are YAML"


class Parser(argparse.ArgumentParser):
    """Tells mistakes like everything else does: one message, exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}\n{self.format_usage().strip()}\nMore: {self.prog} --help")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command and its words. Overrides may stand before, between and behind options."""
    arguments, rest = parser().parse_known_args(words)
    strange = [word for word in rest if word.startswith("-") or not hasattr(arguments, "overrides")]
    if strange:
        raise RequestError(f"redress {arguments.command_name} knows no {' '.join(strange)}. See its --help")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def common_options() -> Parser:
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on stdout and nothing else")
    common.add_argument(
        "--result", metavar="ADDRESS", help="write the same object to a path or s3://…, also on failure"
    )
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    return common


def parser() -> Parser:
    top = Parser(prog="redress", description="Train networks that recognise a person whatever they wear.")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    common = common_options()

    def add(group: Any, name: str, run: str, help: str, show: str | None = None, path: str = "") -> Parser:
        made: Parser = group.add_parser(name, help=help, description=help, parents=[common])
        made.set_defaults(function=run, show=show or run, command_name=f"{path} {name}".strip())
        return made

    train = add(commands, "train", "train", "train, evaluate, keep the run in MLflow")
    train.add_argument(
        "overrides", nargs="*", metavar="EXPERIMENT [key=value …]", help=f"a recipe or YAML file; {OVERRIDES}"
    )
    train.add_argument("--resume", metavar="RUN", help="go on with a run: its id, or its storage's address")
    train.add_argument(
        "--init-from", metavar="ADDRESS", help="the checkpoint or run whose weights training starts from"
    )

    tune_options.add_options(
        add(commands, "tune", "tune", "many trainings over a space of settings, the best to the registry"),
        positive,
        OVERRIDES,
    )

    evaluate = add(commands, "evaluate", "evaluate", "score a model by its data set's protocol")
    evaluate.add_argument("model", metavar="MODEL", help=MODEL)
    evaluate.add_argument("overrides", nargs="*", metavar="key=value", help="such as data=ADDRESS, evaluate.rerank={}")

    search = add(commands, "search", "search", "who in a gallery is nearest to these images, as a picture")
    search.add_argument("model", metavar="MODEL", help=MODEL)
    search.add_argument("gallery", metavar="GALLERY", help="a data set, or a folder of images")
    search.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="files; of a data set also keys of its queries, and without any some of these",
    )
    search.add_argument("--split", help="of the data set that is searched (default: its gallery)")
    search.add_argument("--parsing", metavar="MASKS", help="a folder of the images' masks, for a model that needs them")
    search.add_argument("--top", type=positive, default=10, help="how many of the nearest (default: 10)")
    search.add_argument("--out", metavar="PNG", default="search.png", help="the picture (default: search.png)")

    data = commands.add_parser("data", help="make and look at data sets").add_subparsers(
        metavar="COMMAND", required=True
    )
    data_options.add_commands(data, add)

    runs = commands.add_parser("runs", help="what MLflow has of our runs").add_subparsers(
        metavar="COMMAND", required=True
    )
    listed = add(runs, "list", "runs_list", "the newest runs", path="runs")
    listed.add_argument("--experiment", help="of one MLflow experiment")
    listed.add_argument("--limit", type=int, default=50)
    shown = add(runs, "show", "runs_show", "everything of one run", path="runs")
    shown.add_argument("run", metavar="RUN")
    sync = add(runs, "sync", "runs_sync", "deliver what a run's storage has and MLflow lacks", path="runs")
    sync.add_argument("run", metavar="RUN")

    registry = commands.add_parser("registry", help="registered models").add_subparsers(
        metavar="COMMAND", required=True
    )
    registry_options.add_commands(registry, add)

    experiments = commands.add_parser("experiments", help="the recipes that come with redress", parents=[common])
    experiments.set_defaults(function="experiments_list", show="experiments_list", command_name="experiments")
    recipes = experiments.add_subparsers(metavar="COMMAND")
    recipe = add(
        recipes, "show", "experiments_show", "every setting of an experiment, as it would run", path="experiments"
    )
    recipe.add_argument("name", metavar="EXPERIMENT", help="a recipe or YAML file")
    recipe.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)

    demo = add(commands, "demo", "demo", "the whole of it in minutes: render, train, evaluate, register, load back")
    demo.add_argument(
        "directory", nargs="?", default="demo", metavar="FOLDER", help="where everything lands (default: demo)"
    )
    return top
