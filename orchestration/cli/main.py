"""The command line: arguments → one call of a command → its view or JSON, and an exit status.

0 done, 1 failed while working, 2 the request was wrong, 130 after Ctrl-C, 143 after SIGTERM. A new command is an object in
a file of `commands/` and an entry of its group; a new group is a line in `REDRESS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from datasets.errors import DamagedSource, DataError
from datasets.storage.address import parse_address, shown
from orchestration import lost_cluster, signals
from orchestration.cli.command import Answer, Command, Group, opening, parse_common
from orchestration.cli.commands.clip import CLIP
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
from orchestration.errors import RequestError, cause, origin, without_secret
from orchestration.numerics import OtherNumericsError
from orchestration.signals import GO_ON, status_of

DONE, FAILED, WRONG = 0, 1, 2


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
    (TRAIN, TUNE, EVALUATE, SEARCH, DATA, CLIP, RUNS, REGISTRY, EXPERIMENTS, DEMO, VERSION),
    description="Train networks that recognise a person whatever they wear.",
)


def main(args: Sequence[str] | None = None, json_descriptor: int | None = None) -> int:
    """Run one command and return its exit status. json_descriptor: the file that takes the JSON; None: stdout.

    Raises: OtherNumericsError where another process has to serve the request.
    """
    args = list(sys.argv[1:] if args is None else args)
    common = CommonOptions(json="--json" in args, debug="--debug" in args, result=None)
    answer: Answer = {"status": DONE, "command": None}
    show: Callable[[Answer], None] = print
    is_running = False
    signals.forget()
    try:
        common, args = parse_common(args)
        answer["command"], command, args = REDRESS.find(args)
        options = command.parse(args, answer["command"])
        result, common.result = common.result, None  # nothing is written where nothing can be written
        check_result(result)
        common.result = result
        show = command.show
        is_running = True
        from orchestration.progress import doing  # with rich, which help and refusals do not need

        with doing("loading libraries, opening data and services"):
            answer |= command.call(options)
    except SystemExit as leaving:  # after --help, or by code under a command, which never may
        if not is_running and not common.json:
            raise
        why = RuntimeError(f"the command was left by sys.exit({leaving.code!r})")
        answer |= failure(why) if is_running else {"status": int(leaving.code or DONE)}
    except OtherNumericsError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        answer |= failure(lost_cluster.error_of(error))
        if common.debug:
            traceback.print_exc()
    return deliver(answer, common, show, json_descriptor)


def failure(error: BaseException) -> Answer:
    """The part of the answer that says what went wrong, and the exit status that says whose fault it was."""
    error = origin(error)
    if isinstance(error, RequestError | DataError):
        status = WRONG
    else:
        status = status_of(error) if isinstance(error, KeyboardInterrupt) else FAILED
    details = {"offenders": [str(one) for one in error.offenders]} if isinstance(error, DamagedSource) else {}
    usual = f"interrupted. {GO_ON}" if isinstance(error, KeyboardInterrupt) else "no message"
    return {
        "status": status,
        "error": {"type": type(error).__name__, "message": without_secret(cause(error)) or usual} | details,
    }


def deliver(answer: Answer, common: CommonOptions, show: Callable[[Answer], None], json_descriptor: int | None) -> int:
    """Write the answer where it was asked for: stderr, --result, stdout. Returns the exit status."""
    if error := answer.get("error"):
        kind = "" if answer["status"] == WRONG else f"{error['type']}: "
        hint = "\n(--debug shows where)" if answer["status"] == FAILED and not common.debug else ""
        print(f"{kind}{error['message']}{hint}", file=sys.stderr)
    if common.result:
        try:
            write_result(common.result, encode(answer, indent=1))
        except (Exception, KeyboardInterrupt) as error:  # the object on stdout comes in any case
            unwritten = failure(error)["error"]
            print(f"--result {shown(common.result)} cannot be written: {unwritten['message']}", file=sys.stderr)
            answer |= {"status": answer["status"] or FAILED, "result_error": unwritten}
    if common.json:
        sys.stdout.flush()
        with (
            contextlib.suppress(BrokenPipeError),
            os.fdopen(os.dup(1) if json_descriptor is None else json_descriptor, "wb") as stream,
        ):
            stream.write(encode(answer) + b"\n")
    elif "error" not in answer:
        try:
            show(answer)
            sys.stdout.flush()
        except BrokenPipeError:  # `redress … | head`: the reader has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return int(answer["status"])


def encode(answer: Answer, indent: int | None = None) -> bytes:
    """JSON in UTF-8. What UTF-8 cannot hold (bytes of a file name, say) becomes JSON's own escapes."""
    return json.dumps(answer, indent=indent, default=str, ensure_ascii=False).encode(errors="backslashreplace")


def check_result(address: str | None) -> None:
    """An address that cannot be written to is reported before the work, not after it. Raises: RequestError."""
    if address is None:
        return
    from datasets.storage.store import open_store

    place = parse_address(address)
    if not place.name or (not place.bucket and os.path.isdir(place.path)):
        raise RequestError(f"--result {address}: is a folder or a bucket; expected the address of a file")
    above = place.parent
    while not (place.bucket or os.path.exists(above.path)):
        above = above.parent
    if not (place.bucket or os.path.isdir(above.path)):
        raise RequestError(f"--result {address}: {above} is a file; expected a folder there")
    with opening():
        open_store(place.parent).exists(place.name)


def write_result(address: str, data: bytes) -> None:
    from datasets.storage.store import open_store

    place = parse_address(address)
    open_store(place.parent).write(place.name, data)
