"""The site of `make docs`: the READMEs as they stand in their folders, the pages of docs/, the docstrings.

The source folder is the repository, so that a link from one page to another works on the forge and on the site.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "redress"
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
copyright = "the redress authors; Apache-2.0"  # Sphinx reads this name

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "*/README.md", "docs/**.md"]
exclude_patterns = [".venv", "build", "demo", "runs", "tests", "**/__pycache__"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # shell examples hold … where the reader fills something in

html_theme = "furo"
html_title = f"redress {release}"
html_extra_path = ["index.html"]  # sends a visitor of the site's root to docs/index.html
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Heavy, and their part in signatures is none: the site is built without them in half the time.
autodoc_mock_imports = ["ray", "mlflow", "optuna", "boto3", "botocore", "onnxruntime", "onnx", "matplotlib"]
autodoc_default_options = {"members": True, "exclude-members": "model_config, forward"}
default_role = "code"  # `name` in a docstring is code


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", prose_to_markup)


def prose_to_markup(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Our docstrings are plain text, `code` and lists of - or * items. Outside of code, what reStructuredText would read as
    markup is escaped, and it wants blank lines around a list."""
    shown: list[str] = []
    in_list = False
    for line in lines:
        is_item = line.startswith(("- ", "* "))
        stays = is_item or (in_list and line.startswith(" "))
        if stays != in_list and shown and shown[-1]:
            shown.append("")
        in_list = stays
        bullet, line = (line[:2], line[2:]) if is_item else ("", line)
        parts = re.split(r"(`[^`]*`)", line)
        shown.append(
            bullet + "".join(part if part.startswith("`") else re.sub(r"([*|_])", r"\\\1", part) for part in parts)
        )
    lines[:] = shown
