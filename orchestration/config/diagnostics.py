"""Diagnostics of an experiment, all in one report: key, value, its source, what is allowed, the closest valid name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestration.errors import without_secret

LONGEST_VALUE = 48
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text (in quotes where it reads as a number)",
    "tuple": "a list",
    "byte": "a size such as 512MiB",
    "dict": "settings (key: value)",
    "model": "settings (key: value)",
}
BOUNDS = {"greater_than_equal": "at least", "greater_than": "above", "less_than_equal": "at most", "less_than": "below"}


@dataclass(frozen=True)
class Diagnostic:
    """One error. key: dotted. word: the argument as typed, if it could not become a setting. is_unknown: no such key exists."""

    key: str
    text: str
    word: str | None = None
    is_unknown: bool = False


@dataclass(frozen=True)
class RawConfig:
    """The settings before validation, and the source of each dotted key: a file, a run, or the command line."""

    tree: dict[str, Any]
    sources: Mapping[str, str]

    def __contains__(self, key: str) -> bool:
        return self.lookup(key)[0]

    def lookup(self, key: str) -> tuple[bool, Any]:
        at: Any = self.tree
        for part in key.split("."):
            if not isinstance(at, dict) or part not in at:
                return False, None
            at = at[part]
        return True, at

    def source(self, key: str) -> str:
        """The source of a key; else that of the last setting below it; else that of the nearest setting above it."""
        parts = key.split(".")
        related = [k for k in self.sources if k.startswith(f"{key}.")][-1:]
        related += [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        return next((self.sources[k] for k in related if k in self.sources), "not given")


def report(title: str, raw: RawConfig, diagnostics: Sequence[Diagnostic]) -> str:
    """One line per diagnostic, in columns."""
    count = "1 error" if len(diagnostics) == 1 else f"{len(diagnostics)} errors"
    rows = []
    for diagnostic in diagnostics:
        is_given, value = raw.lookup(diagnostic.key)
        shown = f"{diagnostic.key} = {shorten(value)}" if is_given and not isinstance(value, dict) else diagnostic.key
        source = raw.source(diagnostic.key) if is_given else "not given"
        if diagnostic.word is not None:
            shown, source = diagnostic.word, "command line"
        rows.append((shown, f"({source})", diagnostic.text))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join([f"{title} has {count}", *(f"  {a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)])


def shorten(value: Any) -> str:
    text = without_secret(value if isinstance(value, str) else json.dumps(value, default=str))  # before it is cut
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def explain(error: ValidationError, root: type[BaseModel], tree: dict[str, Any]) -> list[Diagnostic]:
    """pydantic's errors as one diagnostic per dotted key."""
    by_key: dict[str, list[str]] = {}
    unknown_keys = set()
    for detail in error.errors(include_url=False):
        key, item = locate(detail, tree)
        text = describe(detail, key, root, tree)
        by_key.setdefault(key, []).append(f"item {item + 1}: {text}" if item is not None else text)
        if detail["type"] == "extra_forbidden":
            unknown_keys.add(key)
    return [Diagnostic(key, join(texts), is_unknown=key in unknown_keys) for key, texts in by_key.items()]


def locate(detail: ErrorDetails, tree: dict[str, Any]) -> tuple[str, int | None]:
    """pydantic's location without the names of union members, as a dotted key, and the index within a list."""
    at: Any = tree
    path: list[str] = []
    item = None
    *parents, last = detail["loc"] or ("",)
    for part in (*parents, last):
        if isinstance(part, int):
            item = part
        elif isinstance(at, dict) and part in at:
            path.append(part)
            at = at[part]
    if detail["type"] == "missing" and isinstance(last, str):
        path.append(last)
    if detail["type"] == "union_tag_invalid":
        path.append("name")
    return ".".join(path), item


def describe(detail: ErrorDetails, key: str, root: type[BaseModel], tree: dict[str, Any]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    place, _, name = key.rpartition(".")
    if kind == "extra_forbidden":
        return unknown(place, name, root, tree)
    if kind == "missing":
        return "is required" if detail["loc"] and isinstance(detail["loc"][-1], str) else "is required as well"
    if kind == "value_error":
        return str(context["error"])
    if kind == "union_tag_not_found":
        return f"needs a name: {either(sorted(set(names(root, tree, key))))}"
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = [word.strip(" '") for word in str(context.get("expected", context.get("expected_tags"))).split(",")]
        allowed = [word for part in allowed for word in part.split("' or '")]
        given = context.get("tag", detail["input"])
        return f"expected {either(allowed)}{suggest(closest(given, allowed))}"
    if kind in BOUNDS:
        return f"must be {BOUNDS[kind]} {next(iter(context.values()))}"
    expected = EXPECTED.get(kind.partition("_")[0])
    return f"expected {expected}" if expected and not kind.endswith("long") else detail["msg"].lower()


def join(texts: Sequence[str]) -> str:
    """The errors about one value; those of a union's members are alternatives."""
    first, *others = dict.fromkeys(texts)
    return " or ".join([first, *(text.removeprefix("expected ") for text in others)])


def unknown(place: str, name: str, root: type[BaseModel], tree: dict[str, Any]) -> str:
    """The settings that exist beside an unknown one, and the closest of them."""
    there = [key for key in fields_at(root, tree, place) if not (place and key == "name")]
    label = f'"{of}"' if (of := chosen_name(tree, place)) else place or "an experiment"
    elsewhere = [key for key in all_keys(root, tree) if key.rpartition(".")[2] == name][:2]
    return f"{label} has no such setting; it has {', '.join(there)}{suggest(closest(name, there) or elsewhere)}"


def chosen_name(tree: dict[str, Any], place: str) -> str | None:
    at: Any = tree
    for part in place.split(".") if place else []:
        at = at.get(part) if isinstance(at, dict) else None
    name = at.get("name") if place and isinstance(at, dict) else None
    return name if isinstance(name, str) else None


def closest(given: Any, allowed: Iterable[str]) -> list[str]:
    """The allowed name that is most like the given one, if any is like it."""
    in_lower_case = {name.lower(): name for name in allowed}
    return [in_lower_case[name] for name in difflib.get_close_matches(str(given).lower(), in_lower_case, n=1)]


def suggest(names: Sequence[str]) -> str:
    return f". Did you mean {' or '.join(names)}?" if names else ""


def either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def fields_at(root: type[BaseModel], tree: dict[str, Any], place: str) -> dict[str, Any]:
    """The settings (name → annotation) that exist at a dotted place of the tree."""
    annotation: Any = root
    at: Any = tree
    for part in place.split(".") if place else []:
        annotation = members(annotation, at).get(part, mapping_values(annotation))
        at = at.get(part) if isinstance(at, dict) else None
    return members(annotation, at)


def members(annotation: Any, given: Any) -> dict[str, Any]:
    """The settings of a model, or of the members of a union that `given` names."""
    models = list(models_of(annotation))
    name = given.get("name") if isinstance(given, dict) else None
    named = [model for model in models if name in names_of(model)]
    return {
        field.alias or key: field.annotation for model in named or models for key, field in model.model_fields.items()
    }


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from models_of(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for choice in get_args(annotation):
            yield from models_of(choice)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def mapping_values(annotation: Any) -> Any:
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def names_of(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def names(root: type[BaseModel], tree: dict[str, Any], key: str) -> Iterator[str]:
    """The names of the choices at `key`."""
    place, _, last = key.rpartition(".")
    there = fields_at(root, tree, place)
    parent = fields_at(root, tree, place.rpartition(".")[0]).get(place.rpartition(".")[2]) if place else None
    for model in models_of(there.get(last, mapping_values(parent))):
        yield from names_of(model)


def all_keys(root: type[BaseModel], tree: dict[str, Any], place: str = "") -> Iterator[str]:
    """The dotted key of every setting."""
    for name, annotation in fields_at(root, tree, place).items():
        key = f"{place}.{name}" if place else name
        found = RawConfig(tree, {}).lookup(key)[1]
        inner = found if get_origin(annotation) is dict and isinstance(found, dict) else None
        if inner is not None:
            for entry in inner:
                yield from all_keys(root, tree, f"{key}.{entry}")
        elif any(models_of(annotation)):
            yield from all_keys(root, tree, key)
        else:
            yield key
