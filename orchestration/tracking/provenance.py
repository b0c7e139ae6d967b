"""The code of a run: a digest of the source tree, and the commit where it is known."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("datasets", "methods", "orchestration")
SOURCES = (".py", ".yaml", ".cpp", ".cu")


def source_digest(root: Path = ROOT) -> str:
    """SHA-256 (hex) over names and contents of the source files; equal in a checkout and in a job's working directory."""
    digest = hashlib.sha256()
    files = [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in SOURCES]
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def commit(root: Path = ROOT) -> str | None:
    """REDRESS_COMMIT if it is set (a job's working directory has no git), else git's, with `-dirty` for changed files."""
    if given := os.environ.get("REDRESS_COMMIT"):
        return given
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
        status = ["git", "status", "--porcelain", "--untracked-files=no", "--", *FOLDERS]
        changed = subprocess.run(status, cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")
