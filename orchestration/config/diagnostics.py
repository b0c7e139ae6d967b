"""What is wrong with an experiment, all at once: key, value, where it came from, what is allowed, what was probably meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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
class Mistake:
    """`key` is dotted. `word` is what was typed, where it did not become a setting. `is_unknown`: there is no such key."""

    key: str
    text: str
    word: str | None = None
    is_unknown: bool = False


@dataclass(frozen=True)
class Given:
    """The tree as it was given, and where each dotted key of it came from."""

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
        """Where a key was given, or the last of the settings that are part of it, or those that it is part of."""
        parts = key.split(".")
        related = [k for k in self.sources if k.startswith(f"{key}.")][-1:]
        related += [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        return next((self.sources[k] for k in related if k in self.sources), "not given")


def report(title: str, given: Given, mistakes: Sequence[Mistake]) -> str:
    """One line per mistake, in columns."""
    count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    rows = []
    for mistake in mistakes:
        is_given, value = given.lookup(mistake.key)
        shown = f"{mistake.key} = {shorten(value)}" if is_given and not isinstance(value, dict) else mistake.key
        source = given.source(mistake.key) if is_given else "not given"
        if mistake.word is not None:
            shown, source = mistake.word, "command line"
        rows.append((shown, f"({source})", mistake.text))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join([f"{title} has {count}", *(f"  {a:{widths[0]}}  {b:{widths[1]}}  {c}" for a, b, c in rows)])


def shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def explain(error: ValidationError, root: type[BaseModel], tree: dict[str, Any]) -> list[Mistake]:
    """pydantic's findings by dotted key, each once, in this project's words."""
    by_key: dict[str, list[str]] = {}
    unknown_keys = set()
    for detail in error.errors(include_url=False):
        key, item = locate(detail, tree)
        text = describe(detail, key, root, tree)
        by_key.setdefault(key, []).append(f"item {item + 1}: {text}" if item is not None else text)
        if detail["type"] == "extra_forbidden":
            unknown_keys.add(key)
    return [Mistake(key, join(texts), is_unknown=key in unknown_keys) for key, texts in by_key.items()]


def locate(detail: ErrorDetails, tree: dict[str, Any]) -> tuple[str, int | None]:
    """pydantic's place without the names of union members in it, and the number of the list's item."""
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
        return "is needed" if detail["loc"] and isinstance(detail["loc"][-1], str) else "is needed as well"
    if kind == "value_error":
        return str(context["error"])
    if kind == "union_tag_not_found":
        return f"needs a name: {either(sorted(set(names(root, tree, key))))}"
    if kind in ("literal_error", "union_tag_invalid"):
        allowed = [word.strip(" '") for word in str(context.get("expected", context.get("expected_tags"))).split(",")]
        allowed = [word for part in allowed for word in part.split("' or '")]
        given = context.get("tag", detail["input"])
        return f"expected {either(allowed)}{meant(given, allowed)}"
    if kind in BOUNDS:
        return f"must be {BOUNDS[kind]} {next(iter(context.values()))}"
    expected = EXPECTED.get(kind.partition("_")[0])
    return f"expected {expected}" if expected and not kind.endswith("long") else detail["msg"].lower()


def join(texts: Sequence[str]) -> str:
    """The findings about one value; a union's are alternatives."""
    first, *others = dict.fromkeys(texts)
    return " or ".join([first, *(text.removeprefix("expected ") for text in others)])


def unknown(place: str, name: str, root: type[BaseModel], tree: dict[str, Any]) -> str:
    """What there is instead of a setting that there is not."""
    there = [key for key in fields_at(root, tree, place) if not (place and key == "name")]
    label = f'"{of}"' if (of := chosen_name(tree, place)) else place or "an experiment"
    close = difflib.get_close_matches(name, there, n=1)
    elsewhere = [key for key in all_keys(root, tree) if key.rpartition(".")[2] == name][:2]
    suggestion = close or elsewhere
    return f"{label} has no such setting; it has {', '.join(there)}." + (
        f" Meant {' or '.join(suggestion)}?" if suggestion else ""
    )


def chosen_name(tree: dict[str, Any], place: str) -> str | None:
    at: Any = tree
    for part in place.split(".") if place else []:
        at = at.get(part) if isinstance(at, dict) else None
    name = at.get("name") if place and isinstance(at, dict) else None
    return name if isinstance(name, str) else None


def meant(given: Any, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(given), list(allowed), n=1)
    return f". Meant {close[0]}?" if close else ""


def either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def fields_at(root: type[BaseModel], tree: dict[str, Any], place: str) -> dict[str, Any]:
    """Settings (name → annotation) that there are at a dotted place of the tree."""
    annotation: Any = root
    at: Any = tree
    for part in place.split(".") if place else []:
        annotation = members(annotation, at).get(part, mapping_values(annotation))
        at = at.get(part) if isinstance(at, dict) else None
    return members(annotation, at)


def members(annotation: Any, given: Any) -> dict[str, Any]:
    """Settings of a model, or of those models of a union that `given` names."""
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
    """The names by which the choices at `key` are told apart."""
    place, _, last = key.rpartition(".")
    there = fields_at(root, tree, place)
    parent = fields_at(root, tree, place.rpartition(".")[0]).get(place.rpartition(".")[2]) if place else None
    for model in models_of(there.get(last, mapping_values(parent))):
        yield from names_of(model)


def all_keys(root: type[BaseModel], tree: dict[str, Any], place: str = "") -> Iterator[str]:
    """Dotted keys of every setting there is."""
    for name, annotation in fields_at(root, tree, place).items():
        key = f"{place}.{name}" if place else name
        found = Given(tree, {}).lookup(key)[1]
        inner = found if get_origin(annotation) is dict and isinstance(found, dict) else None
        if inner is not None:
            for entry in inner:
                yield from all_keys(root, tree, f"{key}.{entry}")
        elif any(models_of(annotation)):
            yield from all_keys(root, tree, key)
        else:
            yield key
