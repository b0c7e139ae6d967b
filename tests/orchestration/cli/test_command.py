"""Every command of the command line as one typed object: found by name, parsed, called, shown."""

from __future__ import annotations

import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest

from orchestration.cli import main as cli
from orchestration.cli.argument_types import positive_int
from orchestration.cli.command import Answer, Command, Group, closest, parse_common
from orchestration.cli.main import REDRESS, main
from orchestration.cli.options import CommonOptions, Options, argument, arguments, option, required, switch
from orchestration.errors import RequestError

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = dict(REDRESS.walk())


def groups(group: Group = REDRESS) -> list[Group]:
    return [group, *(below for entry in group.commands if isinstance(entry, Group) for below in groups(entry))]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_typed_options_and_a_typed_call(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS[path]
    assert command.help
    assert command.help[0].islower()
    assert not command.help.endswith(".")
    hints = typing.get_type_hints(command.options)
    for name, declared in command.options.arguments().items():
        assert name in hints, f"{name} has no type"
        assert declared.settings["help"], f"{name} has no help"
    (parameter,) = inspect.signature(command.call, eval_str=True).parameters.values()
    assert parameter.annotation is command.options
    (parameter,) = inspect.signature(command.show, eval_str=True).parameters.values()
    assert parameter.annotation == Answer
    with pytest.raises(SystemExit) as ended:
        command.parse(["--help"], path)
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"usage: redress {path} [-h]")
    for name, declared in (command.options.arguments() | CommonOptions.arguments()).items():
        assert declared.is_positional or declared.flag_of(name) in shown
        assert " ".join(declared.settings["help"].split()) in shown


@pytest.mark.parametrize("path", sorted(set(COMMANDS) - {"demo"}))
def test_every_command_is_in_the_readme(path: str) -> None:
    """`redress demo` is there as `make demo`."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\bredress {re.escape(path)}\b", readme)


@pytest.mark.parametrize("group", groups(), ids=lambda group: group.name)
def test_a_groups_help_lists_its_commands(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    path = [] if group is REDRESS else [group.name]
    for flag in ("-h", "--help"):
        with pytest.raises(SystemExit) as ended:
            main([*path, flag])
        assert ended.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        for entry in group.commands:
            assert re.search(rf"{re.escape(entry.name)} {re.escape(entry.help)}", shown)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evalute"], "unknown command 'evalute'. Did you mean evaluate?"),
        (["tran", "cal-ltcc"], "unknown command 'tran'. Did you mean train?"),
        (["synth", "x"], "unknown command 'synth'. Did you mean data synth?"),
        (["list"], "unknown command 'list'. Did you mean runs list or registry list?"),
        (["frobnicate"], "unknown command 'frobnicate'. There are train, tune, evaluate, search, data, clip, runs"),
        (["data", "verfy", "x"], "unknown command 'verfy'. Did you mean verify?"),
        (["registry", "promot"], "unknown command 'promot'. Did you mean promote?"),
        (["runs", "snyc"], "unknown command 'snyc'. Did you mean sync?"),
        (["experiments", "shwo"], "unknown command 'shwo'. Did you mean show?"),
        (["runs"], "which command? list, show, sync"),
        (["--verson"], "unknown option --verson. Did you mean --version?"),
        (["train", "cal-ltcc", "--resum", "x"], "unknown option --resum. Did you mean --resume?"),
        (["train", "cal-ltcc", "--resum=x"], "unknown option --resum. Did you mean --resume?"),
        (["train", "cal-ltcc", "--init_from", "x"], "unknown option --init_from. Did you mean --init-from?"),
        (["train", "cal-ltcc", "--jsn"], "unknown option --jsn. Did you mean --json?"),
        (["train", "cal-ltcc", "--epochs=3"], "unknown option --epochs. A setting is written without dashes: epochs=3"),
        (["tune", "cal", "--seed", "3"], "unknown option --seed. Did you mean --seeds?"),
        (["data", "parse", "x", "y", "--modle", "m"], "unknown option --modle. Did you mean --model?"),
        (["data", "synth", "x", "-o"], "unknown option -o"),
        (["registry", "reject", "m", "--reson", "x"], "unknown option --reson. Did you mean --reason?"),
        (["experiments", "--lim", "3"], "unknown option --lim"),
        (["evaluate"], "the following arguments are required: MODEL\n"),
        (["--version", "x"], "unexpected argument 'x'"),
    ],
)
def test_an_unknown_command_or_option_is_one_message_with_a_suggestion(
    args: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(message)
    assert shown.err.count("usage: ") == 1
    assert re.search(r"\nMore: redress[a-z -]* --help\n$", shown.err)


def test_no_option_is_accepted_by_its_beginning(capfd: pytest.CaptureFixture[str]) -> None:
    """--dry is not --dry-run: a new option would change what it means."""
    assert main(["data", "convert", "ltcc", "x", "y", "--dry"]) == 2
    assert "unknown option --dry. Did you mean --dry-run?" in capfd.readouterr().err
    assert main(["experiments", "--js"]) == 2
    assert "unknown option --js. Did you mean --json?" in capfd.readouterr().err


def test_the_common_options_stand_anywhere() -> None:
    for args in (["--json", "train", "a"], ["train", "--json", "a"], ["train", "a", "--json"]):
        common, rest = parse_common([*args, "--result", "r.json"])
        assert (common.json, common.debug, common.result) == (True, False, "r.json")
        assert rest == ["train", "a"]
    common, rest = parse_common(["train", "--resume", "RUN", "--", "--x"])
    assert (common.json, common.result) == (False, None)
    assert rest[:3] == ["train", "--resume", "RUN"]


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("--res", ["--resume", "--reset"], "--resume"),  # a beginning, before what is only alike
        ("--sesume", ["--resume", "--json"], "--resume"),
        ("--xy", ["--by", "--of"], None),  # dashes do not make names alike
        ("", ["train"], None),
        ("-", ["train"], None),
    ],
)
def test_the_closest_name(name: str, known: list[str], found: str | None) -> None:
    assert closest(name, known) == found


class GreetOptions(Options):
    name: str = argument("NAME", "who is greeted")
    others: list[str] = arguments("OTHER", "who else")
    times: int = option(1, "how often (default: 1)", parse=positive_int)
    tone: str = option("warm", "the tone", choices=("warm", "cold"))
    by: str | None = option(None, "who greets", flag="--from", metavar="WHO")
    occasion: str = required("the reason", metavar="TEXT")
    loud: bool = switch("in capitals")


def greet(options: GreetOptions) -> Answer:
    text = f"hello {' and '.join([options.name, *options.others])}"
    return {"text": text.upper() if options.loud else text, "times": options.times, "by": options.by}


def show_greeting(answer: Answer) -> None:
    print("\n".join([answer["text"]] * answer["times"]))


GREET = Command("greet", "greet people", GreetOptions, greet, show_greeting)


def test_a_new_command_is_one_object_and_an_entry_of_its_group(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "REDRESS", REDRESS._replace(commands=(*REDRESS.commands, GREET)))
    assert main(["greet", "ann", "--occasion", "birthday", "--times", "2"]) == 0
    assert capfd.readouterr().out == "hello ann\nhello ann\n"
    result = tmp_path / "result.json"
    args = [
        "greet",
        "ann",
        "--occasion=none",
        "--loud",
        "bob",
        "--from",
        "eve",
        "cy",
        "--json",
        "--result",
        str(result),
    ]
    assert main(args) == 0
    expected = {"status": 0, "command": "greet", "text": "HELLO ANN AND BOB AND CY", "times": 1, "by": "eve"}
    assert json.loads(capfd.readouterr().out) == expected
    assert json.loads(result.read_text()) == expected
    for wrong, message in (
        (["ann"], "the following arguments are required: --occasion"),
        (["ann", "--occasion", "x", "--times", "0"], "argument --times: '0': expected a whole number of at least 1"),
        (["ann", "--occasion", "x", "--tone", "sour"], "argument --tone: invalid choice: 'sour'"),
        (["ann", "--ocasion", "x"], "unknown option --ocasion. Did you mean --occasion?"),
    ):
        assert main(["greet", *wrong]) == 2
        assert capfd.readouterr().err.startswith(message)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.search(r"greet +greet people", capfd.readouterr().out)


def test_defaults_and_values_that_look_like_options() -> None:
    options = GREET.parse(["ann", "--occasion", "-5"])
    assert vars(options) == {
        "name": "ann", "others": [], "times": 1, "tone": "warm", "by": None, "occasion": "-5", "loud": False,
    }  # fmt: skip
    assert GREET.parse(["ann", "--occasion", "--no reason at all"]).occasion == "--no reason at all"
    assert GREET.parse(["ann", "--occasion=--none"]).occasion == "--none"


def test_one_parse_does_not_change_the_next() -> None:
    tune = COMMANDS["tune"]
    assert tune.parse(["cal", "--over", "a=[1]", "--over", "b=[2]"]).over == ["a=[1]", "b=[2]"]
    assert tune.parse(["cal"]).over == []
    assert tune.parse(["cal", "--seeds", "2", "epochs=3"]).overrides == ["cal", "epochs=3"]
    assert tune.parse([]).overrides == []


def test_options_have_a_value_for_each_attribute() -> None:
    class Two(Options):
        a: str = argument("A", "one")
        b: bool = switch("other")

    values: dict[str, Any] = {"a": "x", "b": True}
    assert vars(Two(**values)) == values
    for wrong in ({"a": "x"}, values | {"c": 1}):
        with pytest.raises(TypeError, match=r"Two has \['a', 'b'\], got"):
            Two(**wrong)


def test_a_message_names_the_command() -> None:
    with pytest.raises(RequestError, match="More: redress data verify --help"):
        COMMANDS["data verify"].parse([], "data verify")
