"""A sweep's backbone weights: fetched once into its storage, for all trials that want the same."""

from __future__ import annotations

from dataclasses import dataclass

from orchestration.config.load import Experiment
from orchestration.config.meta import build_on_meta


@dataclass(frozen=True)
class KeptWeights:
    """The weights at `address`, which are those that `named`, the setting, and `published`, the backbone's, stand for."""

    named: str
    published: str | None
    address: str

    @classmethod
    def of(cls, experiment: Experiment, address: str) -> KeptWeights:
        assert experiment.weights is not None
        return cls(experiment.weights, build_on_meta(experiment).weights_address(), address)

    def are_of(self, experiment: Experiment) -> bool:
        """Whether an experiment, a trial's, wants these weights."""
        return (experiment.weights, build_on_meta(experiment).weights_address()) == (self.named, self.published)
