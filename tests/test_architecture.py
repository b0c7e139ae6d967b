"""The lines that hold the house up: who may import whom, who may name a method, whose `datasets` is imported."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
OURS = ("datasets", "methods", "orchestration", "tests", "benchmarks", "infra")
MAY_IMPORT = {"datasets": set(), "methods": set(), "orchestration": {"datasets", "methods"}}
# The rooms of a package, the lowest floor first. A room imports from lower floors alone, and from itself.
FLOORS = {
    "datasets": (
        "errors ordered_map images",
        "format sources storage",
        "protocols sampling",
        "layouts shards streaming",
        "conversion inspection parsing synthetic",
    ),
    "orchestration": (
        "addresses errors progress figures measures signals",
        "engine export lost_cluster numerics",
        "config",
        "cluster tracking",
        "parsing registry workers",
        "clip evaluation",
        "review search training sweeps",
        "tuning",
        "cli",
    ),
}
# Beside the standard library.
LIBRARIES = {
    "datasets": {"torch", "torchvision", "numpy", "pyarrow", "PIL"},
    "methods": {"torch", "torchvision", "numpy", "pydantic"},
    "orchestration/engine/arithmetic.py": {"torch"},
    "orchestration/engine/loop.py": {"torch"},
    "orchestration/engine/step_backup.py": {"torch"},
    "orchestration/engine/strategies/choice.py": {"torch"},
    "orchestration/engine/strategies/data_parallel.py": {"torch"},
    "orchestration/engine/strategies/single_process.py": {"torch"},
    "orchestration/engine/strategies/strategy.py": {"torch"},
    "orchestration/engine/survey.py": {"torch"},
}


def imports(path: Path) -> Iterator[str]:
    """Top-level packages that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import of {node.module}"
            yield str(node.module).partition(".")[0]


def sources(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_downwards_only(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package}
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name in OURS and name not in allowed
    }
    assert not wrong


def modules_imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, lazy and type-only imports too: `from a import b` may mean the module a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """`datasets.storage.store` → storage; a module on the top of its package is a room of its own."""
    return module.split(".")[1]


def arrows(package: str) -> dict[tuple[str, str], list[str]]:
    """(importing room, imported room) → the imports that make the arrow, as "file imports module"."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sources(package):
        relative = path.relative_to(ROOT)
        importer = room_of(".".join(relative.with_suffix("").parts))
        for module in modules_imported(path):
            if module.partition(".")[0] == package and room_of(module) != importer:
                found.setdefault((importer, room_of(module)), []).append(f"{relative} imports {module}")
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_every_import_points_to_a_lower_floor(package: str) -> None:
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS[package], 1) for room in rooms.split()}
    found = {pair: where for pair, where in arrows(package).items() if pair[0] not in ("__main__", "__init__")}
    print(f"\n{package}: {len(floor_of)} rooms, {len(FLOORS[package])} floors, {len(found)} arrows")
    for floor, rooms in reversed(list(enumerate(FLOORS[package], 1))):
        print(f"  {floor}  {rooms}")
    unknown = {room for pair in found for room in pair} - floor_of.keys()
    assert not unknown, f"{unknown}: give each room its floor in FLOORS"
    wrong = [line for (room, below), where in found.items() if floor_of[room] <= floor_of[below] for line in where]
    assert not wrong


@pytest.mark.parametrize("package", FLOORS)
def test_the_folders_are_the_rooms(package: str) -> None:
    there = {path.stem for path in (ROOT / package).glob("*.py")} | {
        path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()
    }
    named = {room for rooms in FLOORS[package] for room in rooms.split()}
    assert there - {"__init__", "__main__"} == named


def test_every_room_opens_with_one_sentence_on_what_lives_there() -> None:
    for package in (*MAY_IMPORT, "benchmarks"):
        for path in (ROOT / package).rglob("__init__.py"):
            opening = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
            assert opening.endswith("."), f"{path.relative_to(ROOT)} opens with {opening!r}"


@pytest.mark.parametrize("place", LIBRARIES)
def test_what_a_bare_gpu_box_runs_imports_no_more_than_that_has(place: str) -> None:
    allowed = LIBRARIES[place] | set(OURS) | set(sys.stdlib_module_names)
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(place)
        for name in imports(path)
        if name not in allowed
    }
    assert not wrong


def modules_behind(module: str) -> set[str]:
    """Our modules that importing `module` needs at its top level, itself included."""
    found: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        path = path if path.exists() else ROOT / name.replace(".", "/") / "__init__.py"
        if name in found or not path.exists():
            continue
        found.add(name)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in MAY_IMPORT:
                todo += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_the_loop_needs_nothing_else_of_orchestration() -> None:
    behind = {name for name in modules_behind("orchestration.engine.loop") if name.startswith("orchestration.")}
    own = ("loop", "arithmetic", "pace", "step_backup", "strategies.strategy", "survey")
    assert behind == {f"orchestration.engine.{name}" for name in own}


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """Names, attributes and strings of a file with their lines; docstrings and comments are prose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, f"{node.module} {' '.join(alias.name for alias in node.names)}"


def test_no_file_of_orchestration_names_a_method() -> None:
    names = {name for method, cls in METHODS.items() for name in (method, method.replace("-", "_"), cls.__name__)}
    pattern = re.compile(rf"(?<![a-z0-9])({'|'.join(map(re.escape, sorted(names)))})(?![a-z0-9])", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{line}: {word!r}"
        for path in sources("orchestration")
        for line, word in words_of(path)
        if pattern.search(word)
    ]
    assert not found


# Types

NOT_TYPED = 31  # files of tests that mypy passes over


def test_the_list_of_tests_that_mypy_passes_over_only_shrinks() -> None:
    """It stands in pyproject.toml. A file that is clean, moved or gone leaves it, and `NOT_TYPED` falls with it."""
    overrides = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["overrides"]
    exempt = [name for override in overrides if override.get("ignore_errors") for name in override["module"]]
    print(f"\n{len(exempt)} of {len(sources('tests'))} files of tests are not type-checked")
    assert not [name for name in exempt if not (ROOT / f"{name.replace('.', '/')}.py").is_file()], "these are gone"
    assert all(name.startswith("tests.") for name in exempt)
    assert len(exempt) == len(set(exempt)) <= NOT_TYPED


# Tests that mirror

BRANCHES = 8  # a module with so many has a test file of its name
# Such a module without one → the test file that covers it, which imports it or says through what. Only to be shortened.
COVERED_BY = {
    "datasets/layouts/ccvid.py": "datasets/layouts/test_layouts.py: through LAYOUTS",
    "datasets/layouts/deepchange.py": "datasets/layouts/test_layouts.py: through LAYOUTS",
    "datasets/layouts/last.py": "datasets/layouts/test_layouts.py: through LAYOUTS",
    "datasets/layouts/ltcc.py": "datasets/layouts/test_layouts.py: through LAYOUTS",
    "datasets/layouts/market1501.py": "datasets/layouts/test_layouts.py: through LAYOUTS",
    "datasets/layouts/msmt17.py": "datasets/layouts/test_layouts.py: through LAYOUTS",
    "datasets/layouts/prcc.py": "datasets/layouts/test_layouts.py: through LAYOUTS",
    "datasets/sources/source.py": "datasets/sources/test_folder.py",
    "datasets/synthetic/captions.py": "datasets/synthetic/test_dataset.py: through dataset",
    "datasets/synthetic/fabric.py": "datasets/synthetic/test_dataset.py: through render",
    "datasets/synthetic/figure.py": "datasets/synthetic/test_dataset.py",
    "datasets/synthetic/head.py": "datasets/synthetic/test_dataset.py: through figure",
    "datasets/synthetic/jobs.py": "datasets/synthetic/test_dataset.py",
    "datasets/synthetic/limbs.py": "datasets/synthetic/test_dataset.py: through figure",
    "datasets/synthetic/optics.py": "datasets/synthetic/test_dataset.py: through render",
    "datasets/synthetic/outfits.py": "datasets/synthetic/test_dataset.py",
    "datasets/synthetic/presets.py": "datasets/synthetic/test_dataset.py",
    "datasets/synthetic/raster.py": "datasets/synthetic/test_dataset.py",
    "datasets/synthetic/render.py": "datasets/synthetic/test_dataset.py: through work",
    "datasets/synthetic/scenes.py": "datasets/synthetic/test_dataset.py: through render",
    "datasets/synthetic/trunk.py": "datasets/synthetic/test_dataset.py: through figure",
    "methods/sharded/classifiers.py": "methods/sharded/test_share.py",
    "orchestration/config/settings.py": "orchestration/config/test_load.py",
    "orchestration/engine/strategies/single_process.py": "orchestration/engine/strategies/test_data_parallel.py",
    "orchestration/sweeps/plots.py": "system/test_sweep_page.py: through report",
    "orchestration/sweeps/report.py": "system/test_sweep_page.py",
    "orchestration/sweeps/settings.py": "orchestration/sweeps/test_presets.py",
    "orchestration/tuning/ray_tune.py": "orchestration/tuning/test_trial.py",
    "orchestration/tuning/sweep_runs.py": "orchestration/tuning/test_tune.py",
}


def branches(path: Path) -> int:
    """Places where a file decides or repeats: if, for, while, except, `and`/`or`, comprehensions, cases of a match."""
    count = 0
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.If() | ast.IfExp() | ast.For() | ast.AsyncFor() | ast.While() | ast.ExceptHandler():
                count += 1
            case ast.BoolOp():
                count += len(node.values) - 1
            case ast.comprehension():
                count += 1 + len(node.ifs)
            case ast.Match():
                count += len(node.cases)
    return count


def branching_modules() -> dict[str, Path]:
    """Module, as its path from the root → the place of its mirroring test."""
    return {
        str(path.relative_to(ROOT)): ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")
        for package in MAY_IMPORT
        for path in sources(package)
        if branches(path) >= BRANCHES
    }


def test_a_module_with_branches_has_a_test_of_its_name_or_is_listed() -> None:
    modules = branching_modules()
    mirrored = {module for module, test in modules.items() if test.exists()}
    every = sum(len(sources(package)) for package in MAY_IMPORT)
    print(f"\n{every} modules, {len(modules)} with {BRANCHES} branches or more: {len(mirrored)} mirrored, ", end="")
    print(f"{len(COVERED_BY)} listed")
    wanting = [f"{module} ({modules[module]})" for module in modules.keys() - mirrored - COVERED_BY.keys()]
    assert not wanting, "write the test named in brackets"
    assert not mirrored & COVERED_BY.keys(), "these have tests of their own now: take them off COVERED_BY"
    assert not COVERED_BY.keys() - modules.keys(), "these are gone or have fewer branches: take them off COVERED_BY"


def test_a_listed_module_is_imported_by_the_test_that_covers_it_or_says_through_what() -> None:
    for module, cover in COVERED_BY.items():
        name, _, through = cover.partition(": ")
        test = ROOT / "tests" / name
        assert test.is_file(), f"COVERED_BY names {name} for {module}: there is none"
        dotted = module.removesuffix(".py").replace("/", ".")
        direct = any(f"{imported}.".startswith(f"{dotted}.") for imported in modules_imported(test))
        assert direct != bool(through), (
            f"{module}: {name} imports it: {direct}; listed as covered: {through or 'directly'}"
        )


def test_branches_are_counted_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "sample.py"
    path.write_text(
        """
def f(xs, y):
    for x in xs:
        while x and y and not xs:
            x = 1 if y else 2
    try:
        ok = [a for a in xs for b in a if a if b]
    except OSError:
        ok = []
    match y:
        case 1 | 2:
            if ok:
                return ok
"""
    )
    assert branches(path) == 12


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder on the path with another package `datasets`, as a well-known library's."""
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("raise ImportError('this is the library')")
    return tmp_path


def run(command: list[str], path: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Every command imports our `datasets.errors` before it does anything."""
    return subprocess.run(
        command, cwd=cwd, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )


def test_with_a_library_of_that_name_redress_sees_our_datasets_from_anywhere(library: Path) -> None:
    launcher = Path(sys.executable).with_name("redress")
    for cwd in (ROOT, library):
        done = run([str(launcher), "experiments"], str(library), cwd)
        assert done.returncode == 0, done.stderr


def test_with_a_library_of_that_name_python_m_orchestration_sees_our_datasets(library: Path) -> None:
    for cwd, path in (
        (ROOT, str(library)),
        (library, f"{ROOT}{os.pathsep}{library}"),
        (library, f"{library}{os.pathsep}{ROOT}"),
    ):
        done = run([sys.executable, "-m", "orchestration", "experiments"], path, cwd)
        assert done.returncode == 0, done.stderr


def test_a_process_without_our_root_first_sees_the_library(library: Path) -> None:
    done = run([sys.executable, "-c", "import datasets"], str(library), library)
    assert "this is the library" in done.stderr
