"""The command line: words → one call of `orchestration.cli.commands` → a table or JSON, and an exit status.

0 done, 1 failed while working, 2 the request was wrong, 130 interrupted. Imports of weight happen in the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from datasets.errors import DataError
from orchestration.cli.command import common_options, parse
from orchestration.errors import RequestError, without_secret

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(words: Sequence[str] | None = None, answer: int | None = None) -> int:
    """Run one command and return its exit status. answer: the descriptor that takes the JSON (stdout where None)."""
    words = list(sys.argv[1:] if words is None else words)
    common = argparse.Namespace(json="--json" in words, debug="--debug" in words, result=None)
    result: dict[str, Any] = {"status": DONE, "command": None}
    show: Callable[[dict[str, Any]], None] = print
    try:
        common, _ = common_options().parse_known_args(words)
        arguments = parse(words)
        result["command"] = arguments.command_name
        check_result(common.result)
        show = show_with(arguments.show)
        result |= call(arguments)
    except (Exception, KeyboardInterrupt) as error:
        result |= failure(error)
        if common.debug:
            traceback.print_exc()
    return tell(result, common, show, answer)


def failure(error: BaseException) -> dict[str, Any]:
    """The part of the answer that says what went wrong, and whose fault it was."""
    if isinstance(error, RequestError | DataError):
        status = WRONG
    else:
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    return {
        "status": status,
        "error": {"type": type(error).__name__, "message": without_secret(str(error)) or "no message"},
    }


def tell(
    result: dict[str, Any], common: argparse.Namespace, show: Callable[[dict[str, Any]], None], answer: int | None
) -> int:
    """The result to where it was asked for; returns the exit status."""
    if error := result.get("error"):
        unexpected = result["status"] == FAILED and not common.debug
        kind = "" if result["status"] == WRONG else f"{error['type']}: "
        hint = "\n(--debug shows where)" if unexpected else ""
        print(f"{kind}{error['message']}{hint}", file=sys.stderr)
    text = json.dumps(result, indent=1, default=str, ensure_ascii=False)
    if common.result:
        try:
            write_result(common.result, text)
        except (OSError, RequestError) as error:
            print(f"--result {common.result} cannot be written: {error}", file=sys.stderr)
            result["status"] = result["status"] or FAILED
    if common.json:
        line = f"{json.dumps(result, default=str, ensure_ascii=False)}\n".encode()
        sys.stdout.flush()
        with os.fdopen(os.dup(1) if answer is None else answer, "wb") as stream:
            stream.write(line)
    elif "error" not in result:
        try:
            show(result)
            sys.stdout.flush()
        except BrokenPipeError:  # `redress … | head`: the reader has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return int(result["status"])


def check_result(address: str | None) -> None:
    """A result that can be written nowhere is found out before the work, not after it."""
    if address:
        from datasets.storage.store import open_store
        from orchestration.cli.commands import before_work

        with before_work():
            open_store(address)


def write_result(address: str, text: str) -> None:
    from datasets.storage.store import open_store

    folder, _, name = address.rpartition("/")
    open_store(folder or ("/" if address.startswith("/") else ".")).write(name, text.encode())


def call(arguments: argparse.Namespace) -> dict[str, Any]:
    from orchestration.cli import commands

    command: Callable[[argparse.Namespace], dict[str, Any]] = getattr(commands, arguments.function)
    return command(arguments)


def show_with(name: str) -> Callable[[dict[str, Any]], None]:
    def show(result: dict[str, Any]) -> None:
        from orchestration.cli import tables

        getattr(tables, name)(result)

    return show
