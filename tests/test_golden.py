"""The golden harness on folders of any content: what is unknown, damaged or missing fails its own cases alone."""

from __future__ import annotations

import ast
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tests import golden
from tests.methods import test_distributed

Index = dict[str, Any]


# Every family is tested or listed


def operations_tested() -> Iterator[tuple[str, str]]:
    """(family, operation) that a test asks `golden.cases` for; operation "" where it takes all of a family."""
    for path in (golden.ROOT / "tests").rglob("test_*.py"):
        if path == Path(__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="golden"), attr="cases" | "parts"),
                    args=[ast.Constant(value=str(family)), *ops],
                ):
                    yield from ((family, ast.literal_eval(op)) for op in ops or [ast.Constant("")])


def unknown_operations() -> dict[str, list[str]]:
    """family/operation that is neither tested nor in `NOT_YET` → its cases, of the folder in use."""
    known = {f"{family}/{op}" if op else family for family, op in operations_tested()} | golden.NOT_YET.keys()
    unknown: dict[str, list[str]] = {}
    for family in golden.families():
        if family not in known:
            for (case,) in (parameter.values for parameter in golden.cases(family)):
                if f"{family}/{case.op}" not in known:
                    unknown.setdefault(f"{family}/{case.op}", []).append(case.id)
    return unknown


def test_every_operation_in_the_folder_is_tested_or_listed() -> None:
    listed = "".join(f"\n  {name}: {reason}" for name, reason in golden.NOT_YET.items())
    print(f"\n{golden.folder()}: {len(golden.families())} families. No code yet:{listed}")
    unknown = unknown_operations()
    assert not unknown, f"neither tested nor in golden.NOT_YET (family/operation: cases): {unknown}"


def test_what_is_listed_is_in_the_default_folder_and_has_no_tests() -> None:
    tested = set(operations_tested())
    for name in golden.NOT_YET:
        family, _, op = name.partition("/")
        assert (golden.DEFAULT / f"{family}.json").is_file(), f"NOT_YET lists {name}, which is not in {golden.DEFAULT}"
        index = json.loads((golden.DEFAULT / f"{family}.json").read_text())
        assert not op or op in {case["op"] for case in index["cases"]}, f"NOT_YET lists {name}, which no case is of"
        mine = {pair for pair in tested if pair[0] == family and (not op or pair[1] in (op, ""))}
        assert not mine, f"NOT_YET lists {name}, which has tests"


# Reading a folder


def entry(name: str, expected: Index, **changes: Any) -> Index:
    tolerance = {"rtol": 1e-8, "atol": 1e-10}
    return {
        "id": name,
        "op": "double",
        "params": {"factor": 2.0},
        "inputs": {"x": {"array": "a.x", "shape": [3], "dtype": "float32"}},
        "expected": expected,
        "tol_float64": tolerance,
        "tol_float32": tolerance | {"rtol": 2e-4},
    } | changes


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one family, "doubles", of two cases."""
    monkeypatch.setenv("REDRESS_GOLDEN", str(tmp_path))
    write(tmp_path, [entry("a", {"y": [2.0, 4.0, 6.0]}), entry("b", {"y": 1.0, "note": "text"})])
    return tmp_path


def write(place: Path, cases: list[Any], family: str = "doubles") -> None:
    arrays: dict[str, Any] = {"a.x": np.array([1, 2, 3], np.float32)}
    np.savez(place / f"{family}.npz", **arrays)
    (place / f"{family}.json").write_text(json.dumps({"family": family, "arrays": f"{family}.npz", "cases": cases}))
    golden._load.cache_clear()


def only_case(place: Path, expected: Index, **changes: Any) -> golden.Case:
    write(place, [entry("c", expected, **changes)], "single")
    (case,) = golden.load("single")
    return case


def test_another_folder_may_lack_a_family_and_the_default_one_may_not(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert golden.cases("cal_loss") == []
    assert golden.find("schedules", "sps_schedule") is None
    with pytest.raises(golden.GoldenError, match=r"no golden family 'cal_loss' in .*: it has doubles"):
        golden.load("cal_loss")
    monkeypatch.setattr(golden, "DEFAULT", place)
    (missing,) = golden.cases("cal_loss")
    assert "no golden family 'cal_loss'" in missing.values[0].problem


def test_a_family_may_have_no_cases(place: Path) -> None:
    write(place, [], "empty")
    assert golden.cases("empty") == []
    assert golden.families() == ["doubles", "empty"]


def test_without_a_folder_each_family_is_one_failing_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDRESS_GOLDEN", str(tmp_path / "nowhere"))
    (missing,) = golden.cases("cal_loss", "any")
    assert "no golden vectors at" in missing.values[0].problem


def damage_index(place: Path) -> str:
    (place / "doubles.json").write_text("{")
    return "doubles.json"


def index_without_cases(place: Path) -> str:
    (place / "doubles.json").write_text("[]")
    return "doubles.json"


def damage_arrays(place: Path) -> str:
    path = place / "doubles.npz"
    path.write_bytes(path.read_bytes()[:-40])
    return "doubles.npz"


def remove_arrays(place: Path) -> str:
    (place / "doubles.npz").unlink()
    return "doubles.npz"


@pytest.mark.parametrize("damage", [damage_index, index_without_cases, damage_arrays, remove_arrays])
def test_damaged_files_are_one_failing_case_that_names_the_file(place: Path, damage: Callable[[Path], str]) -> None:
    name = damage(place)
    (parameter,) = golden.cases("doubles", "double")
    assert re_names(parameter.values[0].problem, place / name)
    with pytest.raises(pytest.fail.Exception, match=name), golden.judging(parameter.values[0]):
        raise AssertionError("the test of a case that cannot be read is not run")


def re_names(problem: str, path: Path) -> bool:
    return str(path) in problem and problem.startswith("golden ")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"inputs": {"x": {"array": "a.gone"}}}, r"doubles/c: inputs.x: no array 'a.gone'"),
        (
            {"inputs": {"x": {"array": "a.x", "shape": [4], "dtype": "float32"}}},
            r"is float32 \[3\].* says float32 \[4\]",
        ),
        ({"inputs": {"x": {"array": "a.x", "shape": [3], "dtype": "int64"}}}, r"the index says int64 \[3\]"),
        ({"params": None}, "doubles/c .*damaged"),
        ({"tol_float32": None}, "doubles/c .*damaged"),
    ],
)
def test_a_damaged_case_fails_alone(place: Path, changes: Index, problem: str) -> None:
    write(place, [entry("a", {"y": 1.0}), entry("c", {"y": 1.0}, **changes), "text"])
    whole, damaged, text = golden.load("doubles")
    assert (whole.problem, whole.id, damaged.id, text.id) == ("", "a", "c", "case-2")
    with pytest.raises(pytest.fail.Exception, match=problem), golden.judging(damaged):
        pass
    assert "case-2" in text.problem


def test_names_that_a_case_lacks_are_said_with_those_it_has(place: Path) -> None:
    case = only_case(place, {"y": {"deep": 1.0}})
    for get in (
        lambda: case.params["margin"],
        lambda: case.inputs(torch.float64)["z"],
        lambda: case.check("z", 1.0),
        lambda: case.expected["y"]["shallow"],
    ):
        with pytest.raises(golden.GoldenError, match=r"single/c: \w+(\.y)? has no '\w+', only (factor|x|y|deep)$"):
            get()


def test_unknown_kinds_and_parameters_name_family_case_and_kind(place: Path) -> None:
    case = only_case(place, {}, op="triple", params={"factor": 2.0, "reduction": "sum"})
    with pytest.raises(golden.GoldenError, match=r"single/c .*unknown kind 'triple', known are double"):
        case.choose({"double": lambda x: x})
    with pytest.raises(golden.GoldenError, match=r"single/c .*unknown parameter reduction"):
        case.bind(lambda x, factor: x * factor)
    with pytest.raises(KeyError) as raised, golden.judging(case):
        raise KeyError("anything")
    assert "single/c (op triple, params {'factor': 2.0" in raised.value.__notes__[0]


# What is expected


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "Infinity", "-inf", "-Infinity"])
def test_texts_of_numbers_are_numbers_at_any_depth(place: Path, text: str) -> None:
    case = only_case(place, {"y": text, "list": [[1.0, text]], "part": {"mAP": text}}, params={"margin": text})
    assert [case.expected["y"], case.expected["part"]["mAP"], case.params["margin"]] == pytest.approx(
        [float(text)] * 3, nan_ok=True
    )
    case.check("list", torch.tensor([[1.0, float(text)]]))
    case.check("y", float(text))
    for other in (torch.tensor([[1.0, 2.0]]), torch.tensor([[float(text), 1.0]])):
        with pytest.raises(AssertionError, match="single/c"):
            case.check("list", other)


def test_a_finite_value_instead_of_nan_needs_notes_that_allow_it(place: Path) -> None:
    with pytest.raises(AssertionError, match=r"single/c .*the reference gives nan for y, ours gives 1\.0; no notes"):
        only_case(place, {"y": "nan"}).check("y", 1.0)
    case = only_case(place, {"y": "nan"}, notes="must stay finite")
    with pytest.warns(golden.GoldenWarning, match="must stay finite"):
        case.check("y", 1.0)
    with pytest.raises(AssertionError):
        case.check("y", math.inf)
    with pytest.raises(AssertionError, match=r"y has shape \(3, 4\), not \(\)"):
        case.check("y", torch.ones(3, 4))


def test_null_is_not_compared(place: Path) -> None:
    only_case(place, {"y": None}).check("y", 7.0)


def raise_in_our_code() -> None:
    """An error of the standard library whose traceback passes through datasets/."""
    from datasets.sampling.clips import test_clips

    test_clips(0, 8, 4)  # ValueError


def test_an_error_passes_where_the_reference_raises_it_too(place: Path) -> None:
    case = only_case(place, {"y": "raises ValueError", "reference": "raises TypeError"})
    assert case.expected["y"] == golden.Raises("ValueError")
    with (
        pytest.warns(golden.GoldenWarning, match="single/c.*ValueError where the reference raises, too"),
        golden.judging(case),
    ):
        raise_in_our_code()
    with pytest.raises(ValueError, match="0 frames"), golden.judging(case, of_a_part=True):
        raise_in_our_code()  # another part of the case raises
    with pytest.raises(ValueError, match="of the test itself"), golden.judging(case):
        raise ValueError("of the test itself")
    case.check("grad", None)  # the reference got no further
    with pytest.raises(golden.GoldenError, match="no 'mistyped'"):
        case.check("mistyped", 1.0)


@pytest.mark.parametrize("expected", [{"y": "raises IndexError"}, {"y": 1.0, "reference": "raises ValueError"}, {}])
def test_any_other_error_fails_its_case(place: Path, expected: Index) -> None:
    with pytest.raises(ValueError, match="0 frames"), golden.judging(only_case(place, expected)):
        raise_in_our_code()


def test_our_own_errors_stand_for_the_references(place: Path) -> None:
    from datasets.errors import DataError

    case = only_case(place, {"y": "raises AssertionError"})
    assert case.allows(DataError("none"), ours=True)
    assert not case.allows(RuntimeError("none"), ours=True)
    assert not only_case_named(place, "other", {"y": 1.0}).allows(DataError("none"), ours=True)


def only_case_named(place: Path, family: str, expected: Index) -> golden.Case:
    write(place, [entry("c", expected)], family)
    (case,) = golden.load(family)
    return case


def test_returning_where_the_reference_raises_needs_notes_and_a_finite_value(place: Path) -> None:
    strict = only_case(place, {"y": "raises IndexError"})
    with pytest.raises(AssertionError, match=r"the reference raises IndexError for y, ours gives .*; no notes"):
        strict.check("y", torch.tensor(0.0))
    free = only_case(place, {"y": "raises IndexError"}, notes="expected convention here: loss 0")
    with pytest.warns(golden.GoldenWarning, match="convention here: loss 0"):
        free.check("y", torch.tensor(0.0))
    with pytest.raises(AssertionError):
        free.check("y", torch.tensor(math.nan))


def test_integers_and_flags_are_compared_exactly(place: Path) -> None:
    case = only_case(place, {"ids": [1, 2], "full": True})
    case.check("ids", torch.tensor([1, 2]))
    case.check("full", torch.tensor(True))
    with pytest.raises(AssertionError):
        case.check("ids", torch.tensor([1, 3]))


# The tests of methods and data on a folder of other cases


def change(place: Path, family: str, edit: Callable[[list[Index]], None]) -> None:
    path = place / f"{family}.json"
    index = json.loads(path.read_text())
    edit(index["cases"])
    path.write_text(json.dumps(index))


def add(place: Path, family: str, like: str, name: str, **changes: Any) -> None:
    """A case like another one, but for `changes`."""

    def append(cases: list[Index]) -> None:
        (original,) = (case for case in cases if case["id"] == like)
        cases.append(original | {"id": name, "notes": ""} | changes)

    change(place, family, append)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Id of a golden test, as in test_name[case-…] → (passed, failed, error or skipped; the message)."""
    place = tmp_path_factory.mktemp("golden")
    for path in golden.DEFAULT.iterdir():
        shutil.copyfile(path, place / path.name)
    endless, infinite = {"margin": "Infinity"}, {"loss": "inf", "grad": None}
    missing = {"array": "gone", "shape": [1], "dtype": "float32"}
    add(place, "pair_losses_cosine", "tri_cos_03", "new_op", op="pairwise_other")
    add(place, "pair_losses_cosine", "tri_cos_03", "new_param", params={"margin": 0.3, "power": 2})
    add(place, "pair_losses_cosine", "tri_cos_03", "no_array", inputs={"features": missing})
    add(place, "pair_losses_cosine", "tri_cos_03", "raises", expected={"loss": "raises IndexError"})
    add(place, "pair_losses_cosine", "tri_cos_03", "nan", expected={"loss": "NaN"})
    add(place, "pair_losses_cosine", "tri_cos_03", "no_margin", params=endless, expected=infinite)
    add(place, "video_clips", "clips_5_8_4", "none", inputs={"num_frames": 0}, expected={"clips": "raises ValueError"})
    change(place, "samplers", lambda cases: cases[0]["expected"].update(weighted={"full_batches": 1}))
    change(place, "evaluation", lambda cases: cases[0]["expected"].update(CC="raises AssertionError", indoor={}))
    (place / "classification_losses.npz").write_bytes(b"PK")
    (place / "schedules.json").unlink()

    report = place / "report.xml"
    files = ["methods/losses/test_pair_losses.py", "methods/losses/test_classification_losses.py"]
    files += ["methods/test_ranking.py", "orchestration/engine/test_schedule.py"]
    files += ["datasets/sampling/test_clips.py", "datasets/sampling/test_samplers.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-k", "golden", f"--junitxml={report}", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *(f"tests/{file}" for file in files)],
        cwd=golden.ROOT,
        env=os.environ | {"REDRESS_GOLDEN": str(place)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert report.exists(), done.stdout + done.stderr
    found = {}
    for test in ElementTree.parse(report).iter("testcase"):
        trouble = next((child for child in test if child.tag in ("failure", "error", "skipped")), None)
        message = "" if trouble is None else f"{trouble.get('message')}\n{trouble.text}"
        found[test.attrib["name"]] = ("passed" if trouble is None else trouble.tag, message)
    return found


FAIL = {  # the beginning of a test's parameters → what the failure says
    "new_op-": "pair_losses_cosine/new_op (op pairwise_other, params {'margin': 0.3}): unknown kind 'pairwise_other'",
    "new_param-": "pair_losses_cosine/new_param (op triplet_cosine_hard",
    "no_array-": "pair_losses_cosine/no_array: inputs.features: no array 'gone'",
    "raises-": "the reference raises IndexError for loss, ours gives 0.8745",
    "nan-": "the reference gives nan for loss, ours gives 0.8745",
    "smp_even-weighted": "samplers/smp_even (op identity_sampler, params {'num_instances': 4, 'batch_size': 16}): unknown",
    "ev_a-indoor-": "evaluation/ev_a (op cmc_map, params {'ranks': [1, 5, 10, 20]}): unknown kind 'indoor'",
    "ev_a-CC-": "DID NOT RAISE",
    "unreadable-": "classification_losses.npz are damaged",
}


@pytest.mark.parametrize("case", FAIL)
def test_what_is_unknown_or_damaged_fails_in_its_own_case(outcomes: dict[str, tuple[str, str]], case: str) -> None:
    found = [outcome for name, outcome in outcomes.items() if name.partition("[")[2].startswith(case)]
    assert len(found) == (1 if case == "smp_even-weighted" else 2)  # one, or one a dtype
    for result, message in found:
        assert result == "failure"
        assert FAIL[case] in message


def test_everything_else_of_that_folder_passes(outcomes: dict[str, tuple[str, str]]) -> None:
    others = {n: result for n, (result, _) in outcomes.items() if not n.partition("[")[2].startswith(tuple(FAIL))}
    assert {n: r for n, r in others.items() if r not in ("passed",)} == {"test_golden_schedules[NOTSET]": "skipped"}
    assert "test_golden_clips_and_pieces[none]" in others
    assert "test_golden_pair_loss_on_cosines[no_margin-torch.float64]" in others
    assert len(others) > 80


def test_an_unknown_pair_kind_leaves_the_other_cases_of_its_workers_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"features": [[1.0, 0.0], [0.0, 1.0]], "targets": [0, 1]}
    kinds = {"known": "contrastive scale 16", "unknown": "lifted margin 1", "unreadable": "contrastive"}
    cases = [entry(n, {}, params={"world_size": 1, "kind": k}, inputs=inputs) for n, k in kinds.items()]
    write(place, [*cases, entry("crowd", {}, params={"world_size": 4096, "kind": "contrastive scale 16"})], "pairs")
    found = {case.id: case for case in golden.load("pairs")}
    monkeypatch.setattr(test_distributed, "PAIR_CASES", found)
    results = test_distributed.pair_losses()  # as in one worker
    assert results.keys() == kinds.keys()
    assert not isinstance(results["known"], Exception)
    assert "pairs/unknown (op double, params {'world_size': 1, 'kind': 'lifted margin 1'}): unknown kind" in str(
        results["unknown"]
    )
    assert isinstance(results["unreadable"], Exception)
    for name in ("unknown", "crowd"):
        with pytest.raises((golden.GoldenError, AssertionError), match=f"pairs/{name}"):
            test_distributed.test_golden_distributed_pair_loss(found[name], torch.float64, {1: [results]})


def test_a_new_family_or_operation_is_one_failure_of_this_file(place: Path) -> None:
    write(place, [entry("x", {}), entry("y", {})], "gait")
    write(place, [entry("t", {}, op="triplet_euclid_hard"), entry("m", {}, op="margin_mined")], "sps_losses")
    assert unknown_operations() == {
        "doubles/double": ["a", "b"],
        "gait/double": ["x", "y"],
        "sps_losses/margin_mined": ["m"],
    }
    with pytest.raises(AssertionError, match=r"neither tested nor in golden\.NOT_YET .*gait/double"):
        test_every_operation_in_the_folder_is_tested_or_listed()
