"""Fig. 5 and Tables 3 and 4 of CCAF on rendered people, and what its prompts see.

    python -m benchmarks.papers.ccaf [--worlds 1 2] [--seeds 1 2 3] [--rows B B+I2T ...] [--set key=value ...]

A world has 120 people to train on and 60 others to test, and a tiny CLIP that learnt from 600 more, of a world of its own. Each
row is trained with each seed by the recipe ccaf-demo, one thread each, and scored by LTCC's protocol: 12 epochs of prompts
where the row has texts (540 steps on rows), then 11 of images in every row (about 650 steps). The table can be interrupted at
any time: finished rows are kept below build/ccaf, unfinished ones resume from their last epoch. A world and a seed take about
15 CPU minutes, 5 with the rows of the bars alone: prompts prompts-whole B B+I2T B+I2T-whole. Rows are trained in this order.

Bars, over all worlds and seeds: prompts learnt on images without clothes tell persons apart there (AUC at least .90) and not by
clothes alone (at most .60); prompts learnt on whole images do by clothes (at least .78). With these as texts the general mAP is
higher than with those. With those the mAP in changed clothes is at least the baseline's. The rows of Tables 3 and 4 have no bar
on their order.
"""

from __future__ import annotations

import json
import statistics
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch

from benchmarks.papers.ablation import Ablation, Trial, arguments, finish_trial, report, train_rows
from benchmarks.papers.tiny_clip import BARS, rendered
from datasets.shards.dataset import Dataset
from datasets.storage.store import open_store
from datasets.streaming.stream import Stream
from datasets.synthetic.dataset import render_dataset
from datasets.synthetic.presets import Preset
from orchestration.clip.tiny import train_tiny
from orchestration.config import build
from orchestration.engine import checkpoint
from orchestration.engine.loop import AUC
from orchestration.engine.restore import load_method_state
from orchestration.engine.strategies.single_process import SingleProcess
from orchestration.engine.survey import Survey, end_stage

BUILD = Path("build/ccaf")
PEOPLE = Preset("ccaf", train_persons=120, test_persons=60)
CLIP_WORLD = 6  # of world 1 its CLIP sees world 7, of world 2 world 8, as `tiny_clip` does
PROMPT_EPOCHS, IMAGE_EPOCHS = 12, 11  # of 45 steps on rows, of 56 on images
SHARED = ["batch.lanes=1", "workers=1", "checkpoint.every_epochs=4"]
NO_TEXT = ["method.text_alignment=false"]
NO_IMAGES = ["method.image_alignment=false"]
NO_CFM = ["method.clothes_minimisation=false", "optimizers.projection=null"]
ONE_HOT = ["method.clothes_targets=one-hot"]
NO_SHIELDING_TEXT = ["method.shielding_text_alignment=false"]
PROMPTED = [*SHARED, f"epochs={PROMPT_EPOCHS + IMAGE_EPOCHS}", f"method.encoder_from_epoch={PROMPT_EPOCHS}"]
UNPROMPTED = [*SHARED, f"epochs={IMAGE_EPOCHS}", "optimizers.prompts=null"]
LOOK = [
    "until=prompts"
]  # so that these figures come soon; their mAP is that of the tiny CLIP, which has not learnt yet
ROWS = {
    "prompts": [*PROMPTED, *NO_IMAGES, *NO_CFM, *LOOK],
    "prompts-whole": [*PROMPTED, *NO_IMAGES, *NO_CFM, *LOOK, "method.shown_to_prompts=raw"],
    "B": [*UNPROMPTED, *NO_TEXT, *NO_IMAGES, *NO_CFM],
    "B+I2T": [*PROMPTED, *NO_IMAGES, *NO_CFM],
    "B+I2T-whole": [*PROMPTED, *NO_IMAGES, *NO_CFM, "method.shown_to_prompts=raw"],  # Fig. 2: CLIP-ReID's prompts
    "B+I2T+I2I": [*PROMPTED, *NO_CFM],
    "CCAF": PROMPTED,
    "one-hot": [*PROMPTED, *ONE_HOT],  # Table 4: r/p L_i2tce^c
    "one-hot-no-I2Ts": [*PROMPTED, *ONE_HOT, *NO_SHIELDING_TEXT],  # and w/o L_i2tce^s
    "one-hot-no-I2T": [*UNPROMPTED, *ONE_HOT, *NO_SHIELDING_TEXT, *NO_TEXT],  # and w/o L_i2tce
}
PROMPTS, WHOLE_PROMPTS = "prompts", "prompts-whole"
SHIELDING, WHOLE, BASELINE = "B+I2T", "B+I2T-whole", "B"
CHANGED, GENERAL = "clothes-changing/mAP", "general/mAP"

Results = Mapping[tuple[str, int, int], Mapping[str, float]]  # (row, world, seed) → metrics


def prompts_see(trial: Trial) -> dict[str, float]:
    """AUC of the prompts at the end of their stage, with masks also where the row's images have none; of two rows."""
    if trial.row not in (PROMPTS, WHOLE_PROMPTS):
        return {}
    experiment, dataset = trial.experiment, Dataset.open(trial.experiment.data)
    method = build.build_method(experiment, build.describe_data(dataset, dataset.index("train")))
    load_method_state(method, checkpoint.find_stage_end(str(trial.folder), "prompts"))
    augmentation = build.build_augmentation(experiment)
    size = augmentation.height, augmentation.width
    stream = Stream(dataset, "train", parsing=True, size=size, threads=1, cache_bytes=1 << 20)
    survey = Survey(lambda: stream.survey(256), augmentation, torch.float32, "cpu", lambda images: None)
    found = end_stage(method, survey, experiment.seed, SingleProcess())
    stream.close()
    return {f"{AUC}{name}": one.auc for name, one in found.items()}


ABLATION = Ablation("benchmarks.papers.ccaf", "ccaf-demo", BUILD, ROWS, also=prompts_see)


def world_data(world: int) -> Path:
    address = BUILD / f"people-{world}"
    if not open_store(str(address)).exists("manifest.json"):
        print(f"world {world}: rendering", flush=True)
        render_dataset(str(address), preset=PEOPLE, seed=world)
    return address.absolute()


def world_clip(world: int) -> Path:
    """The weights of the world's tiny CLIP."""
    path = BUILD / f"clip-{world}.safetensors"
    if not path.exists():
        print(f"world {world}: training a tiny CLIP", flush=True)
        data = Dataset.open(rendered(world + CLIP_WORLD))
        model, recalls = train_tiny(data, seed=1, advance=lambda what, done, total: None)
        print("  ".join(f"{name} {value:.2f}" for name, value in recalls.items() if name in BARS), flush=True)
        state = {name: tensor.contiguous() for name, tensor in model.state().items()}
        open_store(str(path)).write("", safetensors.torch.save(state))
    return path.absolute()


def train_world(world: int, args: Namespace) -> Results:
    """Train what is missing of a world, and print its table."""
    data, clip = world_data(world), world_clip(world)
    print(f"world {world}", flush=True)
    trials = train_rows(
        ABLATION, Namespace(**vars(args) | {"data": data, "overrides": [*args.overrides, f"weights={clip}"]})
    )
    report(trials)
    return {(t.row, world, t.seed): json.loads(t.result.read_text())["metrics"] for t in trials}


def show_bars(results: Results) -> None:
    for row, name, is_met, bar in (
        (PROMPTS, "persons-shielding", lambda auc: auc >= 0.90, "at least .90"),
        (PROMPTS, "persons-clothes", lambda auc: auc <= 0.60, "at most .60"),
        (WHOLE_PROMPTS, "persons-clothes", lambda auc: auc >= 0.78, "at least .78"),
    ):
        values = [metrics[f"{AUC}{name}"] for (of, _, _), metrics in results.items() if of == row]
        if values:
            show(f"AUC of {row} with {name.partition('-')[2]} images", values, bar, all(map(is_met, values)), "{:.3f}")
    show_gain(results, GENERAL, WHOLE, SHIELDING, lambda gain: gain > 0, "above 0")
    show_gain(results, CHANGED, SHIELDING, BASELINE, lambda gain: gain >= 0, "at least 0")


def show_gain(results: Results, metric: str, row: str, other: str, is_met: Callable[[float], bool], bar: str) -> None:
    """The gain of one row over another, each trial against that of the same world and seed; the bar is on the mean."""
    gains = [
        100 * (metrics[metric] - results[other, world, seed][metric])
        for (of, world, seed), metrics in results.items()
        if of == row and (other, world, seed) in results
    ]
    if gains:
        show(f"{metric}, {row} over {other}, points", gains, bar, is_met(statistics.fmean(gains)), "{:+.2f}")


def show(what: str, values: Sequence[float], bar: str, is_reached: bool, form: str) -> None:
    mean, least, most = (form.format(value) for value in (statistics.fmean(values), min(values), max(values)))
    print(f"{what}: {mean} ({least}…{most}) of {len(values)}; bar {bar} {'reached' if is_reached else 'missed'}")


def main() -> None:
    parser = arguments(ABLATION, __doc__)
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2], help="seeds of the renderer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.trial:
        finish_trial(ABLATION, args)
        return
    results: dict[tuple[str, int, int], Mapping[str, float]] = {}
    for world in args.worlds:
        results |= train_world(world, args)
    show_bars(results)


if __name__ == "__main__":
    main()
