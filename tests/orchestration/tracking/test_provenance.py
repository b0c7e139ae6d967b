"""The digest of the source tree that every run logs: exactly the code, the recipes and the studies, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.tracking.provenance import FOLDERS, ROOT, commit, source_digest

PACKAGES = ["datasets", "methods", "orchestration"]
ENDINGS = (".py", ".yaml", ".cpp", ".cu")


def sources_of(root: Path) -> list[str]:
    """Paths of the source files below `root`, in the order of their path components."""
    found = []
    for package in PACKAGES:
        for folder, _, names in os.walk(root / package):
            found += [os.path.relpath(os.path.join(folder, name), root) for name in names if name.endswith(ENDINGS)]
    return sorted(found, key=lambda path: path.split("/"))


def digest_of(root: Path) -> str:
    """Each file counts as path, NUL, number of bytes, NUL, bytes."""
    stream = b""
    for path in sources_of(root):
        content = (root / path).read_bytes()
        stream += path.encode() + b"\0" + str(len(content)).encode() + b"\0" + content
    return hashlib.sha256(stream).hexdigest()


def test_the_root_is_the_repository_and_its_three_packages_are_read() -> None:
    assert (ROOT / "pyproject.toml").is_file()
    assert Path(__file__).is_relative_to(ROOT)
    assert sorted(FOLDERS) == PACKAGES


def test_the_digest_of_the_repository_is_that_of_all_its_sources() -> None:
    sources = sources_of(ROOT)
    assert {
        "datasets/format/schema.py",
        "methods/cal.py",
        "orchestration/engine/loop.py",
        "orchestration/tracking/provenance.py",
        "orchestration/experiments/cal-ltcc.yaml",
        "orchestration/experiments/sweeps/cal.yaml",
    } <= set(sources)
    assert len(sources) > 200
    assert source_digest() == digest_of(ROOT)


def test_a_job_s_working_directory_has_the_digest_of_the_checkout(tmp_path: Path) -> None:
    """A copy without git, tests and compiled files, read by its own code."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from orchestration.tracking.provenance import ROOT, source_digest; print(ROOT, source_digest())"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(tmp_path.resolve()), source_digest()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in (
        "datasets/a.py",
        "datasets/b/c.py",
        "methods/m.py",
        "methods/k.cpp",
        "orchestration/experiments/r.yaml",
    ):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# {path}\n")
    return tmp_path


def write(path: str, text: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)

    return change


def move_a_line(root: Path) -> None:
    """From the end of one file to the start of the next: all bytes stay in their order."""
    first, second = root / "datasets/a.py", root / "datasets/b/c.py"
    second.write_text(first.read_text() + second.read_text())
    first.write_text("")


@pytest.mark.parametrize(
    "change",
    [
        write("methods/m.py", "# methods/m.py \n"),
        write("methods/k.cpp", "int main;"),
        write("orchestration/experiments/r.yaml", "seed: 2"),
        write("orchestration/experiments/sweeps/s.yaml", "points: 3"),
        write("methods/new.py", ""),
        write("methods/kernels/new.cu", "__global__"),
        lambda root: (root / "datasets/a.py").unlink(),
        lambda root: (root / "datasets/a.py").rename(root / "datasets/z.py"),
        lambda root: (root / "datasets/a.py").rename(root / "methods/a.py"),
        move_a_line,
    ],
)
def test_the_digest_changes_with_every_name_and_content(tree: Path, change: Callable[[Path], object]) -> None:
    before = source_digest(tree)
    assert before == digest_of(tree)
    change(tree)
    assert source_digest(tree) == digest_of(tree) != before


@pytest.mark.parametrize(
    "path",
    [
        "tests/methods/test_m.py",
        "benchmarks/loop.py",
        "setup.py",
        "README.md",
        "pyproject.toml",
        "methods/README.md",
        "methods/__pycache__/m.cpython-313.pyc",
        "methods/m.pyi",
        "orchestration/experiments/demo.txt",
        "orchestration/review/page.html",
    ],
)
def test_the_digest_ignores_tests_texts_and_compiled_files(tree: Path, path: str) -> None:
    before = source_digest(tree)
    write(path, "anything")(tree)
    assert source_digest(tree) == before


def git(root: Path, *words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *settings, *words], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_is_git_s_and_says_whether_sources_differ(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDRESS_COMMIT", raising=False)
    assert commit(tree) is None
    git(tree, "init", "-q")
    assert commit(tree) is None, "no commit yet"
    write("README.md", "text")(tree)
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "first")
    head = git(tree, "rev-parse", "HEAD")
    assert commit(tree) == head
    write("README.md", "another text")(tree)
    assert commit(tree) == head, "no source differs"
    write("methods/m.py", "changed = True")(tree)
    assert commit(tree) == f"{head}-dirty"
    monkeypatch.setenv("REDRESS_COMMIT", "abc")
    assert commit(tree) == "abc"


def test_without_git_there_is_no_commit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDRESS_COMMIT", raising=False)
    (tree / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tree))
    assert commit(tree) is None
