"""The space of a sweep: the keys of the experiment that vary, and their values. `--over KEY=VALUES`.

method.epsilon=[0, 0.1, 0.5]        these values (any YAML; fractions such as 1/16 are numbers)
method.tau=log(1/64, 1/4)           a range, sampled uniformly in the logarithm
method.tau=log(1/64, 1/4, 5)        five values of it, evenly spaced in the logarithm
batch.images=int(2, 8)              whole numbers, both ends included
augment.erase=uniform(0, 1)         a range, sampled uniformly; uniform(0, 1, 5): five values of it
method.objective=choice(cal, negative)
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import yaml

from orchestration.config.recipes import Loader, one_line
from orchestration.errors import RequestError

Values = dict[str, Any]  # dotted key → value: a configuration
POWER = re.compile(r"[eE]([-+]?\d+)")
LARGEST_POWER = 300
LONGEST_NUMBER = 40  # characters
LARGEST_WHOLE = 2**53
MAX_VALUES = 10_000  # of one setting
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(\s*/\s*\d+(\.\d+)?)?\s*")
CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)
KINDS = "[…], log(low, high), uniform(low, high), int(low, high), choice(…)"
DIGITS = 6  # significant digits of a sampled number


@dataclass(frozen=True)
class Choice:
    """A choice between listed values."""

    values: tuple[Any, ...]

    def sample(self, generator: np.random.Generator) -> Any:
        return self.values[int(generator.integers(len(self.values)))]

    def ends(self) -> Sequence[Any]:
        return self.values


@dataclass(frozen=True)
class Range:
    """A number in [low, high], sampled uniformly, or uniformly in its logarithm (log); whole numbers only if `whole`."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def sample(self, generator: np.random.Generator) -> float:
        if self.whole:
            return int(generator.integers(int(self.low), int(self.high) + 1))
        if self.log:
            return self.within(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return self.within(generator.uniform(self.low, self.high))

    def within(self, number: float) -> float:
        """The number rounded to DIGITS significant digits, in the range."""
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)

    def ends(self) -> Sequence[float]:
        """Both ends and, of real numbers, one between that is not whole."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.within(self.middle()), self.high)

    def middle(self) -> float:
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2 + (self.high - self.low) / 7


Axis = Choice | Range
Space = Mapping[str, Axis]


def read_space(words: Sequence[str]) -> dict[str, Axis]:
    """Parse `KEY=VALUES` arguments. Raises: RequestError listing every error."""
    space: dict[str, Axis] = {}
    errors = []
    for word in words:
        key, is_one, text = word.partition("=")
        if not is_one or not re.fullmatch(r"\w[\w-]*(\.\w[\w-]*)*", key):
            errors.append(f"{word}: expected KEY=VALUES, such as method.tau='log(1/64, 1/4)'")
        elif key in space:
            errors.append(f"{key}: is given twice; list all its values in one --over")
        else:
            try:
                space[key] = read_axis(text)
            except ValueError as error:
                errors.append(f"{key} = {text}: {error}")
    if errors:
        listed = "".join(f"\n  {error}" for error in errors)
        raise RequestError(f"--over has {'1 error' if len(errors) == 1 else f'{len(errors)} errors'}{listed}")
    return space


def read_axis(text: str) -> Axis:
    """Parse the values of one key. Raises: ValueError with the rule and the fix."""
    if call := CALL.fullmatch(text):
        name, arguments = call.groups()
        if name == "choice":
            return choice(read_list(f"[{arguments}]"))
        if name in ("log", "uniform", "int"):
            return read_range(name, arguments)
        raise ValueError(f"unknown function {name}(…); expected {KINDS}")
    if text.lstrip().startswith("["):
        return choice(read_list(text))
    raise ValueError(f"expected {KINDS}")


def read_list(text: str) -> list[Any]:
    try:
        values = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"is not a list: {one_line(error)}") from error
    return [with_fractions(value) for value in values]


def with_fractions(value: Any) -> Any:
    if isinstance(value, list):
        return [with_fractions(one) for one in value]
    return number(value) if isinstance(value, str) and "/" in value and NUMBER.fullmatch(value) else value


def choice(values: Sequence[Any]) -> Choice:
    if not values:
        raise ValueError("is empty: list at least two values")
    if len(values) > MAX_VALUES:
        raise ValueError(f"has {len(values)} values: list at most {MAX_VALUES}")
    written = [canonical(value) for value in values]
    if twice := next((one for one, count in Counter(written).items() if count > 1), None):
        raise ValueError(f"{twice} is listed twice")
    if len(values) == 1:
        raise ValueError(f"has only one value: list more, or use KEY={written[0]} without --over")
    return Choice(tuple(values))


def read_range(name: str, arguments: str) -> Axis:
    words = arguments.split(",")
    if len(words) not in (2, 3) or not all(NUMBER.fullmatch(word) for word in words):
        raise ValueError(
            f"expected {name}(low, high) or {name}(low, high, number of values), with numbers such as 1/64"
        )
    low, high = number(words[0]), number(words[1])
    if low == high:
        raise ValueError(f"is empty: both ends are {low:g}")
    if low > high:
        raise ValueError(f"low is above high: write {name}({words[1].strip()}, {words[0].strip()})")
    if name == "log" and low <= 0:
        raise ValueError(f"log needs low above 0, not {low:g}; use uniform(…), or a list")
    if name == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise ValueError(f"int needs whole numbers, not {low:g} and {high:g}")
    if name == "int" and max(abs(low), abs(high)) > LARGEST_WHOLE:
        raise ValueError(f"int needs numbers of at most {LARGEST_WHOLE}")
    axis = Range(low, high, log=name == "log", whole=name == "int")
    return axis if len(words) == 2 else spaced(axis, words[2].strip())


def spaced(axis: Range, count: str) -> Choice:
    if not count.isdigit() or not 2 <= number(count) <= MAX_VALUES:
        raise ValueError(f"the number of values is {count}: expected 2 to {MAX_VALUES}")
    space = np.geomspace if axis.log else np.linspace
    numbers = [axis.within(x) for x in space(axis.low, axis.high, int(count)).tolist()]
    return Choice(tuple(dict.fromkeys(round(x) for x in numbers) if axis.whole else numbers))


def number(text: str) -> float:
    above, _, below = text.partition("/")
    if below and not Fraction(below.strip()):
        raise ValueError(f"{text}: division by zero")
    if len(text) > LONGEST_NUMBER or any(abs(int(power)) > LARGEST_POWER for power in POWER.findall(text)):
        raise ValueError(f"{text[:LONGEST_NUMBER]}: expected a number between 1e-{LARGEST_POWER} and 1e{LARGEST_POWER}")
    value = Fraction(above.strip()) / Fraction(below.strip() or 1)
    return int(value) if value.denominator == 1 and not set(text) & set(".eE") else float(value)


def canonical(value: Any) -> str:
    """A canonical text: equal values give equal text, however they were written."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)


def configuration_id(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that identify a configuration: a digest of its values, independent of their order."""
    text = json.dumps({key: canonical(value) for key, value in values.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def listed(axis: Axis) -> Sequence[Any] | None:
    """All values of an axis, None if they are infinite."""
    if isinstance(axis, Choice):
        return axis.values
    return range(int(axis.low), int(axis.high) + 1) if axis.whole else None


def is_finite(space: Space) -> bool:
    return all(listed(axis) is not None for axis in space.values())


def grid(space: Space) -> Iterator[Values]:
    """Every configuration of a finite space; the last key varies fastest."""
    lists = [listed(axis) or () for axis in space.values()]
    for combination in itertools.product(*lists):
        yield dict(zip(space, combination, strict=True))


def size(space: Space) -> int:
    """The number of configurations of a finite space."""
    return math.prod(len(listed(axis) or ()) for axis in space.values())


def samples(space: Space, seed: int) -> Iterator[Values]:
    """Random configurations without repetition, infinite unless the space is finite. Sample n depends only on (seed, n)."""
    known: set[str] = set()
    limit = size(space) if is_finite(space) else math.inf
    n = 0
    while len(known) < limit:
        generator = np.random.default_rng((seed, n))
        values = {key: axis.sample(generator) for key, axis in space.items()}
        n += 1
        if configuration_id(values) not in known:
            known.add(configuration_id(values))
            yield values


def shown(values: Mapping[str, Any]) -> str:
    """As in tau = 0.0625, epsilon = 0.1: the last part of each key where these differ."""
    short = short_names(values)
    return ", ".join(f"{short[key]} = {format_value(value)}" for key, value in values.items())


def format_value(value: Any) -> str:
    """A number in four significant digits, or as 1/n where that is exact and four digits are not."""
    if not isinstance(value, float):
        return value if isinstance(value, str) else json.dumps(value)
    text = f"{value:.4g}"
    whole = round(1 / value) if 0 < value < 1 else 0
    return f"1/{whole}" if whole and float(text) != value and 1 / whole == value else text


def short_names(keys: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: name if list(last.values()).count(name) == 1 else key for key, name in last.items()}
