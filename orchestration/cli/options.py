"""The options of a command as the annotated attributes of a class, each declared once: type, default, help, argparse.

    class VerifyOptions(Options):
        address: str = argument("ADDRESS", "the data set")

mypy checks that an attribute's type is that of its default and of its `parse` function, and that commands read
attributes that exist. Dataclasses would cost a third of the start-up time of `redress --help`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, overload

from orchestration.cli.argument_types import any_address

T = TypeVar("T")
Text = TypeVar("Text", bound=str | None)

# Help that several commands share.
MODEL = "a run's id or storage, a checkpoint, models:/NAME/VERSION or models:/NAME@ALIAS"
SETTINGS = "settings to change, such as batch.people=16; values are YAML"


class Argument(NamedTuple):
    """What an attribute stands for on the command line.

    settings: of argparse's `add_argument`. flag: such as --with; None: the attribute's name with dashes.
    takes_settings: whether its values may be key=value.
    """

    settings: dict[str, Any]
    is_positional: bool = False
    flag: str | None = None
    takes_settings: bool = False

    @property
    def takes_several(self) -> bool:
        return self.is_positional and self.settings.get("nargs") == "*"

    def add_to(self, parser: argparse.ArgumentParser | argparse._ArgumentGroup, name: str) -> None:
        if self.is_positional:
            parser.add_argument(name, **self.settings)
        else:
            parser.add_argument(self.flag_of(name), dest=name, **self.settings)

    def flag_of(self, name: str) -> str:
        return self.flag or f"--{name.replace('_', '-')}"


class Options:
    """Base of all options: a value for each declared attribute, given by name."""

    def __init__(self, **values: Any) -> None:
        if values.keys() != self.arguments().keys():
            raise TypeError(f"{type(self).__name__} has {list(self.arguments())}, got {list(values)}")
        vars(self).update(values)

    @classmethod
    def arguments(cls) -> dict[str, Argument]:
        """Attribute → argument, in the order of the class body, which is the order of positional arguments."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Argument)}


def argument(
    metavar: str, help: str | None = None, *, default: str | None = None, parse: Callable[[str], str] = str
) -> str:
    """A positional argument. It may be left out where there is a default. parse: as in `option`."""
    optional = {} if default is None else {"nargs": "?", "default": default}
    return _declare(Argument({"metavar": metavar, "help": help, "type": parse, **optional}, is_positional=True))


def arguments(metavar: str, help: str, *, takes_settings: bool = False) -> list[str]:
    """Any number of positional arguments, also between and after options."""
    settings = {"metavar": metavar, "help": help, "nargs": "*", "default": []}
    return _declare(Argument(settings, is_positional=True, takes_settings=takes_settings))


@overload
def option(
    default: Text,
    help: str,
    *,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    flag: str | None = None,
) -> Text: ...
@overload
def option(default: T, help: str, *, parse: Callable[[str], T], metavar: str | None = None) -> T: ...
def option(
    default: Any,
    help: str,
    *,
    parse: Callable[[str], Any] = str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    flag: str | None = None,
) -> Any:
    """An option with a value. parse: text → value; argparse reports its ArgumentTypeError or ValueError."""
    settings = {"default": default, "type": parse, "metavar": metavar, "choices": choices, "help": help}
    return Argument(settings, flag=flag)


def required(help: str, *, metavar: str, parse: Callable[[str], str] = str) -> str:
    """An option with a value that has to be given. parse: as in `option`."""
    return _declare(Argument({"required": True, "metavar": metavar, "help": help, "type": parse}))


def repeated(help: str, *, metavar: str) -> list[str]:
    """An option that may be given several times."""
    return _declare(Argument({"action": "append", "default": [], "metavar": metavar, "help": help}))


def switch(help: str) -> bool:
    """An option without a value: false unless given."""
    return _declare(Argument({"action": "store_true", "help": help}))


def _declare(declared: Argument) -> Any:
    return declared


class CommonOptions(Options):
    """What every command takes, wherever it stands."""

    json: bool = switch("print one JSON object on stdout and nothing else")
    result: str | None = option(
        None,
        "write the same object to a path or s3://…, also if the command fails",
        metavar="ADDRESS",
        parse=any_address,
    )
    debug: bool = switch("show the traceback of an error")
