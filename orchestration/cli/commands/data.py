"""`redress data`: data sets are rendered, converted, parsed, inspected, verified and divided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestration.cli.argument_types import (
    any_address,
    image_size,
    local_path,
    positive_int,
    share_or_count,
    three_numbers,
)
from orchestration.cli.command import Answer, Command, Group, opening
from orchestration.cli.options import Options, argument, option, repeated, required, switch
from orchestration.cli.tables import percent, print_facts, print_table, shortened

if TYPE_CHECKING:
    from datasets.format.manifest import Manifest

LABEL_MAPS = "lip20, atr18, pascal7 or six"
OVERWRITE = switch("replace the data set at the destination")
TABLE_HELP = """\
LAYOUT table reads your own images from a table.csv beside them (or .tsv, .parquet), with a row for each image and split:

    path,person,split,clothes,camera
    crops/0001.jpg,anna,train,red coat,hall
    crops/0002.jpg,anna,train,blue,yard
    crops/0417.jpg,bert,query,grey,hall
    crops/0418.jpg,bert,gallery,grey,yard
    crops/0419.jpg,bert,gallery,striped,yard

path, person and split are needed; clothes, camera, sequence and frame are used where they are there. The splits are train,
query and gallery, and for model selection val_query and val_gallery; test people should not be in train. Where every query
and gallery image has clothes and a camera, LTCC's three modes are scored, else general (--protocol chooses another).
"""
MODE_COLUMNS = ["mode", "splits", "queries", "valid", "people", "of them in train", "cameras"]


def written(address: str, manifest: Manifest) -> Answer:
    return {
        "address": address,
        "name": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "images": {name: split.rows for name, split in manifest.splits.items()},
    }


def show_written(answer: Answer) -> None:
    images = ", ".join(f"{split} {count}" for split, count in answer["images"].items())
    print_facts({"data set": answer["address"], "images": images, "fingerprint": answer["fingerprint"]})


class SynthOptions(Options):
    address: str = argument("ADDRESS", "the folder or s3://… to write the data set to", parse=any_address)
    preset: str = option("default", "number of people and images: default, demo, clip or tiny")
    splits: str = option("ltcc", "protocol that divides the test people: ltcc (default) or prcc")
    seed: int = option(1, "seed of the people and their clothes (default: 1)", parse=int)
    size: tuple[int, int] | None = option(
        None, "image size in pixels, such as 128x64; default: the preset's", metavar="HxW", parse=image_size
    )
    overwrite: bool = OVERWRITE


def synth(options: SynthOptions) -> Answer:
    from datasets.storage.store import open_store
    from datasets.synthetic.dataset import num_images, render_dataset
    from orchestration.progress import Progress

    with opening():
        total = num_images(options.preset, options.splits, options.seed)
        open_store(options.address).exists("manifest.json")
    with Progress().bar("rendering people", "images") as bar:
        manifest = render_dataset(
            options.address,
            preset=options.preset,
            splits=options.splits,
            seed=options.seed,
            size=options.size,
            overwrite=options.overwrite,
            progress=lambda done: bar(done, total),
        )
    return written(options.address, manifest)


class ConvertOptions(Options):
    layout: str = argument(
        "LAYOUT", "the layout of the source: prcc, ltcc, …, or table for your own images; an unknown name lists all"
    )
    source: str = argument(
        "SOURCE", "the directory as its authors distribute it, or an archive of it (.zip, .tar …)", parse=local_path
    )
    address: str = argument("DESTINATION", "the folder or s3://… to write the data set to", parse=any_address)
    parsing: str | None = option(
        None, "folder or archive of parsing masks: the same tree of files, as .png", metavar="MASKS", parse=local_path
    )
    labels: str = option("lip20", f"label map of the masks: {LABEL_MAPS} (default: lip20)")
    quarantine: bool = switch("leave damaged files out and record them in the manifest")
    resize_masks: bool = switch("resize masks to their images by nearest neighbour")
    protocol: str | None = option(
        None, "how the data set is scored: general, ltcc, …; default: the layout's, for a table by its labels"
    )
    name: str | None = option(None, "name in the manifest (default: LAYOUT)")
    version: str | None = option(None, "version in the manifest")
    licence: str | None = option(None, "terms of use and consent in the manifest and in every model card")
    clothes: str = option(
        "labelled", "person: each person is one outfit, where none are labelled", choices=("labelled", "person")
    )
    without: list[str] = repeated("leave this split out; may be repeated", metavar="SPLIT")
    dry_run: bool = switch("check and count the source, write nothing")
    overwrite: bool = OVERWRITE


def convert(options: ConvertOptions) -> Answer:
    from dataclasses import asdict

    from datasets.conversion.convert import ConversionSettings, convert
    from datasets.storage.store import open_store
    from orchestration.progress import Progress

    with opening():
        open_store(options.address).exists("manifest.json")
    stages = {
        "read": ("reading the archive", "bytes"),
        "check": ("checking", "images"),
        "resume": ("verifying finished shards", "images"),
        "write": ("converting", "images"),
    }
    settings = ConversionSettings(
        parsing=options.parsing,
        labels=options.labels,
        quarantine=options.quarantine,
        resize_masks=options.resize_masks,
        without=tuple(options.without),
        protocol=options.protocol,
        name=options.name,
        version=options.version,
        licence=options.licence,
        person_as_clothes=options.clothes == "person",
        dry_run=options.dry_run,
        overwrite=options.overwrite,
    )
    with Progress().stages(stages) as progress:
        done = convert(options.layout, options.source, options.address, settings, progress=progress)
    report = {
        "layout": done.layout,
        "protocol": done.protocol,
        "modes": [asdict(one) for one in done.prospects],
        "notes": done.lines(),
        "warnings": done.warnings,
        "passed_over": done.passed_over,
        "quarantined": [str(offender) for offender in done.quarantined],
    }
    return report | (written(options.address, done.manifest) if done.manifest else {"address": None})


def show_conversion(answer: Answer) -> None:
    for note in answer["notes"]:
        print(note)
    if answer["address"]:
        show_written(answer)
    else:
        print("dry run: nothing was written")


class ParseOptions(Options):
    address: str = argument("SOURCE", "the data set to parse", parse=any_address)
    destination: str = argument(
        "DESTINATION", "the new data set; an interrupted job continues there", parse=any_address
    )
    model: str = required(
        "a published SCHP checkpoint, or an exported graph (.onnx, .pt2)", metavar="WEIGHTS", parse=any_address
    )
    labels: str | None = option(None, f"label map of a graph's output: {LABEL_MAPS}", metavar="MAP")
    size: tuple[int, int] | None = option(
        None, "input size of a graph that does not state it", metavar="HxW", parse=image_size
    )
    mean: tuple[float, float, float] | None = option(
        None, "a graph's input is (RGB / 255 - mean) / std; default: ImageNet's", metavar="R,G,B", parse=three_numbers
    )
    std: tuple[float, float, float] | None = option(None, "see --mean", metavar="R,G,B", parse=three_numbers)
    workers: int | None = option(
        None, "number of workers; default: as many as the Ray cluster has resources for", parse=positive_int
    )
    cpus: int = option(2, "CPU cores of each worker (default: 2)", parse=positive_int)
    batch: int = option(8, "images per forward pass (default: 8)", parse=positive_int)
    gpu: str = option("auto", "give each worker a GPU (default: auto)", choices=("auto", "true", "false"))
    overwrite: bool = OVERWRITE
    overwrite_masks: bool = switch("replace the masks that the source has")


def parse(options: ParseOptions) -> Answer:
    from datasets.shards.exclusive import exclusive
    from datasets.storage.store import open_store
    from orchestration.parsing.job import ParseSettings, parse
    from orchestration.parsing.models import find_parser
    from orchestration.progress import Progress

    model = find_parser(options.model, labels=options.labels, size=options.size, mean=options.mean, std=options.std)
    settings = ParseSettings(
        workers=options.workers,
        cpus=options.cpus,
        batch=options.batch,
        gpu=None if options.gpu == "auto" else options.gpu == "true",
        overwrite=options.overwrite,
        overwrite_masks=options.overwrite_masks,
    )
    with opening():
        address = open_store(options.destination).address
    with exclusive(address), Progress().bar("parsing", unit="images") as bar:
        done = parse(options.address, options.destination, model, settings, progress=bar)
    shards = {"made": done.made, "kept": done.kept}
    return written(options.destination, done.manifest) | {"parser": model.record(), "shards": shards}


def show_parsing(answer: Answer) -> None:
    show_written(answer)
    parser, shards = answer["parser"], answer["shards"]
    kept = f", {shards['kept']} kept from an earlier run" if shards["kept"] else ""
    masks = f"{parser['label_map']} by {parser['kind']} {parser['sha256'][:8]}: {shards['made']} shards{kept}"
    print_facts({"masks": masks, "to see them": f"redress data inspect {answer['address']} --sheet masks.png"})


class InspectOptions(Options):
    address: str = argument("ADDRESS", "the data set", parse=any_address)
    sheet: str | None = option(None, "write a contact sheet of images and their masks", metavar="PNG", parse=local_path)


def inspect(options: InspectOptions) -> Answer:
    from datasets.inspection.inspect import inspect
    from datasets.shards.dataset import Dataset
    from orchestration.progress import doing

    with opening():
        Dataset.open(options.address)
    with doing("counting images, and ranking the test images by their colours"):
        return inspect(options.address, sheet=options.sheet)


def show_inspection(answer: Answer) -> None:
    keys = ("address", "name", "version", "licence", "clothes", "fingerprint", "label_map", "protocol")
    print_facts({key: answer[key] for key in keys} | {"quarantined": quarantined(answer)})
    if modes := [mode_line(mode) for mode in answer["modes"]]:
        print_table(f"protocol {answer['protocol']}", MODE_COLUMNS, modes)
    for warning in answer["warnings"]:
        print(f"warning: {warning}")
    columns = ["split", "images", "persons", "clothes", "cameras", "masks", "sizes", "outfits: people"]
    print_table("", columns, [split_line(name, split) for name, split in answer["splits"].items()])
    scores = [
        [mode, kind, percent(score["rank1"]), percent(score.get("random"))]
        for mode, kinds in answer["trivial"].items()
        for kind, score in kinds.items()
    ]
    if scores:
        print_table("colour baselines, %", ["mode", "nearest by", "rank-1", "random"], scores)
    print_facts({"contact sheet": answer["sheet"]})


def mode_line(mode: dict[str, Any]) -> list[Any]:
    counts = [mode[key] for key in ("queries", "valid", "people", "seen", "cameras")]
    return [
        mode["mode"],
        f"{mode['query']} → {mode['gallery']}",
        *(counts if not mode["problem"] else [""] * len(counts)),
    ]


def quarantined(answer: Answer) -> str:
    return "\n".join(shortened([f"{entry['path']}: {entry['problem']}" for entry in answer["quarantined"]]))


def split_line(name: str, split: dict[str, Any]) -> list[Any]:
    sizes = ", ".join(f"{size} ({count})" for size, count in split["sizes"].items())
    outfits = ", ".join(f"{number}: {people}" for number, people in (split["clothes_per_person"] or {}).items())
    counts = [split[key] for key in ("images", "persons", "clothes", "cameras", "masks")]
    return [name, *counts, sizes, outfits]


class VerifyOptions(Options):
    address: str = argument("ADDRESS", "the data set", parse=any_address)


def verify(options: VerifyOptions) -> Answer:
    from datasets.protocols.prospects import prospects, protocol_warnings
    from datasets.protocols.protocols import PROTOCOLS
    from datasets.shards.dataset import Dataset
    from orchestration.progress import Progress

    with opening():
        dataset = Dataset.open(options.address)
    with Progress().bar("verifying", "bytes") as bar:
        problems = dataset.verify(bar)
    protocol = None if problems else PROTOCOLS.get(dataset.manifest.protocol)
    warnings = protocol_warnings(protocol, dataset, prospects(protocol, dataset)) if protocol else []
    return {
        "status": 1 if problems else 0,
        "warnings": warnings,
        "address": options.address,
        "fingerprint": dataset.fingerprint,
        "problems": problems,
    }


def show_verification(answer: Answer) -> None:
    for problem in shortened(answer["problems"]):
        print(problem)
    for warning in answer["warnings"]:
        print(f"warning: {warning}")
    count = len(answer["problems"])
    found = f"{count} problem{'s' if count > 1 else ''}" if count else "every byte matches its digest"
    print(f"{answer['address']}: {found}")


class HoldoutOptions(Options):
    address: str = argument("SOURCE", "the data set", parse=any_address)
    destination: str = argument("DESTINATION", "the folder or s3://… to write the new data set to", parse=any_address)
    persons: int | float = option(
        0.1, "share of train's people to hold out, or their number (default: 0.1)", parse=share_or_count
    )
    seed: int = option(1, "seed of the draw of people (default: 1)", parse=int)
    overwrite: bool = OVERWRITE


def holdout(options: HoldoutOptions) -> Answer:
    from datasets.conversion.holdout import holdout
    from datasets.shards.dataset import Dataset
    from orchestration.progress import Progress

    with opening():
        dataset = Dataset.open(options.address)
    total = sum(len(dataset.index(split)) for split in dataset.splits)
    with Progress().bar("writing", "images") as bar:
        manifest = holdout(
            options.address,
            options.destination,
            persons=options.persons,
            seed=options.seed,
            overwrite=options.overwrite,
            progress=lambda done: bar(done, total),
        )
    return written(options.destination, manifest)


DATA = Group(
    "data",
    "make, convert, parse and inspect data sets",
    (
        Command("synth", "render a data set of synthetic people", SynthOptions, synth, show_written),
        Command(
            "convert",
            "check a public data set and convert it to shards; the same line continues an interrupted conversion",
            ConvertOptions,
            convert,
            show_conversion,
            epilog=TABLE_HELP,
        ),
        Command("parse", "make parsing masks for a data set that has none", ParseOptions, parse, show_parsing),
        Command(
            "inspect",
            "show counts, image sizes, clothes per person and colour baselines",
            InspectOptions,
            inspect,
            show_inspection,
        ),
        Command("verify", "read every byte and compare it with its digest", VerifyOptions, verify, show_verification),
        Command("holdout", "move people from train to a validation set", HoldoutOptions, holdout, show_written),
    ),
)
