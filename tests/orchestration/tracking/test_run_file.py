"""A file names a run: empty until there is one, then whatever can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.errors import RequestError
from orchestration.tracking import run_file


def test_a_file_names_no_run_until_one_is_written(tmp_path: Path) -> None:
    file = str(tmp_path / "job" / "7.run")
    assert run_file.read(file) is None
    assert Path(file).read_bytes() == b"", "whether it can be written is known before there is a run"
    assert run_file.read(file) is None
    run_file.write(file, str(tmp_path / "runs" / "a"))
    assert run_file.read(file) == str(tmp_path / "runs" / "a")
    run_file.write(file, "0123456789abcdef0123456789abcdef")
    assert run_file.read(file) == "0123456789abcdef0123456789abcdef"


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "7.run"
    file.write_text("ftp://elsewhere/run\n")
    with pytest.raises(RequestError, match=r"7\.run holds no run .*delete this one to begin a new run"):
        run_file.read(str(file))
    assert file.read_text() == "ftp://elsewhere/run\n"


@pytest.mark.parametrize("address", ["/", "s3://bucket"])
def test_a_folder_or_bucket_is_no_file(address: str) -> None:
    with pytest.raises(RequestError, match="expected the address of a file"):
        run_file.read(address)


def test_a_place_that_cannot_be_written_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"--run-file .* cannot be used"):
        run_file.read(str(tmp_path / "file" / "7.run"))
    with pytest.raises(RequestError, match=r"--run-file .* cannot be used"):
        run_file.read(str(tmp_path))
