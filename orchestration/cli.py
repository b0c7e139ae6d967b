"""The command line: words → one call of `orchestration.commands` → a table or JSON, and an exit status.

0 done, 1 failed while working, 2 the request was wrong, 130 interrupted. Imports of weight happen in the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from datasets.errors import DataError
from orchestration import tune_words
from orchestration.errors import RequestError, without_secret

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
MODEL = "a run's id or storage, a checkpoint, models:/NAME/VERSION or models:/NAME@ALIAS"
VERSION = "models:/NAME/VERSION or models:/NAME@ALIAS"
OVERRIDES = "settings to change, such as batch.people=16; values are YAML"


class Parser(argparse.ArgumentParser):
    """Tells mistakes like everything else does: one message, exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}\n{self.format_usage().strip()}\nMore: {self.prog} --help")


def main(words: Sequence[str] | None = None, answer: int | None = None) -> int:
    """Run one command and return its exit status. answer: the descriptor that takes the JSON (stdout where None)."""
    words = list(sys.argv[1:] if words is None else words)
    common = argparse.Namespace(json="--json" in words, debug="--debug" in words, result=None)
    result: dict[str, Any] = {"status": DONE, "command": None}
    show: Callable[[dict[str, Any]], None] = print
    try:
        common, _ = common_options().parse_known_args(words)
        arguments = parse(words)
        result["command"] = arguments.command_name
        check_result(common.result)
        show = show_with(arguments.show)
        result |= call(arguments)
    except (Exception, KeyboardInterrupt) as error:
        result |= failure(error)
        if common.debug:
            traceback.print_exc()
    return tell(result, common, show, answer)


def failure(error: BaseException) -> dict[str, Any]:
    """The part of the answer that says what went wrong, and whose fault it was."""
    if isinstance(error, RequestError | DataError):
        status = WRONG
    else:
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    return {
        "status": status,
        "error": {"type": type(error).__name__, "message": without_secret(str(error)) or "no message"},
    }


def tell(
    result: dict[str, Any], common: argparse.Namespace, show: Callable[[dict[str, Any]], None], answer: int | None
) -> int:
    """The result to where it was asked for; returns the exit status."""
    if error := result.get("error"):
        unexpected = result["status"] == FAILED and not common.debug
        kind = "" if result["status"] == WRONG else f"{error['type']}: "
        hint = "\n(--debug shows where)" if unexpected else ""
        print(f"{kind}{error['message']}{hint}", file=sys.stderr)
    text = json.dumps(result, indent=1, default=str, ensure_ascii=False)
    if common.result:
        try:
            write_result(common.result, text)
        except (OSError, RequestError) as error:
            print(f"--result {common.result} cannot be written: {error}", file=sys.stderr)
            result["status"] = result["status"] or FAILED
    if common.json:
        line = f"{json.dumps(result, default=str, ensure_ascii=False)}\n".encode()
        sys.stdout.flush()
        with os.fdopen(os.dup(1) if answer is None else answer, "wb") as stream:
            stream.write(line)
    elif "error" not in result:
        try:
            show(result)
            sys.stdout.flush()
        except BrokenPipeError:  # `redress … | head`: the reader has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return int(result["status"])


def check_result(address: str | None) -> None:
    """A result that can be written nowhere is found out before the work, not after it."""
    if address:
        from datasets.store import open_store
        from orchestration.commands import before_work

        with before_work():
            open_store(address)


def write_result(address: str, text: str) -> None:
    from datasets.store import open_store

    folder, _, name = address.rpartition("/")
    open_store(folder or ("/" if address.startswith("/") else ".")).write(name, text.encode())


def call(arguments: argparse.Namespace) -> dict[str, Any]:
    from orchestration import commands

    command: Callable[[argparse.Namespace], dict[str, Any]] = getattr(commands, arguments.function)
    return command(arguments)


def show_with(name: str) -> Callable[[dict[str, Any]], None]:
    def show(result: dict[str, Any]) -> None:
        from orchestration import tables

        getattr(tables, name)(result)

    return show


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

    tune_words.add_options(
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
    synth = add(data, "synth", "data_synth", "render a data set of people who do not exist", path="data")
    synth.add_argument("address", metavar="ADDRESS")
    synth.add_argument("--preset", default="default", help="how many people and images: default, demo, tiny")
    synth.add_argument("--splits", default="ltcc", help="whose logic divides the test people: ltcc or prcc")
    synth.add_argument("--seed", type=int, default=1)
    synth.add_argument("--size", metavar="HxW", type=size, help="pixels, such as 128x64, instead of the preset's")
    synth.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    convert = add(
        data,
        "convert",
        "data_convert",
        "a public data set to shards, checked first; after a kill the same line goes on",
        path="data",
    )
    convert.add_argument("layout", metavar="LAYOUT", help="prcc, ltcc, … (an unknown one lists them all)")
    convert.add_argument(
        "source",
        metavar="SOURCE",
        help="the directory as its authors hand it out, or an archive of it (.zip, .tar, .tar.gz …)",
    )
    convert.add_argument("address", metavar="DESTINATION")
    convert.add_argument("--parsing", metavar="MASKS", help="a folder or an archive of masks: the same tree, .png")
    convert.add_argument("--labels", default="lip20", help="the masks' label map: lip20, atr18, pascal7, six")
    convert.add_argument("--quarantine", action="store_true", help="set offenders aside and record them")
    convert.add_argument("--resize-masks", action="store_true", help="bring masks to their images' sizes, nearest")
    convert.add_argument("--without", action="append", default=[], metavar="SPLIT", help="a split to leave out")
    convert.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    convert.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    parse = add(data, "parse", "data_parse", "make parsing masks for a data set that has none", path="data")
    parse.add_argument("address", metavar="SOURCE")
    parse.add_argument(
        "destination", metavar="DESTINATION", help="the new data set; an interrupted run is taken up there"
    )
    parse.add_argument(
        "--model", required=True, metavar="WEIGHTS", help="a published SCHP checkpoint, or a graph: .onnx, .pt2"
    )
    parse.add_argument("--labels", metavar="MAP", help="what a graph's outputs mean: lip20, atr18, pascal7, six")
    parse.add_argument("--size", metavar="HxW", type=size, help="of a graph's input, where it does not say itself")
    parse.add_argument(
        "--mean",
        metavar="R,G,B",
        type=channels,
        help="a graph's input is (RGB / 255 - mean) / std; default: ImageNet's",
    )
    parse.add_argument("--std", metavar="R,G,B", type=channels, help="see --mean")
    parse.add_argument("--workers", type=positive, help="actors; default: as many as the Ray cluster has room for")
    parse.add_argument("--cpus", type=positive, default=2, help="cores of each worker (default: 2)")
    parse.add_argument("--batch", type=positive, default=8, help="images at once (default: 8)")
    parse.add_argument("--gpu", choices=["auto", "true", "false"], default="auto", help="a GPU for each worker")
    parse.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    parse.add_argument("--overwrite-masks", action="store_true", help="new masks for a data set that has some")
    inspect = add(data, "inspect", "data_inspect", "counts, sizes, clothes per person, a contact sheet", path="data")
    inspect.add_argument("address", metavar="ADDRESS")
    inspect.add_argument("--sheet", metavar="PNG", help="write a contact sheet with masks overlaid")
    verify = add(data, "verify", "data_verify", "read everything and check it against its digests", path="data")
    verify.add_argument("address", metavar="ADDRESS")
    holdout = add(data, "holdout", "data_holdout", "move train people to a validation set", path="data")
    holdout.add_argument("address", metavar="SOURCE")
    holdout.add_argument("destination", metavar="DESTINATION")
    holdout.add_argument("--persons", type=share, default=0.1, help="a share of train's people, or their number")
    holdout.add_argument("--seed", type=int, default=1)
    holdout.add_argument("--overwrite", action="store_true", help="replace a data set that is there")

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
    add(registry, "list", "registry_list", "every registered model and its versions", path="registry")
    register = add(registry, "register", "registry_register", "register a run's model as candidate", path="registry")
    register.add_argument("model", metavar="RUN", help="a run's id or storage, or a checkpoint of it")
    register.add_argument("name", metavar="NAME")
    version = add(registry, "show", "registry_show", "a version, its evidence and its model card", path="registry")
    version.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME: what was decided about it")
    compare = add(
        registry, "compare", "registry_compare", "a candidate with the champion, as evidence", path="registry"
    )
    compare.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME is its candidate")
    compare.add_argument(
        "--with", dest="against", metavar="MODEL", help="another version than the champion (no evidence)"
    )
    compare.add_argument("--data", metavar="ADDRESS", help="compare on this data set, not on the candidate's own")
    compare.add_argument("--page", metavar="FILE", help="write the review page there, too")
    promote = add(registry, "promote", "registry_promote", "make a version the champion", path="registry")
    promote.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME is its candidate")
    promote.add_argument("--override", metavar="REASON", help="promote although the gate is not passed, and say why")
    reject = add(registry, "reject", "registry_reject", "take a version out of the running", path="registry")
    reject.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME is its candidate")
    rollback = add(registry, "rollback", "registry_rollback", "undo the last decision about a model", path="registry")
    rollback.add_argument("name", metavar="NAME")
    for decision in (reject, rollback):
        decision.add_argument("--reason", required=True, metavar="REASON", help="kept with the decision")
    for decision in (compare, promote, reject, rollback):
        decision.add_argument("--by", metavar="WHO", help="who decides (default: this user)")
    gate = add(registry, "gate", "registry_gate", "what a candidate has to show; options change it", path="registry")
    gate.add_argument("name", metavar="NAME")
    gate.add_argument("--target", metavar="METRIC", help="what has to be better, such as clothes-changing/mAP")
    gate.add_argument("--tolerance", type=float, metavar="X", help="no mode worse by more; 0.01 is a point")
    gate.add_argument("--confidence", type=float, metavar="X", help="of the intervals, such as 0.95")

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


def size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: expected HEIGHTxWIDTH in pixels, such as 128x64")
    return int(height), int(width)


def channels(text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected three numbers, such as 0.485,0.456,0.406") from None
    return red, green, blue


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def share(text: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number: expected a share such as 0.1, or people such as 12"
        ) from None
