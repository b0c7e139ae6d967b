"""`redress clip`."""

from __future__ import annotations

from orchestration.cli.argument_types import any_address
from orchestration.cli.command import Answer, Command, Group
from orchestration.cli.options import Options, argument, option
from orchestration.cli.tables import print_facts, print_table


class TrainTinyOptions(Options):
    data: str = argument(
        "DATA", "a data set with captions, such as `redress data synth OUT --preset clip`", parse=any_address
    )
    out: str = argument("OUT", "the safetensors file to write, a path or s3://…", parse=any_address)
    seed: int = option(1, "seed of weights and batches (default: 1)", parse=int)


def train_tiny(options: TrainTinyOptions) -> Answer:
    import safetensors.torch

    from datasets.shards.dataset import Dataset
    from datasets.storage.store import open_store
    from orchestration.clip.tiny import train_tiny
    from orchestration.progress import Progress

    labels = {
        "reading": ("reading images", "images"),
        "words": ("image tower: words as labels", "steps"),
        "pairs": ("text tower: sentences and images", "steps"),
    }
    with Progress().stages(labels) as advance:
        model, recalls = train_tiny(Dataset.open(options.data), options.seed, advance)
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state().items()})
    open_store(options.out).write("", data)
    return {"weights": options.out, "bytes": len(data), "data": options.data, "recall": recalls}


def show_tiny(answer: Answer) -> None:
    found = answer["recall"]
    rows = []
    for pair in dict.fromkeys(name.rpartition("/")[0] for name in found if "recall@" in name):
        kind, view = pair.split("/")
        percent = [f"{100 * found[f'{pair}/recall@{k}']:.0f} %" for k in (1, 5, 10)]
        rows.append([f"sentence about the {kind}", f"{view} images", found[f"{kind}/candidates"], *percent])
    print_table("sentences that find their image", ["text", "among", "images", "in 1", "in 5", "in 10"], rows)
    print_facts({"weights": f"{answer['weights']} ({answer['bytes'] / 1e6:.1f} MB)"})


CLIP = Group(
    "clip",
    "make a tiny CLIP for trying the methods that start from one",
    (
        Command(
            "train-tiny",
            "train two small towers on rendered people and the sentences about them",
            TrainTinyOptions,
            train_tiny,
            show_tiny,
        ),
    ),
)
