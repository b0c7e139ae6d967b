"""`redress demo`, or `make demo`: render people, train on Ray, evaluate, register in MLflow, load the model without redress.

Everything is below one folder. `experiments/demo.txt` names the recipes. The registered model is the one with the
higher clothes-changing mAP on the test people; its tags and its model card say so.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from orchestration import numerics
from orchestration.cli.argument_types import local_path
from orchestration.cli.command import Answer, Command
from orchestration.cli.options import Options, argument
from orchestration.cli.tables import percent, print_facts, print_table
from orchestration.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestration.config.load import Experiment
    from orchestration.progress import Progress

PRESET, PROTOCOL = "demo", "ltcc"
MODEL = "demo"
MEASURES = ("rank-1", "mAP")
CHOSEN_BY = "clothes-changing/mAP"
LOAD_ALONE = """
import importlib.util, json, sys
hidden = [name for name in ("orchestration", "methods", "datasets") if importlib.util.find_spec(name)]
assert not hidden, f"importable: {hidden}"
import mlflow, numpy, torch
model = mlflow.pyfunc.load_model(sys.argv[1])
images = numpy.random.default_rng(0).uniform(0, 255, (4, 3, int(sys.argv[2]), int(sys.argv[3]))).astype("float32")
inputs = {"images": images}
if "parsing" in {column.name for column in model.metadata.signature.inputs.inputs}:
    inputs["parsing"] = numpy.zeros((4, *images.shape[2:]), "uint8")
features = model.predict(inputs)
print(json.dumps({"shape": list(features.shape), "norms": numpy.linalg.norm(features, axis=1).round(4).tolist()}))
"""


class DemoOptions(Options):
    directory: str = argument("FOLDER", "where everything is written (default: demo)", default="demo", parse=local_path)


def run_demo(options: DemoOptions) -> Answer:
    return demo(options.directory)


def demo(directory: str = "demo", *, overrides: Sequence[str] = (), progress: Progress | None = None) -> dict[str, Any]:
    """Run all of it below `directory`, which is emptied first. Returns the table, the runs, the model, the pictures.

    Raises: RequestError if `directory` holds something that is not an earlier demo.
    """
    from pathlib import Path

    numerics.use("portable")  # as its recipes have it, before torch loads
    from orchestration.config.load import load
    from orchestration.progress import Progress
    from orchestration.registry import register
    from orchestration.training.train import train

    progress = progress or Progress()
    started = time.monotonic()
    root = empty_folder(Path(directory))
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri = f"sqlite:///{root / 'mlflow.db'}"
    data = render(root / "data", progress)
    runs = {}
    for recipe in demo_recipes():
        experiment = load(recipe, [f"data={data}", f"storage={root / 'runs'}", *overrides])
        progress.say(f"\n{recipe}: {experiment.group_sizes()[-1]} workers, {experiment.epochs} epochs")
        runs[recipe] = train(experiment, progress=progress)
    best = max(runs, key=lambda recipe: runs[recipe]["metrics"][CHOSEN_BY])
    progress.say(f"\nregistering the best by {CHOSEN_BY}: {best}")
    chosen = runs[best]
    model = register.register_checkpoint(
        chosen["checkpoint"], MODEL, chosen["run_id"], chosen["metrics"], chosen_on_test=True
    )
    progress.say("loading it in a process that cannot import redress")
    loaded = load_alone(model, load(best, [f"data={data}"]), root)
    return {
        "table": {recipe: run["metrics"] for recipe, run in runs.items()},
        "runs": {recipe: run["run_id"] for recipe, run in runs.items()},
        "model": model,
        "loaded": loaded,
        "mlflow_ui": f"{Path(sys.executable).with_name('mlflow')} ui --backend-store-uri {tracking_uri}",
        "mlflow_page": f"http://127.0.0.1:5000/#/experiments/{experiment_of(chosen['run_id'])}/runs",
        "pictures": [picture for run in runs.values() for picture in run["pictures"]],
        "seconds": time.monotonic() - started,
    }


def render(folder: Path, progress: Progress) -> str:
    """The address of the demo's data set."""
    from datasets.synthetic.dataset import num_images, render_dataset

    total = num_images(PRESET, PROTOCOL)
    with progress.bar("rendering people") as bar:
        render_dataset(str(folder), preset=PRESET, splits=PROTOCOL, progress=lambda done: bar(done, total))
    return str(folder)


def demo_recipes() -> list[str]:
    """The recipes that the demo trains, in order."""
    from orchestration.config import recipes

    lines = (recipes.FOLDER / "demo.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def experiment_of(run_id: str) -> str:
    """MLflow's id of the experiment that a run is in."""
    from orchestration.tracking import mlflow_client

    return str(mlflow_client.connect(create=False).get_run(run_id).info.experiment_id)


def empty_folder(root: Path) -> Path:
    """`root`, created or emptied. Raises RequestError if it is not empty and lacks the mark of an earlier demo."""
    import shutil

    root = root.resolve()
    mark = root / ".redress-demo"
    if root.exists() and any(root.iterdir()) and not mark.exists():
        raise RequestError(f"{root} is not empty and not from an earlier demo. Name another folder, or empty this one.")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    mark.touch()
    return root


def load_alone(uri: str, experiment: Experiment, root: Path) -> dict[str, Any]:
    """Load the registered model with MLflow alone, in an isolated process outside the repository, and embed four images."""
    import subprocess

    size = (str(experiment.augment.height), str(experiment.augment.width))
    command = [sys.executable, "-I", "-c", LOAD_ALONE, uri, *size]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the registered model {uri} does not load without redress:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def show_demo(answer: Answer) -> None:
    print_comparison(answer["table"])
    print_facts(
        {
            "model": answer["model"],
            "pictures": "\n".join(answer["pictures"]),
            "to see the runs": f"{answer['mlflow_ui']}\nthen open {answer['mlflow_page']}",
            "seconds": round(answer["seconds"]),
        }
    )


def print_comparison(table: Mapping[str, Mapping[str, float]]) -> None:
    """Recipes down, modes and measures across, in percent. table: recipe → metric → fraction."""
    from orchestration.measures import modes_of

    modes = modes_of(name for metrics in table.values() for name in metrics)
    names = [(mode, measure) for mode in modes for measure in MEASURES]
    columns = [f"{mode}\n{measure}" for mode, measure in names]
    lines = [
        [recipe, *(percent(metrics[f"{mode}/{measure}"]) for mode, measure in names)]
        for recipe, metrics in table.items()
    ]
    print_table("rendered people, LTCC's protocol, %", ["recipe", *columns], lines, numbers=columns)


DEMO = Command(
    "demo", "render people, train, evaluate, register and load back, in minutes", DemoOptions, run_demo, show_demo
)
