"""The command line: arguments → one call of a command → its view or JSON, and an exit status.

0 done, 1 failed while working, 2 the request was wrong, 130 interrupted. A new command is an object in a file of `commands/`
and an entry of its group; a new group is a line in `REDRESS`.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from datasets.errors import DataError
from orchestration.cli.command import Answer, Command, Group, opening, parse_common
from orchestration.cli.commands.data import DATA
from orchestration.cli.commands.demo import DEMO
from orchestration.cli.commands.evaluate import EVALUATE
from orchestration.cli.commands.experiments import EXPERIMENTS
from orchestration.cli.commands.registry import REGISTRY
from orchestration.cli.commands.runs import RUNS
from orchestration.cli.commands.search import SEARCH
from orchestration.cli.commands.train import TRAIN
from orchestration.cli.commands.tune import TUNE
from orchestration.cli.options import CommonOptions, Options
from orchestration.errors import RequestError, without_secret

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def version(options: Options) -> Answer:
    """The version stands in pyproject.toml alone, which a job's working directory and the image have too."""
    import tomllib
    from pathlib import Path

    file = Path(__file__).resolve().parents[2] / "pyproject.toml"
    return {"version": tomllib.loads(file.read_text(encoding="utf-8"))["project"]["version"]}


def show_version(answer: Answer) -> None:
    print(f"redress {answer['version']}")


VERSION = Command("--version", "show the version and exit", Options, version, show_version)

REDRESS = Group(
    "redress",
    "clothes-changing person re-identification",
    (TRAIN, TUNE, EVALUATE, SEARCH, DATA, RUNS, REGISTRY, EXPERIMENTS, DEMO, VERSION),
    description="Train networks that recognise a person whatever they wear.",
)


def main(args: Sequence[str] | None = None, json_descriptor: int | None = None) -> int:
    """Run one command and return its exit status. json_descriptor: the file that takes the JSON; None: stdout."""
    args = list(sys.argv[1:] if args is None else args)
    common = CommonOptions(json="--json" in args, debug="--debug" in args, result=None)
    answer: Answer = {"status": DONE, "command": None}
    show: Callable[[Answer], None] = print
    try:
        common, args = parse_common(args)
        answer["command"], command, args = REDRESS.find(args)
        options = command.parse(args, answer["command"])
        check_result(common.result)
        show = command.show
        answer |= command.call(options)
    except (Exception, KeyboardInterrupt) as error:
        answer |= failure(error)
        if common.debug:
            traceback.print_exc()
    return deliver(answer, common, show, json_descriptor)


def failure(error: BaseException) -> Answer:
    """The part of the answer that says what went wrong, and the exit status that says whose fault it was."""
    if isinstance(error, RequestError | DataError):
        status = WRONG
    else:
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    return {
        "status": status,
        "error": {"type": type(error).__name__, "message": without_secret(str(error)) or "no message"},
    }


def deliver(answer: Answer, common: CommonOptions, show: Callable[[Answer], None], json_descriptor: int | None) -> int:
    """Write the answer where it was asked for: stderr, --result, stdout. Returns the exit status."""
    if error := answer.get("error"):
        kind = "" if answer["status"] == WRONG else f"{error['type']}: "
        hint = "\n(--debug shows where)" if answer["status"] == FAILED and not common.debug else ""
        print(f"{kind}{error['message']}{hint}", file=sys.stderr)
    if common.result:
        try:
            write_result(common.result, json.dumps(answer, indent=1, default=str, ensure_ascii=False))
        except (OSError, RequestError) as error:
            print(f"--result {common.result} cannot be written: {error}", file=sys.stderr)
            answer["status"] = answer["status"] or FAILED
    if common.json:
        line = f"{json.dumps(answer, default=str, ensure_ascii=False)}\n".encode()
        sys.stdout.flush()
        with os.fdopen(os.dup(1) if json_descriptor is None else json_descriptor, "wb") as stream:
            stream.write(line)
    elif "error" not in answer:
        try:
            show(answer)
            sys.stdout.flush()
        except BrokenPipeError:  # `redress … | head`: the reader has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return int(answer["status"])


def check_result(address: str | None) -> None:
    """An address that cannot be written to is reported before the work, not after it."""
    if address:
        from datasets.storage.store import open_store

        with opening():
            open_store(address)


def write_result(address: str, text: str) -> None:
    from datasets.storage.store import open_store

    folder, _, name = address.rpartition("/")
    open_store(folder or ("/" if address.startswith("/") else ".")).write(name, text.encode())
