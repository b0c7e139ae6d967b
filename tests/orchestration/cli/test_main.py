"""The command line: exit statuses, one message per mistake, one JSON object on stdout."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sqlalchemy.exc import OperationalError

from orchestration.cli.main import failure, main
from tests.tiny import png, tiny_dataset

ROOT = Path(__file__).resolve().parents[3]
REDRESS = [sys.executable, "-m", "orchestration"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=8)


SLOW = "loading libraries, opening data and services …\n"  # what a process says on a busy machine


def answer(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The one JSON object on stdout."""
    status = main([*words, "--json"])
    told = json.loads(capfd.readouterr().out)
    assert told["status"] == status
    return dict(told)


def test_help_is_there_at_once() -> None:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "orchestration", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "train, evaluate and record the run in MLflow" in done.stdout
    assert after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime < 2  # 0.08 s on an idle machine
    imported = {row.rpartition("| ")[2].strip() for row in done.stderr.splitlines()}
    assert "orchestration.cli.commands.tune" in imported
    assert not imported & {
        "torch", "ray", "mlflow", "pyarrow", "pydantic", "rich", "yaml", "dataclasses", "pathlib", "subprocess", "difflib",
    }  # fmt: skip


def test_the_version_is_that_of_pyproject_wherever_the_command_runs(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"redress {version}\n"
    assert answer(capfd, "--version") == {"status": 0, "command": "--version", "version": version}


def test_experiments_are_listed_with_a_line_each(capfd: pytest.CaptureFixture[str]) -> None:
    told = answer(capfd, "experiments")
    assert told["command"] == "experiments"
    assert told["experiments"]["cal-ltcc"].startswith("CAL on LTCC: rank-1 / mAP")
    assert main(["experiments"]) == 0
    assert "cal-prcc" in capfd.readouterr().out


def test_an_experiment_is_shown_as_yaml_that_can_be_run(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["experiments", "show", "cal-demo", "epochs=40", "data=s3://reid/small"]) == 0
    mine = tmp_path / "mine.yaml"
    mine.write_text(capfd.readouterr().out)
    assert yaml.safe_load(mine.read_text())["epochs"] == 40
    told = answer(capfd, "experiments", "show", str(mine), "seed=5")
    assert told["experiment"]["data"] == "s3://reid/small"
    assert told["experiment"]["seed"] == 5
    assert answer(capfd, "experiments", "show", "cal-demo")["experiment"]["data"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "which command? train, tune, evaluate"),
        (["trian"], "unknown command 'trian'. Did you mean train?"),
        (["train"], "redress train EXPERIMENT [key=value …]"),
        (["train", "cal-lttc"], "Did you mean cal-ltcc?"),
        (["train", "cal-ltcc", "method.epsilonn=0.2"], "Did you mean epsilon?"),
        (["train", "cal-ltcc", "--sesume", "x"], "unknown option --sesume. Did you mean --resume?"),
        (["train", "cal-ltcc", "data=/nowhere/at/all"], "no data set at /nowhere/at/all"),
        (["evaluate", "/nowhere/at/all"], "no checkpoint at /nowhere/at/all"),
        (["data", "verify", "/nowhere/at/all"], "no data set at /nowhere/at/all"),
        (["data", "inspect", "/nowhere/at/all"], "no data set at /nowhere/at/all"),
        (["data", "holdout", "/nowhere/at/all", "x"], "no data set at /nowhere/at/all"),
        (
            ["data", "holdout", "a", "b", "--persons", "few"],
            "'few': expected a share such as 0.1, or a number such as 12",
        ),
        (["data", "synth", "x", "--preset", "hugh"], "no preset 'hugh'"),
        (["data", "convert", "LTCC", "x", "y"], "Did you mean ltcc?"),
        (["TRAIN"], "Did you mean train?"),
        (["data", "synth", "x", "--splits", "mine"], "mine"),
        (["data", "synth", "x", "--size", "128"], "expected HEIGHTxWIDTH in pixels, such as 128x64"),
        (["data", "parse", "x", "y"], "required: --model"),
        (["data", "parse", "x", "y", "--model", "m", "--mean", "1,2"], "expected three numbers"),
        (["data", "parse", "x", "y", "--model", "m", "--batch", "0"], "whole number of at least 1"),
        (["data", "parse", "x", "y", "--model", "/nowhere/schp.pth"], "--model /nowhere/schp.pth: cannot read"),
        (["data", "verify", "x", "strange"], "unexpected argument 'strange'"),
        (["experiments", "show", "cal-ltcc", "epochs=0"], "must be at least 1"),
    ],
)
def test_a_wrong_request_ends_with_one_message_and_status_2(
    words: list[str], told: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    shown = capfd.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert answer(capfd, *words)["error"]["message"] in shown.err
    assert os.listdir(tmp_path) == []


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    shown = subprocess.run(
        f"{' '.join(REDRESS)} experiments show cal-ltcc | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="bash", cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0
    assert shown.stderr in ("", SLOW)


def test_debug_shows_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "/nowhere", "--debug"]) == 2
    assert "Traceback" in capfd.readouterr().err


def test_an_interrupted_command_has_status_130(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Ctrl-C while a set is rendered in this process."""
    words = ["data", "synth", str(tmp_path / "large"), "--preset", "demo", "--size", "384x192"]
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background inherit that it is ignored
from orchestration.cli.main import failure, main
sys.exit(main({words!r}))"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "rendering people" in next(line for line in process.stderr if line != SLOW)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "KeyboardInterrupt: interrupted. Give the same command again to go on.\n" in told
    assert "Traceback" not in told


def test_overrides_stand_before_between_and_behind_options(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["experiments", "show", "--json", "cal-demo", "epochs=30", "--debug", "seed=7"]
    assert main(words) == 0
    shown = json.loads(capfd.readouterr().out)["experiment"]
    assert (shown["epochs"], shown["seed"]) == (30, 7)


def test_a_data_set_is_rendered_inspected_and_verified(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    address = str(tmp_path / "rendered")
    words = ["data", "synth", address, "--preset", "tiny", "--splits", "prcc", "--seed", "4", "--size", "32x16"]
    made = answer(capfd, *words)
    assert set(made["images"]) == {"train", "query_same", "query_diff", "gallery"}
    sheet = tmp_path / "sheet.png"
    seen = answer(capfd, "data", "inspect", address, "--sheet", str(sheet))
    assert seen["fingerprint"] == made["fingerprint"]
    assert list(seen["splits"]["train"]["sizes"]) == ["16x32"]
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert answer(capfd, "data", "verify", address)["problems"] == []
    assert "overwrite" in answer(capfd, *words)["error"]["message"]


def test_a_public_data_set_is_converted(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    source = tmp_path / "LTCC_ReID"
    for split in ("train", "query", "test"):
        (source / split).mkdir(parents=True)
        for name in ("001_1_c1_000001", "001_1_c2_000002", "001_2_c3_000003", "002_1_c1_000004", "002_1_c2_000005"):
            (source / split / f"{name}.png").write_bytes(png(np.zeros((32, 16), dtype=np.uint8)))
    words = ["data", "convert", "ltcc", str(source), str(tmp_path / "shards")]
    assert answer(capfd, *words, "--dry-run")["address"] is None
    assert not (tmp_path / "shards").exists()
    assert answer(capfd, *words)["images"] == {"train": 5, "query": 5, "gallery": 5}
    assert answer(capfd, "data", "inspect", str(tmp_path / "shards"))["splits"]["train"]["persons"] == 2
    (source / "train" / "000_x_c1_000001.png").write_bytes(b"")
    refused = answer(capfd, *words, "--overwrite")
    assert refused["status"] == 2
    assert "000_x_c1_000001.png" in refused["error"]["message"]


def test_an_archive_is_converted_and_inspect_shows_terms_and_what_was_set_aside(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "ltcc.zip", "w") as packed:
        for split in ("train", "query", "test"):
            for name in ("001_1_c1_000001", "001_1_c2_000002", "002_1_c1_000004"):
                packed.writestr(f"LTCC_ReID/{split}/{name}.png", png(np.zeros((32, 16), dtype=np.uint8)))
        packed.writestr("LTCC_ReID/train/003_1_c1_000009.png", b"no image")
    words = ["data", "convert", "ltcc", str(tmp_path / "ltcc.zip"), str(tmp_path / "shards")]
    assert "train/003_1_c1_000009.png: is no image" in answer(capfd, *words)["error"]["message"]
    assert main([*words, "--quarantine"]) == 0
    told = capfd.readouterr()
    assert "official 17,119 or 17,138   differs" in told.out
    assert "checking: 10 images in" in told.err
    assert "converting: 9 images in" in told.err
    assert main(["data", "inspect", str(tmp_path / "shards")]) == 0
    shown = capfd.readouterr().out
    assert "Research only, by agreement with the authors" in shown
    assert "quarantined  train/003_1_c1_000009.png: is no image of a known format" in shown


def test_people_are_shown_tables(data: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", data]) == 0
    shown = capfd.readouterr().out
    assert "train" in shown
    assert "nearest by" in shown
    assert main(["data", "verify", data]) == 0
    assert "every byte matches its digest" in capfd.readouterr().out


def test_train_people_are_held_out(data: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    images = answer(capfd, "data", "holdout", data, str(tmp_path / "held"), "--persons", "3")["images"]
    assert images["val_query"] > 0
    assert images["train"] < 8 * 2 * 4


def test_an_altered_byte_is_a_failure_of_work(data: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    shard = next((copy / "train").glob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    told = answer(capfd, "data", "verify", str(copy))
    assert told["status"] == 1
    assert shard.name in told["problems"][0]


def test_the_result_is_written_also_of_a_failure(capfd: pytest.CaptureFixture[str], data: str, tmp_path: Path) -> None:
    result = tmp_path / "results" / "verify.json"
    assert main(["data", "verify", data, "--result", str(result)]) == 0
    assert json.loads(result.read_text()) | {"fingerprint": ""} == {
        "status": 0, "command": "data verify", "address": data, "fingerprint": "", "problems": [], "warnings": [],
    }  # fmt: skip
    assert main(["train", "cal-ltcc", "epochs=0", "--result", str(result)]) == 2
    told = json.loads(result.read_text())
    assert (told["status"], told["command"], told["error"]["type"]) == (2, "train", "RequestError")
    assert "must be at least 1" in told["error"]["message"]
    capfd.readouterr()


def test_a_result_that_can_be_written_nowhere_is_a_wrong_request(capfd: pytest.CaptureFixture[str], data: str) -> None:
    assert main(["data", "verify", data, "--result", "gopher://x/y.json"]) == 2
    assert "gopher" in capfd.readouterr().err


def test_what_others_print_on_stdout_goes_to_stderr_where_json_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\natexit.register(os.write, 1, b'noise of a library\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for words, status in ((["experiments"], 0), (["trian"], 2)):
        done = subprocess.run([*REDRESS, *words, "--json"], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == status
        assert json.loads(done.stdout)["status"] == status
        assert "noise of a library" in done.stderr
    done = subprocess.run([*REDRESS, "experiments"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "noise of a library" in done.stdout


ADDRESSED = [
    ["data", "synth"], ["data", "convert", "ltcc"], ["data", "convert", "ltcc", "src"], ["data", "parse"],
    ["data", "parse", "x"], ["data", "parse", "x", "y", "--model"], ["data", "inspect"], ["data", "inspect", "x", "--sheet"],
    ["data", "verify"], ["data", "holdout"], ["data", "holdout", "x"], ["data", "convert", "ltcc", "x", "y", "--parsing"],
    ["evaluate"], ["search"], ["search", "m"], ["search", "m", "g", "--out"], ["search", "m", "g", "--parsing"],
    ["train", "cal-ltcc", "--resume"], ["train", "cal-ltcc", "--run-file"], ["train", "cal-ltcc", "--init-from"],
    ["tune", "--resume"], ["runs", "show"],
    ["runs", "sync"], ["registry", "register"], ["registry", "compare", "m", "--data"],
    ["registry", "compare", "m", "--page"], ["demo"], ["experiments", "--result"],
]  # fmt: skip


@pytest.mark.parametrize("words", ADDRESSED, ids=" ".join)
def test_every_address_is_parsed_before_any_work(
    words: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text, told in (
        ("s3://b//r", "empty part"),
        ("S3://b/r", "lower-case"),
        (" /x", "blanks"),
        ("ftp://x", "ftp://"),
    ):
        rest = ["name"] if words[:2] == ["registry", "register"] else []
        message = answer(capfd, *words, text, *rest)["error"]["message"]
        assert told in message
        assert "Traceback" not in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("key", ["data", "storage", "init_from", "weights"])
def test_every_setting_that_is_an_address_is_parsed_with_the_others(
    key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for text, told in (("s3://b//r", "empty part"), ("s3://joe:pass/word@b/r", "credentials"), ("ftp://x", "ftp://")):
        message = answer(capfd, "experiments", "show", "cal-ltcc", f"{key}={text}", "epochs=0")["error"]["message"]
        assert told in message
        assert "must be at least 1" in message
        assert "word" not in message


def test_a_byte_that_is_not_utf8_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["data", "verify", "x\udcff"], ["train", "cal-ltcc", "name=\udcff"]):
        assert r"\udcff' is not valid UTF-8" in answer(capfd, *words)["error"]["message"]


def test_one_object_comes_even_if_the_result_cannot_be_written(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    for place, told in (
        (tmp_path, "is a folder"),
        ("/", "is a folder"),
        (file / "x.json", "is a file"),
        ("s3://b", "bucket"),
    ):
        assert told in answer(capfd, "experiments", "--result", str(place))["error"]["message"]
    assert os.listdir(tmp_path) == ["file"]
    assert answer(capfd, "experiments", "--result", str(tmp_path / "new/x.json"))["status"] == 0
    assert json.loads((tmp_path / "new/x.json").read_text())["command"] == "experiments"

    def fail(address: str, data: bytes) -> None:
        raise ZeroDivisionError("disk on fire")

    monkeypatch.setattr("orchestration.cli.main.write_result", fail)
    told_after = answer(capfd, "experiments", "--result", str(tmp_path / "y.json"))
    assert told_after["status"] == 1
    assert told_after["result_error"] == {"type": "ZeroDivisionError", "message": "disk on fire"}
    assert "cal-ltcc" in told_after["experiments"]


def test_help_with_json_is_one_object(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [*REDRESS, "train", "--help", "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout) == {"status": 0, "command": "train"}
    assert "usage: redress train" in done.stderr


def test_a_foreign_error_is_one_message_with_what_to_do() -> None:
    full = failure(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x"))
    assert full["status"] == 1
    assert full["error"]["message"] == (
        "No space left on device: /data/x. Free space there, then give the same command again"
    )
    assert "folder for temporary files" in failure(OSError(errno.ENOSPC, "No space"))["error"]["message"]
    database = OperationalError("UPDATE runs", {}, sqlite3.OperationalError("database or disk is full"))
    assert failure(database)["error"]["message"] == ("database or disk is full (its disk is full. Free space there)")
    assert failure(ValueError("at http://joe:pa/ss@host?x=1"))["error"]["message"] == "at http://host"
