"""The words of `redress tune`: its options, and the experiment and settings that they ask for."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from orchestration.errors import RequestError

if TYPE_CHECKING:
    from orchestration.config.load import Experiment
    from orchestration.sweeps.settings import SweepSettings

OPTIONS = ("over", "search", "points", "seeds", "objective", "stop", "every", "grace")  # what a sweep keeps as it began
CHANGEABLE = ("retries", "concurrent")


def add_options(parser: ArgumentParser, positive: Any, overrides: str) -> None:
    """Nothing has a default here: what is left out is the ready-made sweep's, or that of `SweepSettings`."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="EXPERIMENT|SWEEP [key=value …]",
        help=f"a recipe, a YAML file, or a ready-made sweep; {overrides}",
    )
    parser.add_argument(
        "--over",
        action="append",
        metavar="KEY=VALUES",
        help="vary a setting: [a, b, …], log(low, high), uniform(low, high), int(low, high), choice(…); log(low, high, n) are "
        "n values of it",
    )
    parser.add_argument("--sweep", metavar="SWEEP", help="the ready-made sweep, on another experiment than its own")
    parser.add_argument(
        "--search",
        help="grid, random, or bayes (Optuna); default: grid where every key has a list of values, else bayes",
    )
    parser.add_argument("--points", type=positive, help="how many to try; default: the whole grid, else 20")
    parser.add_argument(
        "--seeds", type=positive, help="trainings of each point, from the experiment's seed on (default: 1)"
    )
    parser.add_argument(
        "--objective", metavar="MODE/METRIC", help="on the validation set (default: clothes-changing/mAP)"
    )
    parser.add_argument("--stop", help="stop what does not look worth it: asha, median, or none (default)")
    parser.add_argument(
        "--every",
        type=positive,
        metavar="EPOCHS",
        help="between scores; default: only at the end, or a twentieth with --stop",
    )
    parser.add_argument(
        "--grace", type=positive, metavar="EPOCHS", help="before which nothing is stopped; default: a ninth"
    )
    parser.add_argument("--retries", type=int, help="of a trial that failed (default: 1)")
    parser.add_argument(
        "--concurrent", type=positive, help="trials at once, at most; default: what the cluster can train"
    )
    parser.add_argument("--register", metavar="NAME", help="for the best, as candidate (default: the experiment's)")
    parser.add_argument("--no-register", action="store_true", help="register nothing")
    parser.add_argument("--resume", metavar="SWEEP", help="go on with a sweep that was ended; trials done stay done")


def wanted(words: Namespace) -> tuple[Experiment, SweepSettings]:
    """Raises: RequestError."""
    from dataclasses import replace

    given = {name: value for name in (*OPTIONS, *CHANGEABLE) if (value := getattr(words, name)) is not None}
    if words.resume:
        from orchestration.tuning.tune import going_on

        if wrong := [f"--{name}" for name in OPTIONS if name in given] + list(words.overrides):
            raise RequestError(f"a sweep goes on as it began: leave out {' '.join(wrong)}, or start a new one.")
        experiment, settings = going_on(words.resume)
        if words.no_register or words.register:
            given["register"] = None if words.no_register else words.register
        return experiment, replace(settings, **given)
    return begun(words, given)


def begun(words: Namespace, given: dict[str, Any]) -> tuple[Experiment, SweepSettings]:
    from orchestration.config.load import load, recipes
    from orchestration.sweeps.presets import read_sweep, sweeps
    from orchestration.sweeps.settings import SweepSettings

    overrides = list(words.overrides)
    name = overrides.pop(0) if overrides and "=" not in overrides[0] else None
    ready: dict[str, Any] = {}
    if words.sweep or (name in sweeps() and name not in recipes()):
        ready = read_sweep(str(words.sweep or name))
        own = ready.pop("experiment", None)
        name = name if words.sweep and name else own
    if name is None:
        raise RequestError(
            "sweep over which experiment? redress tune EXPERIMENT [key=value …] --over KEY=VALUES, or a ready-made sweep: "
            f"{', '.join(sweeps())}; `redress experiments` lists the experiments."
        )
    experiment = load(name, overrides)
    if "over" in given:
        given["over"] = tuple(given["over"])
    register = None if words.no_register else words.register or experiment.register_as or experiment.name
    return experiment, SweepSettings(**{"over": (), **ready, **given, "register": register})
