"""`redress train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from orchestration import numerics
from orchestration.cli.argument_types import any_address, any_model, any_run
from orchestration.cli.command import Answer, Command, opening
from orchestration.cli.options import SETTINGS, Options, arguments, option
from orchestration.cli.tables import print_facts, print_metrics
from orchestration.errors import RequestError

if TYPE_CHECKING:
    from orchestration.config.load import Experiment


class TrainOptions(Options):
    overrides: list[str] = arguments(
        "EXPERIMENT [key=value …]", f"a recipe or a YAML file; {SETTINGS}", takes_settings=True
    )
    resume: str | None = option(
        None, "continue this run: its id, or the address of its storage", metavar="RUN", parse=any_run
    )
    run_file: str | None = option(
        None,
        "continue the run that this file names; if it names none yet, begin one and name it there",
        metavar="ADDRESS",
        parse=any_address,
    )
    init_from: str | None = option(
        None, "start from the weights of this checkpoint or run", metavar="ADDRESS", parse=any_model
    )


def train(options: TrainOptions) -> Answer:
    experiment = requested_experiment(options)  # before Ray and MLflow are imported
    from orchestration.training.train import train

    resume, on_run = run_to_resume(options), remember(options.run_file)
    return train(experiment, resume=resume, init_from=experiment.init_from, on_run=on_run)


def run_to_resume(options: TrainOptions) -> str | None:
    """The run named by --resume or in the --run-file. Raises: RequestError where both are given."""
    if options.run_file is None:
        return options.resume
    if options.resume is not None:
        raise RequestError("--resume and --run-file both name a run to continue. Give one of them.")
    from orchestration.tracking import run_file

    return run_file.read(options.run_file)


def remember(file: str | None) -> Callable[[str], None]:
    """What names a run in the file as soon as there is one."""

    def write(run: str) -> None:
        from orchestration.tracking import run_file

        if file is not None:
            run_file.write(file, run)

    return write


def requested_experiment(options: TrainOptions) -> Experiment:
    """The experiment named first; of a run to resume its own, whether or not its recipe is named. The line overrides it."""
    from orchestration.config.recipes import check_names

    overrides = list(options.overrides)
    name = overrides.pop(0) if overrides and "=" not in overrides[0] else None
    numerics.use(str(check_names(name, overrides).get("numerics")))
    resume = run_to_resume(options)
    from orchestration.config.load import load, override

    if options.init_from:
        overrides.append(f"init_from={options.init_from}")
    if name is not None and not resume:
        return load(name, overrides)
    if not resume:
        raise RequestError(
            "train which experiment? redress train EXPERIMENT [key=value …]; `redress experiments` lists them."
        )
    from orchestration.tracking import tracked_run
    from orchestration.training.preparation import began_with

    with opening():
        began = began_with(tracked_run.open_run(resume).store)
    if name is not None:
        check_recipe(name, began)
    return override(began, overrides)


def check_recipe(name: str, began: Mapping[str, Any]) -> None:
    """Raises: RequestError where the recipe is of another method than the run."""
    from orchestration.config.recipes import find, read

    method = read(find(name)).get("method")
    wanted = method.get("name") if isinstance(method, dict) else None
    if wanted != began["method"]["name"]:
        raise RequestError(
            f"--resume: the run began as {began['name']!r} with method {began['method']['name']!r}, and {name!r} has "
            f"{wanted!r}. Leave the experiment out, or start a new run with --init-from."
        )


def show_training(answer: Answer) -> None:
    print_metrics("evaluation", answer["metrics"])
    pictures = "\n".join(answer["pictures"])
    print_facts({"run": answer["run_id"], "storage": answer["run"], "model": answer["model"], "pictures": pictures})


TRAIN = Command("train", "train, evaluate and record the run in MLflow", TrainOptions, train, show_training)
