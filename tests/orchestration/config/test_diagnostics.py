"""Errors of a small configuration: where they come from, what is allowed, what was probably meant."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from orchestration.config.diagnostics import (
    Diagnostic,
    RawConfig,
    all_keys,
    closest,
    either,
    explain,
    report,
    shorten,
    suggest,
)  # fmt: skip


class Circle(BaseModel, extra="forbid"):
    name: Literal["circle"]
    radius: float = Field(gt=0)


class Square(BaseModel, extra="forbid"):
    name: Literal["square"]
    side: int = Field(default=1, ge=1, le=9)


class Drawing(BaseModel, extra="forbid"):
    shape: Annotated[Circle | Square, Field(discriminator="name")]
    pens: dict[str, Square] = {}
    sizes: tuple[int, int] | None = None
    title: str | int = ""


def errors(tree: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ValidationError) as raised:
        Drawing.model_validate(tree, strict=False)
    return {found.key: found.text for found in explain(raised.value, Drawing, tree)}


CIRCLE = {"name": "circle", "radius": 1}


@pytest.mark.parametrize(
    ("tree", "key", "text"),
    [
        ({"shape": CIRCLE | {"radius": 0}}, "shape.radius", "must be above 0.0"),
        ({"shape": {"name": "square", "side": 10}}, "shape.side", "must be at most 9"),
        ({"shape": {"name": "square", "side": "x"}}, "shape.side", "expected a whole number"),
        ({"shape": {"name": "circle"}}, "shape.radius", "is required"),
        ({}, "shape", "is required"),
        ({"shape": {"radius": 1}}, "shape", "needs a name: circle or square"),
        ({"shape": {"name": "cirle"}}, "shape.name", "expected circle or square. Did you mean circle?"),
        (
            {"shape": CIRCLE | {"radus": 1}},
            "shape.radus",
            '"circle" has no such setting; it has radius. Did you mean radius?',
        ),
        (
            {"shape": CIRCLE, "radius": 1},
            "radius",
            "an experiment has no such setting; it has shape, pens, sizes, title. Did you mean shape.radius?",
        ),
        ({"shape": CIRCLE, "sizes": [1, "x"]}, "sizes", "item 2: expected a whole number"),
        ({"shape": CIRCLE, "pens": {"red": {"name": "square", "side": 0}}}, "pens.red.side", "must be at least 1"),
    ],
)
def test_an_error_names_its_dotted_key_and_what_is_allowed(tree: dict[str, Any], key: str, text: str) -> None:
    assert errors(tree) == {key: text}


def test_the_alternatives_of_a_union_are_one_error() -> None:
    found = errors({"shape": CIRCLE, "title": [1]})
    assert found.keys() == {"title"}
    assert found["title"].count(" or ") == 1


def test_keys_of_chosen_members_and_of_mappings_are_listed() -> None:
    tree = {"shape": CIRCLE, "pens": {"red": {"name": "square"}}}
    assert list(all_keys(Drawing, tree)) == [
        "shape.name", "shape.radius", "pens.red.name", "pens.red.side", "sizes", "title",
    ]  # fmt: skip


def test_a_key_has_the_nearest_source() -> None:
    raw = RawConfig({"a": {"b": {"c": None}}}, {"a": "file", "a.b.c": "command line"})
    assert raw.lookup("a.b.c") == (True, None)
    assert ("a.b" in raw, "a.x" in raw, "a.b.c.d" in raw) == (True, False, False)
    assert [raw.source(key) for key in ("a.b.c", "a.b", "a.x", "z")] == [
        "command line", "command line", "file", "not given",
    ]  # fmt: skip
    assert RawConfig({}, {"a": "file"}).source("a.b.c") == "file"


def test_a_report_has_one_aligned_line_per_error() -> None:
    raw = RawConfig({"a": 1, "long": {"key": "x" * 99}}, {"a": "file", "long": "run"})
    found = [Diagnostic("a", "first"), Diagnostic("long.key", "second"), Diagnostic("", "third", word="oops")]
    title, *lines = report("it", raw, [*found, Diagnostic("gone", "fourth")]).splitlines()
    assert title == "it has 4 errors"
    assert [line.split()[-1] for line in lines] == ["first", "second", "third", "fourth"]
    assert len({line.index("(") for line in lines}) == 1
    assert lines[0].startswith("  a = 1 ")
    assert "(run)" in lines[1]
    assert "…" in lines[1]
    assert "(command line)" in lines[2]
    assert "(not given)" in lines[3]
    assert report("it", raw, found[:1]).startswith("it has 1 error\n")


def test_names_are_suggested_only_if_they_are_close() -> None:
    assert closest("epsilonn", ["tau", "epsilon"]) == ["epsilon"]
    assert closest(3, ["tau"]) == []
    assert closest("EPSILON", ["tau", "epsilon"]) == ["epsilon"]
    assert closest("map", ["mAP", "mINP"]) == ["mAP"]
    assert (suggest(["a", "b"]), suggest([])) == (". Did you mean a or b?", "")
    assert [either(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a or b", "a, b or c"]
    assert (shorten({"k": 1}), len(shorten("x" * 99))) == ('{"k": 1}', 48)
