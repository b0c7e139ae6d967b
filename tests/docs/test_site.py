"""Pages agree with the tree: links lead somewhere, API pages name modules, versions and make targets are those there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), ROOT / "README.md"]
PAGES += [ROOT / folder / "README.md" for folder in ("datasets", "methods", "benchmarks", "infra")]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def slug(heading: str) -> str:
    """The anchor that forges and myst give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{page.relative_to(ROOT)} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.relative_to(ROOT)} links to {target}"


def test_api_pages_name_modules_that_are_there() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
    named = re.findall(r"^\.\. automodule:: (\S+)$", pages, re.MULTILINE)
    assert len(named) > 40
    for module in named:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


def test_the_version_is_the_projects_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= citation.keys()
    newest = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]
    assert newest == VERSION


def test_make_targets_that_pages_name_exist() -> None:
    rules = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
        named = {*re.findall(r"`make ([a-z-]+)`", text), *re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE)}
        assert named <= rules, f"{page.relative_to(ROOT)}: {named - rules}"


def test_the_ci_script_runs_every_check_in_order() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.findall(r"^make (\S+)", script, re.MULTILINE) == ["setup", "lint", "docs", "test", "test-system"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert [step["run"] for step in workflow["jobs"]["all"]["steps"] if "run" in step][-1] == ".ci/run"


def test_hooks_are_local_and_their_programs_are_locked() -> None:
    [repo] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repo["repo"] == "local"
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for hook in repo["hooks"]:
        program = Path(hook["entry"].split()[0])
        assert program.parent == Path(".venv/bin")
        assert program.name == "python" or re.search(rf"^{program.name}==", locked, re.MULTILINE)


def test_templates_for_issues_are_forms() -> None:
    forms = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
    assert [path.stem for path in forms] == ["bug", "feature", "numbers"]
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys()
        assert all(part["type"] in ("input", "textarea", "checkboxes") for part in form["body"])
