"""Portable numbers: when they are chosen, what a process says that cannot, and the digits of a small training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration import numerics
from orchestration.numerics import PORTABLE, OtherNumericsError, is_portable, use

ROOT = Path(__file__).resolve().parents[2]
# Twelve steps of a small network, with what the losses use: the digits of all parameters. The same under emulated
# processors of two makers, with AVX-512 and without.
TRAIN = """
import hashlib, torch
torch.manual_seed(0)
torch.set_num_threads(1)
body = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
    torch.nn.Conv2d(16, 32, 3, stride=2, padding=1), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
)
head = torch.nn.Linear(32, 10)
parameters = [*body.parameters(), *head.parameters()]
optimizer = torch.optim.Adam(parameters, 1e-3, weight_decay=5e-4, fused=True)
random = torch.Generator().manual_seed(1)
for _ in range(12):
    images, labels = torch.randn(16, 3, 48, 32, generator=random), torch.randint(0, 10, (16,), generator=random)
    features = body(images)
    unit = torch.nn.functional.normalize(features)
    loss = torch.nn.functional.cross_entropy(head(features), labels) + (unit @ unit.T).exp().mean()
    loss = loss + torch.cdist(features, features.detach().roll(1, 0), compute_mode="donot_use_mm_for_euclid_dist").mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest()[:16])
"""
DIGEST = "fecd04b4575dff66"


def test_native_leaves_the_process_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_CBWR")
    use("native")
    assert not is_portable()


def test_portable_is_refused_once_torch_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    use("portable")  # these tests run with it
    monkeypatch.delenv("MKL_CBWR")
    with pytest.raises(OtherNumericsError, match=r"before torch is imported.*MKL_CBWR=COMPATIBLE.*numerics=native"):
        use("portable")


def test_the_variables_are_set_where_torch_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PORTABLE:
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "torch")
    use("portable")
    assert is_portable()


def test_a_processor_without_avx2_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(numerics, "processor_is_able", lambda: False)
    numerics.warn_if_not_able("native", said.append)
    assert said == []
    numerics.warn_if_not_able("portable", said.append)
    assert "no x86 processor with AVX2" in said[0]


def test_a_command_begins_anew_where_torch_was_loaded_too_early(tmp_path: Path) -> None:
    """A stored experiment asks for portable numbers only once torch has read it."""
    code = """
import os, sys
sys.path.insert(0, sys.argv.pop(1))
from orchestration import numerics
import orchestration.cli.main as shell
def main(args, json_descriptor):
    import torch
    numerics.use("portable")
    print("served", os.getpid(), json_descriptor is not None)
    return 0
shell.main = main
sys.argv[1:] = ["--json"]
from orchestration.__main__ import run
sys.exit(run())
"""
    kept = {name: value for name, value in os.environ.items() if name not in PORTABLE}
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), "--json"], env=kept, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("served") == 1, "once, in the same process, with stdout kept for the JSON"


@pytest.mark.skipif(not numerics.processor_is_able(), reason="no x86 processor with AVX2")
def test_a_training_has_these_digits_on_every_processor() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAIN],
        env=os.environ | PORTABLE,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == DIGEST


def test_a_recipe_s_choice_is_made_before_torch_is_imported() -> None:
    code = """
import json, sys
from orchestration import numerics
from orchestration.cli.commands.train import TRAIN, requested_experiment
use, loaded = numerics.use, []
def noted(wanted):
    loaded.append([wanted, "torch" in sys.modules])
    use(wanted)
numerics.use = noted
experiment = requested_experiment(TRAIN.parse(["cal-demo", "data=/nowhere"]))
print(json.dumps([loaded, experiment.numerics, numerics.is_portable()]))
"""
    kept = {name: value for name, value in os.environ.items() if name not in PORTABLE}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert json.loads(done.stdout) == [[["portable", False]], "portable", True], done.stderr
