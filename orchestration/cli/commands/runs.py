"""`redress runs`: the runs that MLflow has."""

from __future__ import annotations

from orchestration.cli.argument_types import any_run
from orchestration.cli.command import Answer, Command, Group
from orchestration.cli.options import Options, argument, option
from orchestration.cli.tables import main_metrics, print_facts, print_metrics, print_table, rename_status


class ListOptions(Options):
    experiment: str | None = option(None, "only runs of this MLflow experiment")
    limit: int = option(50, "maximum number of runs (default: 50)", parse=int)


def list_runs(options: ListOptions) -> Answer:
    from orchestration.tracking.runs import list_runs

    return {"runs": list_runs(options.experiment, limit=options.limit)}


def show_runs(answer: Answer) -> None:
    lines = [
        [run["run_id"], run["name"], run["status"], run["started"], main_metrics(run["metrics"]), run["data"]]
        for run in answer["runs"]
    ]
    print_table("", ["run", "name", "state", "started", "rank-1 by mode, %", "data"], lines)


class RunOptions(Options):
    run: str = argument("RUN", "a run's id, or the address of its storage", parse=any_run)


def describe_run(options: RunOptions) -> Answer:
    from orchestration.tracking.runs import show_run

    return rename_status(show_run(options.run))


def show_run(answer: Answer) -> None:
    keys = ("run_id", "name", "state", "started", "seconds", "data", "storage", "models")
    print_facts({key: answer[key] for key in keys})
    if answer["metrics"]:
        print_metrics("evaluation", answer["metrics"])
    print_table("", ["setting", "value"], list(answer["settings"].items()))
    print_facts({"files": "\n".join(answer["files"])})


def sync_run(options: RunOptions) -> Answer:
    from orchestration.registry.pending import sync

    return sync(options.run)


def show_sync(answer: Answer) -> None:
    print(f"run {answer['run_id']}: {answer['delivered']} records delivered, {answer['waiting']} waiting")
    print_facts({"registered": answer["model"], "refused": "\n".join(answer["set_aside"])})


RUNS = Group(
    "runs",
    "list, show and deliver the runs in MLflow",
    (
        Command("list", "list the newest runs", ListOptions, list_runs, show_runs),
        Command("show", "show settings, metrics and files of a run", RunOptions, describe_run, show_run),
        Command(
            "sync",
            "deliver what the run's storage has and MLflow lacks, also the model",
            RunOptions,
            sync_run,
            show_sync,
        ),
    ),
)
