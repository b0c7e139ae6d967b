"""The space of a sweep: which keys of the experiment are varied, and over what. `--over KEY=VALUES`.

method.epsilon=[0, 0.1, 0.5]        these values (any YAML; fractions such as 1/16 are numbers)
method.tau=log(1/64, 1/4)           a range, drawn evenly in the logarithm
method.tau=log(1/64, 1/4, 5)        five values of it, evenly spaced in the logarithm
batch.images=int(2, 8)              whole numbers, both ends included
augment.erase=uniform(0, 1)         a range; uniform(0, 1, 5): five values of it
method.objective=choice(cal, negative)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import yaml

from orchestration.config.recipes import Loader, one_line
from orchestration.errors import RequestError

Values = dict[str, Any]  # dotted key → value: a point of the space
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(\s*/\s*\d+(\.\d+)?)?\s*")
CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
KINDS = "[…], log(low, high), uniform(low, high), int(low, high), choice(…)"
DECIMALS = 6  # significant digits of a drawn number: as many as anybody writes down


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[Any, ...]

    def draw(self, generator: np.random.Generator) -> Any:
        return self.values[int(generator.integers(len(self.values)))]

    def ends(self) -> Sequence[Any]:
        return self.values


@dataclass(frozen=True)
class Range:
    """A number from low to high, both included, evenly or (log) evenly in its logarithm; whole where `whole`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, generator: np.random.Generator) -> float:
        if self.whole:
            return int(generator.integers(int(self.low), int(self.high) + 1))
        if self.log:
            return self.within(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return self.within(generator.uniform(self.low, self.high))

    def within(self, number: float) -> float:
        """A drawn number with a few digits, in the range."""
        return min(max(float(f"{number:.{DECIMALS}g}"), self.low), self.high)

    def ends(self) -> Sequence[float]:
        """Both, and what lies between: of whole numbers wanted, it is none."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.within(self.middle()), self.high)

    def middle(self) -> float:
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2 + (self.high - self.low) / 7


Axis = Choice | Range
Space = Mapping[str, Axis]


def read_space(words: Sequence[str]) -> dict[str, Axis]:
    """`KEY=VALUES` words. Raises: RequestError with all mistakes."""
    space: dict[str, Axis] = {}
    mistakes = []
    for word in words:
        key, is_one, text = word.partition("=")
        if not is_one or not re.fullmatch(r"\w[\w-]*(\.\w[\w-]*)*", key):
            mistakes.append(f"{word}: expected KEY=VALUES, such as method.tau='log(1/64, 1/4)'")
        elif key in space:
            mistakes.append(f"{key}: is given twice; name all its values in one place")
        else:
            try:
                space[key] = read_axis(text)
            except ValueError as error:
                mistakes.append(f"{key} = {text}: {error}")
    if mistakes:
        listed = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise RequestError(f"--over has {'a mistake' if len(mistakes) == 1 else f'{len(mistakes)} mistakes'}{listed}")
    return space


def read_axis(text: str) -> Axis:
    """Raises: ValueError with the rule and the mend."""
    if call := CALL.fullmatch(text):
        name, arguments = call.groups()
        if name == "choice":
            return choice(read_list(f"[{arguments}]"))
        if name in ("log", "uniform", "int"):
            return read_range(name, arguments)
        raise ValueError(f"there is no {name}(…); expected {KINDS}")
    if text.lstrip().startswith("["):
        return choice(read_list(text))
    raise ValueError(f"expected {KINDS}")


def read_list(text: str) -> list[Any]:
    try:
        values = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"no list: {one_line(error)}") from error
    return [with_fractions(value) for value in values]


def with_fractions(value: Any) -> Any:
    if isinstance(value, list):
        return [with_fractions(one) for one in value]
    return number(value) if isinstance(value, str) and "/" in value and NUMBER.fullmatch(value) else value


def choice(values: Sequence[Any]) -> Choice:
    if not values:
        raise ValueError("is empty: name at least two values")
    written = [canonical(value) for value in values]
    if twice := next((one for one in written if written.count(one) > 1), None):
        raise ValueError(f"{twice} stands there twice")
    if len(values) == 1:
        raise ValueError(f"has one value alone: name more, or set it with KEY={written[0]} in place of --over")
    return Choice(tuple(values))


def read_range(name: str, arguments: str) -> Axis:
    words = arguments.split(",")
    if len(words) not in (2, 3) or not all(NUMBER.fullmatch(word) for word in words):
        raise ValueError(f"expected {name}(low, high), or {name}(low, high, how many values), in numbers such as 1/64")
    low, high = number(words[0]), number(words[1])
    if low == high:
        raise ValueError(f"is empty: both ends are {low:g}")
    if low > high:
        raise ValueError(f"is inverted: write {name}({words[1].strip()}, {words[0].strip()})")
    if name == "log" and low <= 0:
        raise ValueError(f"a logarithm needs a low end above 0, not {low:g}; take uniform(…), or a list")
    if name == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise ValueError(f"int has whole ends, not {low:g} and {high:g}")
    axis = Range(low, high, log=name == "log", whole=name == "int")
    return axis if len(words) == 2 else spaced(axis, words[2].strip())


def spaced(axis: Range, count: str) -> Choice:
    if not count.isdigit() or int(count) < 2:
        raise ValueError(f"{count} is no number of values: expected 2 or more")
    space = np.geomspace if axis.log else np.linspace
    numbers = [axis.within(x) for x in space(axis.low, axis.high, int(count)).tolist()]
    return Choice(tuple(dict.fromkeys(round(x) for x in numbers) if axis.whole else numbers))


def number(text: str) -> float:
    above, _, below = text.partition("/")
    if below and not Fraction(below.strip()):
        raise ValueError(f"{text}: division by zero")
    value = Fraction(above.strip()) / Fraction(below.strip() or 1)
    return int(value) if value.denominator == 1 and not set(text) & set(".eE") else float(value)


def canonical(value: Any) -> str:
    """The same text for the same value, however it was written."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)


def configuration_id(values: Mapping[str, Any]) -> str:
    """Twelve characters by which a point is known: of its values alone, in whatever order."""
    text = json.dumps({key: canonical(value) for key, value in values.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def listed(axis: Axis) -> Sequence[Any] | None:
    """All values of an axis, None where there is no end of them."""
    if isinstance(axis, Choice):
        return axis.values
    return range(int(axis.low), int(axis.high) + 1) if axis.whole else None


def is_finite(space: Space) -> bool:
    return all(listed(axis) is not None for axis in space.values())


def grid(space: Space) -> Iterator[Values]:
    """Every combination; the last key varies fastest. The space must be finite."""
    lists = [listed(axis) or () for axis in space.values()]
    for combination in itertools.product(*lists):
        yield dict(zip(space, combination, strict=True))


def size(space: Space) -> int:
    """How many points a finite space has."""
    return math.prod(len(listed(axis) or ()) for axis in space.values())


def draws(space: Space, seed: int) -> Iterator[Values]:
    """Points drawn at random, each once, without end unless the space is finite. The n-th depends on seed and n alone."""
    seen: set[str] = set()
    limit = size(space) if is_finite(space) else math.inf
    n = 0
    while len(seen) < limit:
        generator = np.random.default_rng((seed, n))
        values = {key: axis.draw(generator) for key, axis in space.items()}
        n += 1
        if configuration_id(values) not in seen:
            seen.add(configuration_id(values))
            yield values


def shown(values: Mapping[str, Any]) -> str:
    """As in tau = 0.0625, epsilon = 0.1: the last part of each key where that tells them apart."""
    short = short_names(values)
    return ", ".join(f"{short[key]} = {told(value)}" for key, value in values.items())


def told(value: Any) -> str:
    """A number in four digits, or as 1/n where it is that and four are too few."""
    if not isinstance(value, float):
        return value if isinstance(value, str) else json.dumps(value)
    text = f"{value:.4g}"
    whole = round(1 / value) if 0 < value < 1 else 0
    return f"1/{whole}" if whole and float(text) != value and 1 / whole == value else text


def short_names(keys: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}
