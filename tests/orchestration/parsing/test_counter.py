"""The count of finished images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from orchestration.parsing.counter import Counter

ROOT = Path(__file__).resolve().parents[3]
IMPORTED = "import json, sys, orchestration.parsing.counter; print(json.dumps(sorted(sys.modules)))"


def test_images_are_counted_by_kind() -> None:
    counter = Counter()
    counter.add("parsed", 3)
    counter.add("kept", 2)
    counter.add("parsed", 4)
    assert counter.value() == {"parsed": 7, "kept": 2}


def test_its_process_imports_neither_torch_nor_numpy() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "pyarrow", "PIL"} & set(json.loads(done.stdout))
