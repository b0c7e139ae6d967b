"""A method of two stages in small: it learns a vector for each person from a survey, then the baseline near those vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Parameter

from methods import METHODS
from methods.baseline import Baseline, BaselineSettings
from methods.distributed import gather_uneven
from methods.method import Batch, DataFacts, Method, Stage, Survey, Update
from methods.separation import Separation, separation

WORDS = ("optimizers.anchors={name: adam, lr: 0.05}",)  # beside those of a baseline's experiment
FIRST = 2  # epochs of the first stage
SAMPLES = 12


class TwoStages(Baseline):
    """Stage "anchors" reads a table of features by `Batch.rows`; stage "identity" trains the encoder."""

    def __init__(self, settings: BaselineSettings, facts: DataFacts) -> None:
        super().__init__(settings, facts)
        self.anchors = Parameter(torch.zeros(facts.num_persons, self.encoder.dim))
        self.table = torch.empty(0)
        self.begins: list[str] = []
        self.ends: list[str] = []
        self.noise = torch.empty(0)

    def stages(self) -> tuple[Stage, ...]:
        first = Stage("anchors", 0, ("anchors",), samples=SAMPLES, changes_embedding=False)
        return (first, Stage("identity", FIRST, ("model",)))

    def parameters_of(self) -> dict[str, list[tuple[str, Parameter]]]:
        owned = super().parameters_of()["model"]
        return {
            "anchors": [(name, p) for name, p in owned if name == "anchors"],
            "model": [(name, p) for name, p in owned if name != "anchors"],
        }

    def begin_stage(self, stage: Stage, survey: Survey) -> None:
        self.begins.append(stage.name)
        self.noise = torch.randn(3)
        if stage.name != "anchors":
            return  # reads no byte
        shares = [(batch.rows, self.encoder(batch.images)) for batch in survey]
        rows = torch.cat([torch.empty(0, dtype=torch.int64), *(rows for rows, _ in shares)])
        features = torch.cat([self.anchors[:0], *(features for _, features in shares)])
        assert torch.equal(gather_uneven(rows), torch.arange(len(gather_uneven(rows))))
        self.table = gather_uneven(features)

    def end_stage(self, stage: Stage, survey: Survey) -> Mapping[str, Separation]:
        self.ends.append(stage.name)
        self.noise = torch.randn(3)
        if stage.name != "anchors":
            return {}
        shares = [(batch.person, self.encoder(batch.images)) for batch in survey]
        person = torch.cat([torch.empty(0, dtype=torch.int64), *(person for person, _ in shares)])
        features = torch.cat([self.anchors[:0], *(features for _, features in shares)])
        found = separation("anchors with images", features, person, self.anchors)
        return {} if found is None else {"anchors": found}

    def updates(self, batch: Batch) -> Iterator[Update]:
        if self.stage.name == "anchors":
            yield Update("anchors", (self.anchors[batch.person] - self.table[batch.rows]).square().mean())
            return
        [update] = super().updates(batch)
        features: Tensor = self.encoder(batch.images)
        pull = (features - self.anchors.detach()[batch.person]).square().mean()
        yield replace(update, loss=update.loss + 0.1 * pull)


@contextmanager
def as_baseline(method: type[Method] = TwoStages) -> Iterator[None]:
    """Within this context, experiments on the baseline are on the method of two stages."""
    before = METHODS["baseline"]
    METHODS["baseline"] = method
    try:
        yield
    finally:
        METHODS["baseline"] = before
