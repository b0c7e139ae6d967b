"""A command as one typed object over argparse: its name, its help, its options, its call and its view."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from orchestration.cli.options import CommonOptions, Options
from orchestration.errors import RequestError

Answer = dict[str, Any]
OptionsT = TypeVar("OptionsT", bound=Options)


class Command(NamedTuple, Generic[OptionsT]):
    """call: options → plain data, the JSON answer. show: prints that answer for people. epilog: the end of the help.

    Both import what is heavy when they run: `redress --help` reads every command.
    """

    name: str
    help: str
    options: type[OptionsT]
    call: Callable[[OptionsT], Answer]
    show: Callable[[Answer], None]
    epilog: str = ""

    def parse(self, args: Sequence[str], path: str = "") -> OptionsT:
        """args: without the common options and the command's own name. path: the full name, such as "data synth".

        Raises: RequestError where an argument is unknown, missing or malformed; SystemExit after --help.
        """
        path = path or self.name
        parser = self.parser(path)
        declared = self.options.arguments()
        flags = [argument.flag_of(name) for name, argument in declared.items() if not argument.is_positional]
        several = next((name for name, argument in declared.items() if argument.takes_several), None)
        takes_settings = several is not None and declared[several].takes_settings
        check_flags(args, [*flags, *HELP], parser, takes_settings)
        found, rest = parser.parse_known_args(args)
        values = {name: getattr(found, name) for name in declared}
        if rest and several is None:
            parser.error(f"unexpected argument {rest[0]!r}")
        if rest and several:  # argparse takes those before the first option only
            values[several] = [*values[several], *rest]
        return self.options(**values)

    def parser(self, path: str) -> Parser:
        parser = Parser(prog=f"redress {path}", description=sentence(self.help), epilog=self.epilog or None)
        if self.epilog:
            parser.formatter_class = argparse.RawDescriptionHelpFormatter
        for name, argument in self.options.arguments().items():
            argument.add_to(parser, name)
        add_common(parser)
        return parser


class Group(NamedTuple):
    """Commands under one name, as in `redress data synth`. default: what the name alone runs."""

    name: str
    help: str
    commands: tuple[Command[Any] | Group, ...]
    default: Command[Any] | None = None
    description: str = ""

    def find(self, args: Sequence[str], path: str = "") -> tuple[str, Command[Any], Sequence[str]]:
        """The full name of the command that `args` start with, the command, and the arguments left to it.

        Raises: RequestError where there is none; SystemExit after --help.
        """
        name = args[0] if args else None
        parser = self.parser(path)
        if name in HELP:
            parser.print_help()
            raise SystemExit(0)
        if self.default and (name is None or name.startswith("-")):
            return path, self.default, args
        if name is None:
            parser.error(f"which command? {', '.join(self.subcommands())}")
        check_flags(args[:1], [*HELP, *self.flags()], parser)
        entry = next((entry for entry in self.commands if entry.name == name), None)
        if entry is None:
            parser.error(f"unknown command {name!r}{self.suggestion(name)}")
        below = f"{path} {name}".strip()
        return entry.find(args[1:], below) if isinstance(entry, Group) else (below, entry, args[1:])

    def subcommands(self) -> list[str]:
        return [entry.name for entry in self.commands if not entry.name.startswith("-")]

    def flags(self) -> list[str]:
        """Commands that are typed as an option, as in `redress --version`."""
        return [entry.name for entry in self.commands if entry.name.startswith("-")]

    def walk(self, path: str = "") -> Iterator[tuple[str, Command[Any]]]:
        """Every command below this group with its full name."""
        if self.default:
            yield path, self.default
        for entry in self.commands:
            below = f"{path} {entry.name}".strip()
            yield from entry.walk(below) if isinstance(entry, Group) else [(below, entry)]

    def suggestion(self, name: str) -> str:
        """A close name of this group, else the full names of commands further down that are called so, else all names."""
        close = closest(name, self.subcommands())
        further = [path for path, command in self.walk() if command.name == name]
        return did_you_mean([close] if close else further) or f". There are {', '.join(self.subcommands())}"

    def parser(self, path: str) -> Parser:
        parser = Parser(prog=f"redress {path}".strip(), description=self.description or sentence(self.help))
        listed = parser.add_subparsers(
            metavar="[COMMAND]" if self.default else "COMMAND", title="commands", prog=parser.prog
        )
        for entry in self.commands:
            if entry.name.startswith("-"):
                parser.add_argument(entry.name, action="store_true", help=entry.help)
            else:
                listed.add_parser(entry.name, help=entry.help, add_help=False)
        add_common(parser)
        return parser


HELP = ("-h", "--help")


class Parser(argparse.ArgumentParser):
    """An error is one message and exit status 2, as everywhere else; no option may be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}\n{self.format_usage().strip()}\nMore: {self.prog} --help")


def add_common(parser: Parser) -> None:
    group = parser.add_argument_group("options of every command")
    for name, argument in CommonOptions.arguments().items():
        argument.add_to(group, name)


def parse_common(args: Sequence[str]) -> tuple[CommonOptions, list[str]]:
    """The options of every command, and the other arguments in their order. Raises: RequestError."""
    for arg in args:
        if re.search("[\ud800-\udfff]", arg):  # how Python shows bytes that are not UTF-8
            raise RequestError(f"argument {arg!a} is not valid UTF-8. Correct or rename it.")
    parser = Parser(prog="redress", usage="redress COMMAND … [--json] [--result ADDRESS] [--debug]", add_help=False)
    add_common(parser)
    found, rest = parser.parse_known_args(args)
    return CommonOptions(**vars(found)), rest


def check_flags(args: Sequence[str], known: Sequence[str], parser: Parser, takes_settings: bool = False) -> None:
    """Report an unknown option before argparse does, which reports a missing argument first, and suggests nothing."""
    for arg in args:
        flag, is_setting, _ = arg.partition("=")
        if arg == "--":
            return
        if looks_like_flag(flag) and flag not in known:
            common = [argument.flag_of(name) for name, argument in CommonOptions.arguments().items()]
            close = closest(flag, [*known, *common])
            hint = did_you_mean([close] if close else [])
            if takes_settings and is_setting and not close:
                hint = f". A setting is written without dashes: {arg.lstrip('-')}"
            parser.error(f"unknown option {flag}{hint}")


def looks_like_flag(arg: str) -> bool:
    """As argparse decides it: a dash and a number, or text with spaces, is a value."""
    return arg.startswith("-") and len(arg) > 1 and " " not in arg and not re.fullmatch(r"-\d*\.?\d+", arg)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that begins with `name`, or the one most like it. Dashes in front do not make names alike."""
    import difflib

    bare = {other.lstrip("-").lower(): other for other in known}
    name = name.lstrip("-").lower()
    longer = [other for other in bare if name and other.startswith(name)]
    found = longer or difflib.get_close_matches(name, bare, n=1)
    return bare[found[0]] if found else None


def did_you_mean(names: Sequence[str]) -> str:
    return f". Did you mean {' or '.join(names)}?" if names else ""


def sentence(help: str) -> str:
    return f"{help[:1].upper()}{help[1:]}."


@contextmanager
def opening() -> Iterator[None]:
    """What cannot be opened before the work starts is a wrong request; the same error during the work is a failure."""
    from datasets.errors import DataError
    from datasets.storage.store import StoreError

    try:
        yield
    except (DataError, StoreError) as error:
        raise RequestError(str(error)) from error
