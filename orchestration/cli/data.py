"""The words of `redress data`: rendering, converting, parsing and looking at data sets."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from orchestration.cli.argument_types import channels, positive, share, size


def add_commands(data: Any, add: Callable[..., ArgumentParser]) -> None:
    """data: the group they are added to, by `add`."""
    synth = add(data, "synth", "data_synth", "render a data set of people who do not exist", path="data")
    synth.add_argument("address", metavar="ADDRESS")
    synth.add_argument("--preset", default="default", help="how many people and images: default, demo, tiny")
    synth.add_argument("--splits", default="ltcc", help="whose logic divides the test people: ltcc or prcc")
    synth.add_argument("--seed", type=int, default=1)
    synth.add_argument("--size", metavar="HxW", type=size, help="pixels, such as 128x64, instead of the preset's")
    synth.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    add_convert(data, add)
    add_parse(data, add)
    inspect = add(data, "inspect", "data_inspect", "counts, sizes, clothes per person, a contact sheet", path="data")
    inspect.add_argument("address", metavar="ADDRESS")
    inspect.add_argument("--sheet", metavar="PNG", help="write a contact sheet with masks overlaid")
    verify = add(data, "verify", "data_verify", "read everything and check it against its digests", path="data")
    verify.add_argument("address", metavar="ADDRESS")
    holdout = add(data, "holdout", "data_holdout", "move train people to a validation set", path="data")
    holdout.add_argument("address", metavar="SOURCE")
    holdout.add_argument("destination", metavar="DESTINATION")
    holdout.add_argument("--persons", type=share, default=0.1, help="a share of train's people, or their number")
    holdout.add_argument("--seed", type=int, default=1)
    holdout.add_argument("--overwrite", action="store_true", help="replace a data set that is there")


def add_convert(data: Any, add: Callable[..., ArgumentParser]) -> None:
    convert = add(
        data,
        "convert",
        "data_convert",
        "a public data set to shards, checked first; after a kill the same line goes on",
        path="data",
    )
    convert.add_argument("layout", metavar="LAYOUT", help="prcc, ltcc, … (an unknown one lists them all)")
    convert.add_argument(
        "source",
        metavar="SOURCE",
        help="the directory as its authors hand it out, or an archive of it (.zip, .tar, .tar.gz …)",
    )
    convert.add_argument("address", metavar="DESTINATION")
    convert.add_argument("--parsing", metavar="MASKS", help="a folder or an archive of masks: the same tree, .png")
    convert.add_argument("--labels", default="lip20", help="the masks' label map: lip20, atr18, pascal7, six")
    convert.add_argument("--quarantine", action="store_true", help="set offenders aside and record them")
    convert.add_argument("--resize-masks", action="store_true", help="bring masks to their images' sizes, nearest")
    convert.add_argument("--without", action="append", default=[], metavar="SPLIT", help="a split to leave out")
    convert.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    convert.add_argument("--overwrite", action="store_true", help="replace a data set that is there")


def add_parse(data: Any, add: Callable[..., ArgumentParser]) -> None:
    parse = add(data, "parse", "data_parse", "make parsing masks for a data set that has none", path="data")
    parse.add_argument("address", metavar="SOURCE")
    parse.add_argument(
        "destination", metavar="DESTINATION", help="the new data set; an interrupted run is taken up there"
    )
    parse.add_argument(
        "--model", required=True, metavar="WEIGHTS", help="a published SCHP checkpoint, or a graph: .onnx, .pt2"
    )
    parse.add_argument("--labels", metavar="MAP", help="what a graph's outputs mean: lip20, atr18, pascal7, six")
    parse.add_argument("--size", metavar="HxW", type=size, help="of a graph's input, where it does not say itself")
    parse.add_argument(
        "--mean",
        metavar="R,G,B",
        type=channels,
        help="a graph's input is (RGB / 255 - mean) / std; default: ImageNet's",
    )
    parse.add_argument("--std", metavar="R,G,B", type=channels, help="see --mean")
    parse.add_argument("--workers", type=positive, help="actors; default: as many as the Ray cluster has room for")
    parse.add_argument("--cpus", type=positive, default=2, help="cores of each worker (default: 2)")
    parse.add_argument("--batch", type=positive, default=8, help="images at once (default: 8)")
    parse.add_argument("--gpu", choices=["auto", "true", "false"], default="auto", help="a GPU for each worker")
    parse.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    parse.add_argument("--overwrite-masks", action="store_true", help="new masks for a data set that has some")
