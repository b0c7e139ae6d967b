"""Parsing `--over`, and the configurations of a space."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.errors import RequestError
from orchestration.sweeps.space import (
    Choice,
    Range,
    configuration_id,
    grid,
    read_axis,
    read_space,
    samples,
    shown,
    size,
)

numbers = st.floats(1e-6, 1e6).map(lambda x: float(f"{x:.4g}"))
ranges = st.tuples(numbers, numbers).filter(lambda ends: ends[0] < ends[1])
scalars = st.one_of(st.booleans(), st.none(), st.integers(-99, 99), numbers, st.sampled_from(["cal", "a b"]))


@given(ranges, st.sampled_from(["log", "uniform"]), st.integers(0, 5))
def test_a_range_gives_numbers_within_it(ends: tuple[float, float], name: str, seed: int) -> None:
    axis = read_axis(f"{name}({ends[0]}, {ends[1]})")
    assert axis == Range(*ends, log=name == "log")
    for values in islice(samples({"key": axis}, seed), 20):
        assert ends[0] <= values["key"] <= ends[1]


@given(ranges, st.integers(2, 9))
def test_a_number_of_values_is_evenly_spaced_in_the_logarithm(ends: tuple[float, float], count: int) -> None:
    axis = read_axis(f"log({ends[0]}, {ends[1]}, {count})")
    assert isinstance(axis, Choice)
    assert len(axis.values) == count
    assert (axis.values[0], axis.values[-1]) == pytest.approx(ends, rel=1e-5)
    steps = [after / before for before, after in zip(axis.values, axis.values[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-4)


@given(st.integers(-9, 9), st.integers(1, 9), st.integers(0, 9))
def test_whole_numbers_are_whole_and_both_ends_come_up(low: int, span: int, seed: int) -> None:
    space = read_space([f"key=int({low}, {low + span})"])
    found = [values["key"] for values in islice(samples(space, seed), 300)]
    assert all(type(number) is int for number in found)
    assert {low, low + span} <= set(found) <= set(range(low, low + span + 1))


@given(st.lists(scalars, min_size=2, max_size=5, unique_by=lambda value: configuration_id({"key": value})))
def test_a_list_gives_its_values_as_yaml_reads_them(values: list[object]) -> None:
    import yaml

    axis = read_axis(yaml.safe_dump(values, default_flow_style=True, width=1e9).strip())
    assert axis == Choice(tuple(values))
    assert [point["key"] for point in grid({"key": axis})] == values


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_draws_from_lists_are_each_combination_once(sizes: list[int], seed: int) -> None:
    space = {f"k{n}": Choice(tuple(range(length))) for n, length in enumerate(sizes)}
    drawn = {configuration_id(values) for values in samples(space, seed)}
    assert drawn == {configuration_id(values) for values in grid(space)}
    assert len(drawn) == size(space)


def test_fractions_are_numbers() -> None:
    assert read_axis("[0, 1/16, 0.5]") == Choice((0, 0.0625, 0.5))
    assert read_axis("log(1/64,1/4)") == Range(1 / 64, 1 / 4, log=True)
    assert read_axis("[[20, 40], null]") == Choice(([20, 40], None))
    assert read_axis("choice(cal, negative)") == Choice(("cal", "negative"))


def test_a_point_is_known_by_its_values_however_they_are_written() -> None:
    assert configuration_id({"a": 1, "b": 0.5}) == configuration_id({"b": 0.5, "a": 1.0})
    assert configuration_id({"a": 1, "b": 0.5}) != configuration_id({"a": 0.5, "b": 1})


def test_the_nth_draw_does_not_depend_on_how_many_came_before_it_in_this_process() -> None:
    space = read_space(["a=uniform(0, 1)", "b=log(1, 10)"])
    assert list(islice(samples(space, 3), 6))[4:] == list(islice(samples(space, 3), 4, 6))
    assert next(samples(space, 3)) != next(samples(space, 4))


def test_names_are_short_where_that_tells_them_apart() -> None:
    assert shown({"method.tau": 1 / 16, "augment.erase": 0}) == "tau = 0.0625, erase = 0"
    assert (
        shown({"optimizers.model.lr": 1, "optimizers.other.lr": 2})
        == "optimizers.model.lr = 1, optimizers.other.lr = 2"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("method.tau=log(1/4, 1/64)", r"method.tau = log\(1/4, 1/64\): low is above high: write log\(1/64, 1/4\)"),
        ("method.tau=uniform(1, 1)", "is empty: both ends are 1"),
        ("method.tau=[]", "is empty: list at least two values"),
        ("method.tau=[1]", "has only one value.*KEY=1"),
        ("method.tau=[1, 2, 1.0]", "1 is listed twice"),
        (f"method.tau=[{', '.join(map(str, range(20_000)))}]", "has 20000 values: list at most 10000"),
        ("method.tau=log(0, 1)", "log needs low above 0"),
        ("method.tau=log(1, 1/0)", "division by zero"),
        ("method.tau=int(1, 2.5)", "int needs whole numbers"),
        ("method.tau=normal(1, 2)", r"unknown function normal\(…\); expected"),
        ("method.tau=log(1)", r"expected log\(low, high\)"),
        ("method.tau=log(1, 2, x)", "with numbers such as"),
        ("method.tau=log(1, 2, 1)", "expected 2 to 10000"),
        ("method.tau=log(1, 2, 99999999999)", "expected 2 to 10000"),
        ("method.tau=log(1e400, 1/64)", "1e400: expected a number between 1e-300 and 1e300"),
        ("method.tau=log(1/64, 1e99999999999)", "expected a number between"),
        (f"method.tau=log(1, 1{'0' * 400})", "expected a number between"),
        ("method.tau=int(1, 1e30)", "int needs numbers of at most"),
        ("method.tau=[1e400, 1]", r"is not a list: '1e400' is not finite"),
        (f"method.tau={'[' * 2000}", "is not a list: nested deeper"),
        ("method.tau=&a [*a, 1]", r"expected \[…\], log"),
        ("method.tau=[&a [*a], 1]", "is not a list: aliases"),
        ("method.tau=[{2020-01-01: 3}, 1]", "is no text"),
        ("method.tau=[1, 2", "is not a list"),
        ("method.tau=0.3", "expected \\[…\\], log"),
        ("method.tau", "expected KEY=VALUES"),
    ],
)
def test_an_invalid_space_is_refused_with_the_fix(words: str, told: str) -> None:
    with pytest.raises(RequestError, match=f"(?s)--over has 1 error.*{told}"):
        read_space([words])


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(RequestError, match=r"(?s)2 errors.*a = \[\].*b: is given twice"):
        read_space(["a=[]", "b=[1, 2]", "b=[3, 4]"])
