"""`make demo`: rendered people → shards → training on Ray → evaluation → MLflow → a registered model that loads without us.

Everything lands below one folder. `experiments/demo.txt` names the recipes; the model registered is the one with the
higher clothes-changing mAP on the test people, and its tags and model card say so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from datasets.synthetic.dataset import num_images, render_dataset
from orchestration.config import recipes
from orchestration.config.load import load
from orchestration.errors import RequestError
from orchestration.progress import Progress
from orchestration.registry import register
from orchestration.tracking import mlflow_client
from orchestration.training.train import train

PRESET, PROTOCOL = "demo", "ltcc"
MODEL = "demo"
METRICS = ("rank-1", "mAP")
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


def demo(directory: str = "demo", *, overrides: Sequence[str] = (), progress: Progress | None = None) -> dict[str, Any]:
    """Run the whole of it below `directory` (emptied first); returns the table, the runs, the model, the pictures.

    Raises: RequestError where `directory` holds something that is not an earlier demo.
    """
    progress = progress or Progress()
    started = time.monotonic()
    root = empty_folder(Path(directory))
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri = f"sqlite:///{root / 'mlflow.db'}"
    data = str(root / "data")
    total = num_images(PRESET, PROTOCOL)
    with progress.bar("rendering people") as bar:
        render_dataset(data, preset=PRESET, splits=PROTOCOL, progress=lambda done: bar(done, total))
    runs = {}
    for recipe in demo_recipes():
        experiment = load(recipe, [f"data={data}", f"storage={root / 'runs'}", *overrides])
        progress.say(f"\n{recipe}: {experiment.workers} workers, {experiment.epochs} epochs")
        runs[recipe] = train(experiment, progress=progress)
    better = max(runs, key=lambda recipe: runs[recipe]["metrics"][CHOSEN_BY])
    progress.say(f"\nregistering the better by {CHOSEN_BY}: {better}")
    chosen = runs[better]
    model = register.register_checkpoint(
        chosen["checkpoint"], MODEL, chosen["run_id"], chosen["metrics"], chosen_on_test=True
    )
    progress.say("loading it back in a process that cannot import redress")
    loaded = load_alone(model, load(better, [f"data={data}"]), root)
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


def demo_recipes() -> list[str]:
    """What the demo trains, in turn."""
    lines = (recipes.FOLDER / "demo.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def experiment_of(run_id: str) -> str:
    """MLflow's id of the experiment that a run is in."""
    return str(mlflow_client.connect().get_run(run_id).info.experiment_id)


def empty_folder(root: Path) -> Path:
    """`root` made new. A folder without the mark of an earlier demo is not touched."""
    root = root.resolve()
    mark = root / ".redress-demo"
    if root.exists() and any(root.iterdir()) and not mark.exists():
        raise RequestError(f"{root} holds something that is no earlier demo. Name another folder, or empty this one.")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    mark.touch()
    return root


def load_alone(uri: str, experiment: Any, root: Path) -> dict[str, Any]:
    """Load the registered model with MLflow alone, in an isolated process outside the repository, and embed four images."""
    size = (str(experiment.augment.height), str(experiment.augment.width))
    command = [sys.executable, "-I", "-c", LOAD_ALONE, uri, *size]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the registered model {uri} does not load without redress:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(result: dict[str, Any]) -> Table:
    """Method × mode × {rank-1, mAP} in percent."""
    modes = list(dict.fromkeys(name.split("/")[0] for run in result["table"].values() for name in run))
    shown = Table(title="rendered people, LTCC's protocol, %", title_justify="left")
    shown.add_column("recipe")
    for mode in modes:
        for metric in METRICS:
            shown.add_column(f"{mode}\n{metric}", justify="right")
    for recipe, metrics in result["table"].items():
        shown.add_row(recipe, *(f"{100 * metrics[f'{mode}/{metric}']:.1f}" for mode in modes for metric in METRICS))
    return shown
