"""`redress tune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestration import numerics
from orchestration.cli.argument_types import any_run, positive_int
from orchestration.cli.command import Answer, Command
from orchestration.cli.options import SETTINGS, Options, arguments, option, repeated, switch
from orchestration.cli.tables import percent, print_facts, print_table
from orchestration.errors import RequestError

if TYPE_CHECKING:
    from orchestration.config.load import Experiment
    from orchestration.sweeps.settings import SweepSettings


class TuneOptions(Options):
    """An option that is not given has the value of the preset sweep, else that of `SweepSettings`."""

    overrides: list[str] = arguments(
        "EXPERIMENT|SWEEP [key=value …]",
        f"a recipe, a YAML file, or a preset sweep; {SETTINGS}",
        takes_settings=True,
    )
    over: list[str] = repeated(
        "vary a setting: [a, b, …], log(low, high), uniform(low, high), int(low, high) or choice(…); log(low, high, n) "
        "gives n values; may be repeated",
        metavar="KEY=VALUES",
    )
    sweep: str | None = option(None, "run this preset sweep on another experiment than its own", metavar="SWEEP")
    search: str | None = option(
        None, "grid, random or bayes (Optuna); default: grid if every key has a list of values, else bayes"
    )
    points: int | None = option(
        None, "number of configurations to try; default: the whole grid, else 20", parse=positive_int
    )
    seeds: int | None = option(
        None,
        "number of trainings of each configuration, with consecutive seeds from the experiment's (default: 1)",
        parse=positive_int,
    )
    objective: str | None = option(
        None, "metric to maximise on the validation set (default: clothes-changing/mAP)", metavar="MODE/METRIC"
    )
    stop: str | None = option(None, "stop trials early: asha, median or none (default)")
    every: int | None = option(
        None,
        "epochs between validations; default: all epochs, or with --stop a twentieth of them",
        metavar="EPOCHS",
        parse=positive_int,
    )
    grace: int | None = option(
        None,
        "stop no trial before this many epochs; default: a ninth of all epochs",
        metavar="EPOCHS",
        parse=positive_int,
    )
    retries: int | None = option(None, "number of retries of a failed trial (default: 1)", parse=int)
    concurrent: int | None = option(
        None,
        "maximum number of concurrent trials; default: as many as the cluster has resources for",
        parse=positive_int,
    )
    register: str | None = option(
        None, "register the best model as candidate of this name (default: the experiment's)", metavar="NAME"
    )
    no_register: bool = switch("register no model")
    resume: str | None = option(
        None, "continue this sweep; trials that have ended are not repeated", metavar="SWEEP", parse=any_run
    )

    def fixed(self) -> dict[str, Any]:
        """What was given of the settings that a sweep keeps as it was started."""
        return given(
            over=tuple(self.over) or None,
            search=self.search,
            points=self.points,
            seeds=self.seeds,
            objective=self.objective,
            stop=self.stop,
            every=self.every,
            grace=self.grace,
        )

    def changeable(self) -> dict[str, Any]:
        """What was given of the settings that may change when the sweep is resumed."""
        return given(retries=self.retries, concurrent=self.concurrent)


def given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def tune(options: TuneOptions) -> Answer:
    experiment, settings = requested_sweep(options)  # before Ray and MLflow are imported
    from orchestration.tuning.tune import tune

    return tune(experiment, settings, resume=options.resume)


def requested_sweep(options: TuneOptions) -> tuple[Experiment, SweepSettings]:
    """Raises: RequestError."""
    return resumed_sweep(options, options.resume) if options.resume else new_sweep(options)


def resumed_sweep(options: TuneOptions, sweep: str) -> tuple[Experiment, SweepSettings]:
    from dataclasses import replace

    from orchestration.tuning.tune import stored_sweep

    if unchangeable := [*(f"--{name}" for name in options.fixed()), *options.overrides]:
        raise RequestError(
            f"a resumed sweep keeps its settings: leave out {' '.join(unchangeable)}, or start a new sweep."
        )
    experiment, settings = stored_sweep(sweep)
    settings = replace(settings, **options.changeable())
    if options.no_register or options.register:
        settings = replace(settings, register=None if options.no_register else options.register)
    return experiment, settings


def new_sweep(options: TuneOptions) -> tuple[Experiment, SweepSettings]:
    """The experiment is named first, by itself or by the preset sweep."""
    from orchestration.config.recipes import check_names, recipes
    from orchestration.sweeps.presets import read_sweep, sweeps

    overrides = list(options.overrides)
    name = overrides.pop(0) if overrides and "=" not in overrides[0] else None
    preset: dict[str, Any] = {}
    if options.sweep or (name in sweeps() and name not in recipes()):
        preset = read_sweep(str(options.sweep or name))
        own = preset.pop("experiment", None)
        name = name if options.sweep and name else own
    if name is None:
        raise RequestError(
            "tune which experiment? redress tune EXPERIMENT [key=value …] --over KEY=VALUES, or a preset sweep: "
            f"{', '.join(sweeps())}; `redress experiments` lists the experiments."
        )
    numerics.use(str(check_names(name, overrides).get("numerics")))
    from orchestration.config.load import load

    experiment = load(name, overrides)
    from orchestration.sweeps.settings import SweepSettings

    register = None if options.no_register else options.register or experiment.register_as or experiment.name
    settings = {"over": (), **preset, **options.fixed(), **options.changeable(), "register": register}
    return experiment, SweepSettings(**settings)


def show_sweep(answer: Answer) -> None:
    from orchestration.sweeps.space import format_value

    print_configurations(answer)
    best = answer["best"]
    print_facts(
        {
            "sweep": answer["sweep"],
            "best": ", ".join(f"{key} = {format_value(value)}" for key, value in best["values"].items()),
            "run of the best": best["run_id"],
            "model": answer["model"],
            "in MLflow": "\n".join([*(f"pictures/{name}" for name in answer["pictures"]), *answer["pages"]]),
        }
    )


def print_configurations(answer: Answer) -> None:
    """A line for each configuration; the column of failures only where there is one."""
    from orchestration.sweeps.space import format_value, short_names

    points = answer["points"]
    names = short_names(points[0]["values"])
    columns = [*names.values(), f"{answer['objective']}, %", "seeds", "epochs", "state", "failure"]
    lines = [
        [
            *(format_value(value) for value in point["values"].values()),
            percent(point["score"]) + ("" if point["spread"] is None else f" ± {percent(point['spread'])}"),
            len(point["seeds"]),
            point["epochs"],
            point["state"],
            "; ".join(dict.fromkeys(point["failures"].values())),
        ]
        for point in points
    ]
    if not any(line[-1] for line in lines):
        columns, lines = columns[:-1], [line[:-1] for line in lines]
    print_table("validation, best first", columns, lines)


TUNE = Command(
    "tune", "train many configurations of an experiment and register the best", TuneOptions, tune, show_sweep
)
