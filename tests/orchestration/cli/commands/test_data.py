"""`redress data`: what its commands show of their answers. What they do is tested in test_main and with each room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestration.cli.command import Command
from orchestration.cli.commands.data import (
    DATA,
    show_conversion,
    show_inspection,
    show_parsing,
    show_verification,
    show_written,
)
from orchestration.cli.main import main
from tests.orchestration.printed_table import cells

WRITTEN = {
    "address": "s3://reid/small", "name": "small", "version": "1", "fingerprint": "f00d", "images": {"train": 8, "query": 2},
}  # fmt: skip
SHOWN = "data set     s3://reid/small\nimages       train 8, query 2\nfingerprint  f00d\n"


def test_a_written_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    show_written(WRITTEN)
    assert capsys.readouterr().out == SHOWN


def test_a_conversion_shows_its_notes_first(capsys: pytest.CaptureFixture[str]) -> None:
    show_conversion({"notes": ["train  official 9  read 9", "2 files passed over"]} | WRITTEN)
    assert capsys.readouterr().out == f"train  official 9  read 9\n2 files passed over\n{SHOWN}"
    show_conversion({"notes": ["a note"], "address": None})
    assert capsys.readouterr().out == "a note\ndry run: nothing was written\n"


@pytest.mark.parametrize(("kept", "shown"), [(0, "3 shards"), (2, "3 shards, 2 kept from an earlier run")])
def test_parsing_names_the_parser_and_how_to_see_its_masks(
    kept: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = {"label_map": "lip20", "kind": "schp", "sha256": "0123456789abcdef"}
    show_parsing(WRITTEN | {"parser": parser, "shards": {"made": 3, "kept": kept}})
    told = capsys.readouterr().out.removeprefix(SHOWN)
    assert told == (
        f"masks        lip20 by schp 01234567: {shown}\n"
        "to see them  redress data inspect s3://reid/small --sheet masks.png\n"
    )


def inspection(**changes: Any) -> dict[str, Any]:
    split = {"images": 8, "persons": 2, "clothes": 3, "cameras": 2, "masks": 8, "sizes": {"64x128": 6, "32x64": 2}}
    answer = {
        "address": "data", "name": "small", "version": "1", "licence": "research", "clothes": True, "fingerprint": "f00d",
        "label_map": None, "protocol": "ltcc", "modes": [], "warnings": [], "quarantined": [], "sheet": None, "trivial": {},
        "splits": {
            "train": split | {"clothes_per_person": {"1": 1, "2": 1}},
            "query": split | {"clothes": None, "clothes_per_person": None},
        },
    }  # fmt: skip
    return answer | changes


def test_an_inspection_shows_a_line_for_each_split(capsys: pytest.CaptureFixture[str]) -> None:
    show_inspection(inspection())
    shown = capsys.readouterr().out
    assert "licence      research\n" in shown
    assert "label_map" not in shown
    assert cells(shown) == [
        ["split", "images", "persons", "clothes", "cameras", "masks", "sizes", "outfits: people"],
        ["train", "8", "2", "3", "2", "8", "64x128 (6), 32x64 (2)", "1: 1, 2: 1"],
        ["query", "8", "2", "", "2", "8", "64x128 (6), 32x64 (2)", ""],
    ]
    assert "colour baselines" not in shown
    assert "contact sheet" not in shown


def test_an_inspection_shows_colour_baselines_and_the_sheet(capsys: pytest.CaptureFixture[str]) -> None:
    baselines = {"general": {"mean colour": {"rank1": 0.25, "random": 0.125}, "histogram": {"rank1": 0.5}}}
    show_inspection(inspection(trivial=baselines, sheet="sheet.png"))
    shown = capsys.readouterr().out
    assert "colour baselines, %" in shown
    assert cells(shown)[3:] == [
        ["mode", "nearest by", "rank-1", "random"],
        ["general", "mean colour", "25.0", "12.5"],
        ["general", "histogram", "50.0", ""],
    ]
    assert shown.endswith("contact sheet  sheet.png\n")


@pytest.mark.parametrize("count", [10, 12])
def test_an_inspection_names_ten_quarantined_files_at_most(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    show_inspection(inspection(quarantined=[{"path": f"{n}.png", "problem": "is empty"} for n in range(count)]))
    shown = capsys.readouterr().out
    assert "quarantined  0.png: is empty\n             1.png: is empty\n" in shown
    assert shown.count("is empty") == 10
    assert ("and 2 more (all of them with --json)" in shown) == (count == 12)


@pytest.mark.parametrize(
    ("problems", "shown"),
    [
        ([], "data: every byte matches its digest\n"),
        (["train/0 differs"], "train/0 differs\ndata: 1 problem\n"),
        (["a", "b"], "a\nb\ndata: 2 problems\n"),
    ],
)
def test_a_verification(problems: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_verification({"address": "data", "problems": problems, "warnings": []})
    assert capsys.readouterr().out == shown
    show_verification({"address": "data", "problems": [f"{number} differs" for number in range(1_200)], "warnings": []})
    assert capsys.readouterr().out.endswith(
        "9 differs\nand 1,190 more (all of them with --json)\ndata: 1200 problems\n"
    )
    show_verification({"address": "data", "problems": problems, "warnings": ["odd"]})
    assert "warning: odd\n" in capsys.readouterr().out


def test_an_inspection_says_what_the_protocol_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    mode = {"mode": "general", "query": "query", "gallery": "gallery", "queries": 9, "valid": 7, "people": 5, "seen": 1}
    broken = {"mode": "other", "query": "query", "gallery": "far", "problem": "there is no split far"}
    modes = [
        mode | {"cameras": 2, "problem": None},
        dict.fromkeys(["queries", "valid", "people", "seen", "cameras"], 0) | broken,
    ]
    show_inspection(inspection(modes=modes, warnings=["people are seen"]))
    shown = capsys.readouterr().out
    assert cells(shown)[:3] == [
        ["mode", "splits", "queries", "valid", "people", "of them in train", "cameras"],
        ["general", "query → gallery", "9", "7", "5", "1", "2"],
        ["other", "query → far", "", "", "", "", ""],
    ]
    assert "warning: people are seen\n" in shown


def table_in(text: str) -> list[str]:
    """The lines of the example of a table in a text."""
    lines = [line.strip() for line in text.splitlines()]
    start = lines.index("path,person,split,clothes,camera")
    return lines[start : start + 6]


def test_the_example_of_a_table_converts_and_is_scored_in_three_modes(tmp_path: Path) -> None:
    """The same lines stand in the README and in the help."""
    _, command, _ = DATA.find(["convert"], "data")
    lines = table_in(command.parser("data convert").format_help())
    assert lines == table_in((Path(__file__).parents[4] / "README.md").read_text(encoding="utf-8"))
    folder = tmp_path / "photos"
    (folder / "crops").mkdir(parents=True)
    for number, line in enumerate(lines[1:]):
        Image.new("RGB", (4, 8), (40 * number, 0, 0)).save(folder / line.partition(",")[0])
    (folder / "table.csv").write_text("\n".join(lines))
    words = [
        "table",
        str(folder),
        str(tmp_path / "shards"),
        "--name",
        "corridor",
        "--licence",
        "research",
        "--version",
        "3",
    ]
    answer = command.call(command.parse(words))
    assert (answer["name"], answer["version"], answer["protocol"]) == ("corridor", "3", "ltcc")
    assert {mode["mode"]: mode["valid"] for mode in answer["modes"]} == {
        "general": 1, "same-clothes": 1, "clothes-changing": 1,
    }  # fmt: skip
    assert answer["warnings"] == []
    again = command.call(command.parse([*words[:2], str(tmp_path / "plain"), "--protocol", "general", "--dry-run"]))
    assert [mode["mode"] for mode in again["modes"]] == ["general"]


def test_options_are_read_into_their_types() -> None:
    synth, convert, parse = (command for command in DATA.commands[:3] if isinstance(command, Command))
    options = synth.parse(["there", "--size", "384x192", "--seed", "7"])
    assert (options.size, options.seed, options.preset, options.overwrite) == ((384, 192), 7, "default", False)
    options = convert.parse(["prcc", "here", "there", "--without", "val", "--without", "gallery", "--dry-run"])
    assert (options.without, options.dry_run, options.labels, options.parsing) == (
        ["val", "gallery"],
        True,
        "lip20",
        None,
    )
    options = parse.parse(["here", "there", "--model", "m.onnx", "--mean", "0,0.5,1", "--gpu", "false"])
    assert (options.mean, options.std, options.gpu, options.workers) == ((0.0, 0.5, 1.0), None, "false", None)
    assert (options.cpus, options.batch) == (2, 8)


def test_every_offender_is_in_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{number}.jpg,a,train" for number in range(30)]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "table.csv").write_text("\n".join(["path,person,split", *rows]))
    words = ["data", "convert", "table", str(tmp_path / "photos"), str(tmp_path / "out")]
    assert main([*words, "--result", str(tmp_path / "result.json")]) == 2
    error = json.loads((tmp_path / "result.json").read_text())["error"]
    assert [line.partition(":")[0] for line in error["offenders"]] == [f"{number}.jpg" for number in range(30)]
    assert "and 20 more like it" in error["message"]
    assert capsys.readouterr().err.count("add the image, or remove the row") == 10
