"""The sources of an experiment: YAML recipes in `experiments/`, YAML files elsewhere, `key=value` overrides."""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestration.config.diagnostics import Diagnostic, RawConfig, closest, either, report, suggest
from orchestration.errors import RequestError

DEEPEST = 20  # levels of a YAML value
WORD = re.compile(r"\w+")
FOLDER = Path(__file__).resolve().parents[1] / "experiments"


class Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number, and refuses what no setting can be: duplicate keys, keys that are no text, aliases
    (*name), nesting without end, infinity. Every error is a YAMLError."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read: write the value out", problem_mark=mark)
        if self.depth >= DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEEPEST} levels", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (
            ValueError,
            ArithmeticError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # of `!!int x`, 2020-13-01
            raise yaml.MarkedYAMLError(
                problem=f"{str(node.value)[:40]!r} cannot be read as {node.tag.rpartition(':')[2]}",
                problem_mark=node.start_mark,
            ) from error
        wrong = None
        if isinstance(value, float) and not math.isfinite(value):
            wrong = "is not finite"
        elif isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            wrong = "is not valid Unicode"
        if wrong:
            raise yaml.MarkedYAMLError(problem=f"{str(node.value)[:40]!a} {wrong}", problem_mark=node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, ((key, _), name) in enumerate(zip(node.value, keys, strict=True)):
            if not isinstance(name, str):
                raise yaml.MarkedYAMLError(
                    problem=f"key {name!r} is no text: put it in quotes", problem_mark=key.start_mark
                )
            if name in keys[:place]:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {name!r}", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def recipes() -> list[str]:
    """The names of the experiments included in redress, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def summary(name: str) -> str:
    """The first line of a recipe's opening comment."""
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def find(name: str) -> Path:
    """The file of a recipe's name, or the YAML file at a path. Raises: RequestError if there is neither."""
    if name in recipes():
        return FOLDER / f"{name}.yaml"
    path = Path(os.path.expanduser(name))
    if path.suffix in (".yaml", ".yml") and os.path.isfile(
        path
    ):  # Path's own methods raise for a name that is too long
        return path
    suggestion = suggest(closest(Path(name).stem, recipes()))
    raise RequestError(
        f"there is no experiment {name!r}{suggestion or '.'} Choose {either(recipes())}, or give the path of a YAML file."
    )


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises: RequestError naming the file and the line of the error."""
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}. Check the file and its permissions.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: invalid YAML: {one_line(error)}. Correct the file.") from error
    if not isinstance(tree, Mapping):
        raise RequestError(f"{path}: expected an experiment's settings (key: value), found {type(tree).__name__}.")
    return {str(key): value for key, value in tree.items()}


def setting_names() -> dict[str, tuple[str, ...]]:
    """Every setting of an experiment with the settings of its branch, read off the source of `settings`.

    Importing that module takes seconds, because methods need torch.
    """
    tree = ast.parse((Path(__file__).with_name("settings.py")).read_text(encoding="utf-8"))
    branches = {node.name: fields_of(node) for node in tree.body if isinstance(node, ast.ClassDef)}
    return {
        key: tuple(name for word in WORD.findall(annotation) for name in branches.get(word, ()))
        for key, annotation in branches["Experiment"].items()
    }


def fields_of(settings: ast.ClassDef) -> dict[str, str]:
    """Name, or alias, → annotation."""
    found = {}
    for node in settings.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            keywords = node.value.keywords if isinstance(node.value, ast.Call) else []
            alias = next((one.value for one in keywords if one.arg == "alias"), None)
            name = alias.value if isinstance(alias, ast.Constant) else node.target.id
            found[str(name)] = ast.unparse(node.annotation)
    return found


def places_of(key: str, tree: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The dotted places of a key in a tree of settings."""
    for name, value in tree.items():
        if name == key:
            yield f"{above}{name}"
        if isinstance(value, Mapping):
            yield from places_of(key, value, f"{above}{name}.")


def check_names(name: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Check the name of a recipe or file, and the names of settings at the top, its own and those of overrides.

    It takes a fraction of a second: `load` checks everything, and needs torch. Returns the settings as they are given, without
    defaults. Raises: RequestError.
    """
    tree, title, sources = {}, "the line", {}
    if name is not None:
        path = find(name)
        tree, title = read(path), f"experiment {path.stem}"
        sources = dict.fromkeys(tree, path.name)
    known = setting_names()
    for key, value in read_overrides(overrides)[0]:
        put(tree, key, value)
        sources[key.partition(".")[0]] = "command line"
    found = []
    for key in tree:
        if key not in known:
            elsewhere = [f"{branch}.{key}" for branch, settings in known.items() if key in settings]
            elsewhere += [place for place in places_of(key, tree) if place not in (key, *elsewhere)]
            hint = suggest(closest(key, known) or elsewhere[:2])
            found.append(
                Diagnostic(key, f"an experiment has no such setting; it has {', '.join(known)}{hint}", is_unknown=True)
            )
    if found:
        raise RequestError(report(title, RawConfig(tree, sources), found))
    return tree


def read_overrides(words: Sequence[str]) -> tuple[list[tuple[str, Any]], list[tuple[str, str]]]:
    """`key=value` arguments → pairs of dotted key and YAML value; and pairs of invalid argument and error."""
    overrides, wrong = [], []
    for word in words:
        key, is_one, text = word.partition("=")
        if not is_one or not re.fullmatch(r"\w[\w-]*(\.\w[\w-]*)*", key):
            wrong.append((word, "is not an override: expected key=value, such as batch.people=8"))
            continue
        try:
            overrides.append((key, yaml.load(text, Loader)))
        except yaml.YAMLError as error:
            wrong.append((word, f"the value is not valid YAML: {one_line(error)}"))
    return overrides, wrong


def put(tree: dict[str, Any], key: str, value: Any) -> str | None:
    """Set a dotted key in place. Returns why it cannot be set, None on success."""
    *parents, last = key.split(".")
    at = tree
    for depth, parent in enumerate(parents):
        if at.get(parent) is None:
            at[parent] = {}
        at = at[parent]
        if not isinstance(at, dict):
            return f"{'.'.join(parents[: depth + 1])} is {at!r}, which is not a group of settings"
    at[last] = value
    return None


def one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(str(error).split())
