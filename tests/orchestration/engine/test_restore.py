"""Training that starts from another run's weights: classifiers stay with their people. All of a run restored: test_loop.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datasets.shards.dataset import Dataset
from orchestration.config import build
from orchestration.config.load import Experiment, load
from orchestration.config.meta import per_class_tensors
from orchestration.engine import checkpoint
from orchestration.engine.restore import load_initial_state
from orchestration.errors import RequestError
from tests.orchestration.checkpoints import checkpoint_of
from tests.tiny import tiny_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", persons=16, clothes=2, images=4)


def experiment(data: str, name: str = "cal-demo", *overrides: str) -> Experiment:
    settings = ["batch.people=8", "batch.images=4", "batch.lanes=4", "epochs=4", "seed=3", "method.width=0.125"]
    settings += ["method.adversarial_from_epoch=1"] if name == "cal-demo" else []
    return load(name, [f"data={data}", *settings, *overrides])


def test_other_people_start_from_the_weights_of_a_run_with_classifiers_of_their_own(data: str, tmp_path: Path) -> None:
    wanted = experiment(data, "baseline-demo")
    found = checkpoint.find(checkpoint_of(wanted, str(tmp_path / "run"), seed=9))
    others = Dataset.open(tiny_dataset(tmp_path / "others", persons=9))
    facts = build.describe_data(others, others.index("train"))
    method = build.build_method(experiment(data), facts)  # CAL, from a baseline
    new = method.state_dict()["classifier.weight"].clone()
    anew = load_initial_state(method, found, per_class_tensors(experiment(data)), others.fingerprint)
    assert anew == ["classifier.bias", "classifier.weight", "clothes_classifier.weight"]
    assert torch.equal(method.state_dict()["classifier.weight"], new)
    trained = checkpoint.load_tensors(found, "model.safetensors")
    assert all(torch.equal(trained[n], t) for n, t in method.state_dict().items() if n.startswith("encoder."))


def test_another_backbone_cannot_start_from_a_run(data: str, tmp_path: Path) -> None:
    found = checkpoint.find(checkpoint_of(experiment(data, "baseline-demo"), str(tmp_path), seed=9))
    dataset = Dataset.open(data)
    facts = build.describe_data(dataset, dataset.index("train"))
    method = build.build_method(experiment(data, "baseline-demo", "method.width=0.25"), facts)
    with pytest.raises(RequestError, match=r"encoder.*expected.*same backbone"):
        load_initial_state(method, found, (), dataset.fingerprint)


def test_classifiers_are_taken_over_from_the_same_data_alone_even_where_shapes_fit(data: str, tmp_path: Path) -> None:
    wanted = experiment(data, "cal-demo", "method.proxies=memory", "optimizers.clothes_classifier=null")
    found = checkpoint.find(checkpoint_of(wanted, str(tmp_path / "run"), seed=9))
    trained = checkpoint.load_tensors(found, "model.safetensors")
    per_class = {"classifier.bias", "classifier.weight", "memory", "seen"}
    assert per_class_tensors(wanted) == per_class
    others = Dataset.open(tiny_dataset(tmp_path / "others", persons=16, clothes=2, images=4, seed=5))
    for dataset, kept in ((Dataset.open(data), set[str]()), (others, per_class)):
        assert dataset.fingerprint == found.facts["fingerprint"] or kept
        method = build.build_method(wanted, build.describe_data(dataset, dataset.index("train")))
        before = {name: value.clone() for name, value in method.state_dict().items()}
        assert set(load_initial_state(method, found, per_class, dataset.fingerprint)) == kept
        for name, value in method.state_dict().items():
            assert torch.equal(value, before[name] if name in kept else trained[name]), name
    older = replace(found, facts={key: value for key, value in found.facts.items() if key != "fingerprint"})
    assert set(load_initial_state(method, older, per_class, others.fingerprint)) == per_class
