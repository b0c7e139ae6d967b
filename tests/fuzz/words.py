"""Words that users type, and the recipes that they write: settings, ranges of a sweep, addresses."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from datasets.errors import DataError
from datasets.shards.dataset import Dataset
from datasets.sources import open_source
from datasets.storage.address import AddressError, parse_address, parse_endpoint, shown
from datasets.storage.store import StoreError
from orchestration.addresses import model_address, run_address, tracking_address
from orchestration.config.diagnostics import all_keys
from orchestration.config.load import Experiment, load
from orchestration.config.recipes import FOLDER, check_names, find, recipes
from orchestration.engine import checkpoint
from orchestration.errors import RequestError
from orchestration.sweeps.settings import SweepSettings, plan
from orchestration.sweeps.space import Range, read_space
from tests.fuzz.edits import EDITS, edited
from tests.fuzz.target import Case, Target
from tests.tiny import tiny_dataset

VALUES = [
    "", "null", "~", "true", "no", "0", "-1", "1", "8", "1.5", "1e-3", "1e309", "-1e309", ".nan", ".inf", "9" * 400,
    "9" * 5000,
    "0x1F", "0o17", "0b11", "1_000", "1:30", "2020-01-01", "2020-13-01", "'8'", '"\\ud800"', '"\\0"', "\0", "\udcff",
    "\u2028",
    "[]", "{}", "[1]", "[1, 2, 3]", "[[1]]", "[0, -1]", "{a: 1}", "{name: x}", "{name: adam, lr: 1e-3}",
    "{name: cal}", "{1: 2}",
    "{a: 1, a: 2}", "{? [a] : b}", "*a", "&a 1", "&a [*a]", "[" * 100, "[" * 100 + "]" * 100,
    "{a: " * 30 + "1" + "}" * 30, "'", "- a",
    "a: b: c", "<<: {a: 1}", "!!python/object/apply:os.system [x]", "!!binary aGk=", "!!binary x", "!!int x", "!!float x",
    "!!bool x", "!!timestamp x", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!null x", "!!str 1", "!x y",
    "%YAML 9.9", "---",
    "--- 1\n--- 2", "...", "512MiB", "-1KiB", "9e9TiB", "last", "best:x", "best:val_query/general/mAP", "cal",
    "imagenet", "published", "s3://",
    "s3://key:secret@b/x", "../x", "~nobody/x", "x" * 10_000, "ab/c", "float16", "1e-400", "4503599627370497.5",
    "1" + "0" * 30,
]  # fmt: skip
CHARACTERS = st.text(st.sampled_from("[]{}&*!a:,- \n'\"1e.~<%?|>#@=/()\\\t\udcff"), max_size=20)


@functools.cache
def keys() -> list[str]:
    """Every setting that a method or its optimizers have, and a few that none has."""
    known = {key for name in recipes() for key in all_keys(Experiment, load(name, ["data=/data"]).resolved())}
    return sorted(
        known
        | {"", "a", "a.b", "name.x", "epochs.x", "batch.x", "optimizers", "optimizers.x", "method", "Épochs", "-a"}
    )


def survives_storage(experiment: Experiment) -> None:
    stored = json.loads(json.dumps(experiment.resolved()))
    assert Experiment.from_resolved(stored) == experiment


# Recipes and overrides


def recipe(given: Any, folder: Path) -> Case:
    lines = (FOLDER / f"{recipes()[given['recipe'] % len(recipes())]}.yaml").read_text(encoding="utf-8").splitlines()
    for how, at, number in given["lines"]:
        place, value = at % len(lines), VALUES[number % len(VALUES)]
        key, colon, _ = lines[place].partition(":")
        written = {
            "value": f"{key}{colon} {value}",
            "add": f"{lines[place]}\n{keys()[number % len(keys())]}: {value}",
            "remove": "",
            "indent": f"  {lines[place]}",
        }
        lines[place] = written[how]
    text = given["text"] if given["text"] is not None else "\n".join(lines)
    data = edited(text.encode(errors="surrogatepass"), given["edits"])
    path = folder / "recipe.yaml"
    path.write_bytes(data)

    def call() -> None:
        check_names(str(path), ["data=/data"])
        survives_storage(load(str(path), ["data=/data"]))

    return Case(call, (("recipe", "/data"),))


def overrides(given: Any, folder: Path) -> Case:
    words = [word(keys(), key, text) for key, text in given["words"]]
    name = recipes()[given["recipe"] % len(recipes())]

    def call() -> None:
        error = failure(lambda: check_names(name, words))
        survives_storage(load(name, ["data=/data", *words]))
        assert error is None, f"taken after it was refused: {error}"

    return Case(
        call, ((name,), tuple(part for one in words for part in (one, one.partition("=")[0].partition(".")[0])))
    )


def word(known: list[str], key: int | str, text: int | str) -> str:
    name = known[key % len(known)] if isinstance(key, int) else key
    return f"{name}={VALUES[text % len(VALUES)] if isinstance(text, int) else text}"


def failure(call: Callable[[], object]) -> str | None:
    try:
        call()
    except (RequestError, DataError, StoreError) as error:
        return str(error)
    return None


# Ranges of a sweep

RANGES = [
    "log(1/64, 1/4)", "log(1/64, 1/4, 5)", "log(0, 1)", "uniform(0, 1)", "uniform(1, 0)", "uniform(0, 1, 10000)",
    "uniform(0, 1, 1)",
    "uniform(0, 1, 1e9)", "int(2, 8)", "int(2, 8, 3)", "int(0, 9007199254740993)", "int(0, 9007199254740992)", "int(1.5, 2)",
    "log(1e-300, 1e300)", "log(1e-999999999, 1)", "uniform(-1e300, 1e300, 3)", "uniform(1/0, 2)",
    "log(" + "9" * 5000 + ", 1)",
    "choice()", "choice(cal, negative)", "choice(a)", "choice([1], [1])", "choice({a: 1}, {a: 2})", "[0, 0.1, 0.5]",
    "[1/16, 1/8]",
    "[1, 1.0]", "[null, 1]", "[[0.1, 0.2], [0.2, 0.3]]", "[1/0, 1]", "[" + ", ".join(map(str, range(20_000))) + "]",
    "f(1, 2)",
    "log(,)", "log(1 2)", "log(\u0661, 2)", "uniform(0, 1, \u00b2)", "[1, 2", "[.nan, 1]", "[1e309, 1]",
    "[2020-01-01, 1]", "(", "",
    "uniform(0, 5e-324)", "uniform(1, 1.0000001, 9)", "log(1, 1.0000001)", "int(1, 2, 9)", "int(-0, 1)", "uniform(0,1,0x5)",
]  # fmt: skip


@functools.cache
def sweepable() -> tuple[Experiment, tempfile.TemporaryDirectory[str]]:
    """An experiment whose data have a validation set."""
    folder = tempfile.TemporaryDirectory()
    data = tiny_dataset(f"{folder.name}/set", splits=("train", "query", "gallery", "val_query", "val_gallery"))
    return load("cal-demo", [f"data={data}", "batch={people: 2, images: 2, lanes: 1}", "workers=1"]), folder


SWEPT = ["method.epsilon", "method.tau", "batch.images", "augment.erase", "optimizers.model.lr", "augment.erase_aspect"]
LONGEST = 20  # values of a setting, of which each is validated


def over(given: Any, folder: Path) -> Case:
    words = []
    for key, text in given["words"]:
        known = SWEPT if isinstance(key, int) and key % 2 else keys()
        name = known[key // 2 % len(known)] if isinstance(key, int) else key
        words.append(f"{name}={RANGES[text % len(RANGES)] if isinstance(text, int) else text}")
    experiment = sweepable()[0]

    def call() -> None:
        space = read_space(words)
        if all(isinstance(axis, Range) or len(axis.values) <= LONGEST for axis in space.values()):
            assert plan(experiment, SweepSettings(over=tuple(words))).points >= 1

    names = tuple(one.partition("=")[0] for one in words)
    return Case(call, (("--over", "combinations"), (*names, *words, "--over", "combinations")))


# Addresses

BEGINNINGS = [
    "", "/", "~", "./", "s3://", "s3:/", "s3://b/", "S3://", "file://", "file:///", "http://", "https://", "postgresql://",
    "models:/", "http://joe:pw@", "s3://key:secret@", "~root/", "//", "http://[::1]:", "~nobody/", "x" * 300, "x/" * 3000,
]  # fmt: skip
PARSERS: list[Callable[[str], object]] = [
    parse_address,
    run_address,
    model_address,
    lambda text: tracking_address(text, "MLFLOW_TRACKING_URI"),
    lambda text: parse_endpoint(text, "AWS_ENDPOINT_URL"),
]


def address(given: Any, folder: Path) -> Case:
    text = given["text"]
    is_remote = text.startswith("s3://")

    def call() -> None:
        for read in () if is_remote else READERS:
            message = failure(functools.partial(read, text))
            assert message is None or any(name in message for name in names_of(text)), message
        refusals = [refused for parse in PARSERS if (refused := refusal(parse, text)) is not None]
        for message in refusals:
            assert shown(text) in message or shown(str(folder)) in message, message
            assert message.isprintable(), "is not one printable line"
        found = parse_address(text)
        assert parse_address(str(found)) == found
        assert str(parse_address(str(found))) == str(found)
        if (above := str(found.parent)) == above.strip():  # a folder's name may end with a blank, an address may not
            assert parse_address(above) == found.parent

    return Case(call, ((shown(text), "home folder"),))


def names_of(text: str) -> list[str]:
    """As messages may show it: as it was given, or as the place that it means."""
    try:
        place = [str(parse_address(text))]
    except AddressError:
        place = []
    return [shown(text), repr(text), str(Path(text)), *place]


READERS: list[Callable[[str], object]] = [
    find,
    lambda text: open_source(text, "the folder x").close(),
    Dataset.open,
    checkpoint.find,
]


def refusal(parse: Callable[[str], object], text: str) -> str | None:
    try:
        assert parse(text)
    except AddressError as error:
        return str(error)
    return None


NUMBERS = st.integers(0, 10**4)
WORDS = st.lists(
    st.tuples(NUMBERS, NUMBERS | NUMBERS | CHARACTERS | st.text(max_size=20)).map(list), min_size=1, max_size=3
)
ODD_WORDS = st.lists(st.tuples(st.text(max_size=8), CHARACTERS).map(list), min_size=1, max_size=2)
LINES = st.lists(
    st.tuples(st.sampled_from(["value", "value", "add", "remove", "indent"]), NUMBERS, NUMBERS).map(list), max_size=3
)
RECIPES_TARGET = Target(
    st.fixed_dictionaries(
        {
            "recipe": NUMBERS,
            "lines": LINES,
            "text": st.none() | st.none() | st.none() | CHARACTERS | st.text(),
            "edits": st.just([]) | EDITS,
        }
    ),
    recipe,
)
OVERRIDES_TARGET = Target(st.fixed_dictionaries({"recipe": NUMBERS, "words": WORDS | ODD_WORDS}), overrides)
OVER_TARGET = Target(st.fixed_dictionaries({"words": WORDS | WORDS | ODD_WORDS}), over)
ADDRESSES_TARGET = Target(
    st.fixed_dictionaries(
        {
            "text": st.text()
            | st.text(st.sampled_from("s3:/file.~%20#?@ab \n\udcff"), max_size=20)
            | st.builds(
                "{}{}{}".format, st.sampled_from(BEGINNINGS), CHARACTERS | st.text(), st.sampled_from(["", "", ".yaml"])
            )
        }
    ),
    address,
)
