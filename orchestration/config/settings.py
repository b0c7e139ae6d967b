"""The tree that describes an experiment: every setting, its type, its range, its default.

An `Experiment` is frozen; what runs, is logged and is carried by a checkpoint is `resolved()`. `orchestration.config.load`
makes one from a recipe and overrides.
"""

from __future__ import annotations

import json
import re
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
)

from datasets.images.augment import Augmentation
from datasets.images.cues import CueName
from datasets.sampling.samplers import SAMPLERS
from datasets.storage.address import parse_address
from methods import METHODS
from methods.backbones.bodies import as_stored_now
from methods.clothes_sampling import Parts
from orchestration.engine.schedule import Schedule
from orchestration.engine.strategies.choice import StrategyName
from orchestration.errors import RequestError
from orchestration.numerics import Numerics

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Triple = tuple[float, float, float]


class Settings(BaseModel):
    """A branch of the tree."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class NamedSettings(Settings):
    name: str


def method_settings() -> Any:
    """The union of all methods' settings, discriminated by `name`."""
    choices = []
    for name, method in METHODS.items():
        field: Any = (Literal[name], name)
        choices.append(create_model(method.Settings.__name__, __base__=method.Settings, name=field))
    return Annotated[reduce(or_, choices), Field(discriminator="name")]


if TYPE_CHECKING:
    MethodSettings: TypeAlias = NamedSettings
    SamplerName: TypeAlias = str
else:
    MethodSettings = method_settings()
    SamplerName = Literal[tuple(SAMPLERS)]


def is_selection(select: str) -> str:
    if select != "last" and not re.fullmatch(r"best:(val_)?query\w*/[\w-]+/[\w-]+", select):
        raise ValueError("expected last, or best:SPLIT/METRIC such as best:val_query/clothes-changing/mAP")
    return select


def is_model_name(name: str) -> str:
    if not name or name != name.strip() or re.search(r"[/:?#@\x00-\x1f]", name) or set("'\"") <= set(name):
        raise ValueError(  # it stands in models:/NAME/VERSION and models:/NAME@ALIAS
            "a registered model's name has neither / nor : nor ? nor # nor @, no blanks around it, not both of ' and \", and "
            "is not empty"
        )
    return name


class ClipSettings(Settings):
    """Frames of a clip of video, and how far apart they are taken where the tracklet is long enough."""

    length: int = Field(default=8, ge=1)
    stride: int = Field(default=4, ge=1)


class BatchSettings(Settings):
    """A global batch is people × images, in `lanes` equal blocks of whole persons; a worker takes a block of lanes."""

    people: int = Field(default=8, ge=1)
    images: int = Field(default=8, ge=1)
    clip: ClipSettings | None = None  # samples are clips of tracklets in place of images
    sampler: SamplerName = "distinct"
    appearances: Annotated[int, Field(ge=1)] | None = None  # outfits of each person, of sampler appearance
    window: Annotated[int, Field(ge=1)] | Literal["all"] = "all"  # row groups per lane that batches are drawn from
    lanes: int = Field(default=8, ge=1)
    # Larger batches in the same memory, for a third more time. recompute: blocks compute their activations again in backward,
    # to the same bits. micro_batch: a body without batch norm takes so many images of a worker's share at a time
    recompute: bool = False
    micro_batch: Annotated[int, Field(ge=1)] | None = None


class ClothesSamplingSettings(Settings):
    """`methods.clothes_sampling.ClothesSampling`, which says what each means."""

    parts: Parts = "both"
    probability: Probability = 1.0
    beside: bool = True


class AugmentSettings(Settings):
    """`datasets.images.augment.Augmentation`, which says what each means."""

    height: int = Field(default=384, ge=8)
    width: int = Field(default=192, ge=8)
    flip: Probability = 0.5
    pad: int = Field(default=10, ge=0)
    enlarge: float = Field(default=1.0, ge=1)
    crop_probability: Probability = 1.0
    jitter: tuple[Probability, Probability, Probability, Annotated[float, Field(ge=0, le=0.5)]] = Augmentation.jitter
    erase: Probability = 0.5
    erase_area: Range = (0.02, 0.4)
    erase_aspect: Range = (0.3, 3.3)
    erase_fill: Triple = Augmentation.erase_fill
    mean: Triple = Augmentation.mean
    std: Triple = Augmentation.std
    clothes_sampling: ClothesSamplingSettings | None = None  # {}: also show images in clothes of other people's pixels


class Adam(Settings):
    name: Literal["adam", "adamw"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule | None = None  # none: the same rate in every epoch
    bias_lr_factor: float = Field(default=1.0, gt=0)  # on the rate of biases


class SGD(Settings):
    name: Literal["sgd"]
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Schedule | None = None
    bias_lr_factor: float = Field(default=1.0, gt=0)


OptimizerSettings = Annotated[Adam | SGD, Field(discriminator="name")]


def is_local_folder(folder: str) -> str:
    """`~` stays: it is the home of the user whose worker reads the setting."""
    expected = "expected an absolute folder on the workers' own disks, such as /var/tmp/redress"
    if not folder.startswith(("/", "~", "file://")):
        raise ValueError(expected)
    address = parse_address(f"/{folder}" if folder.startswith("~") else folder)
    return folder if folder.startswith("~") else address.path


class StreamSettings(Settings):
    """Decoding threads and memory of each worker for row groups, and the disk that a node's workers share for those of
    a remote data set that are read again."""

    threads: int = Field(default=2, ge=1)
    cache_bytes: ByteSize = ByteSize(512 << 20)
    disk_cache: Annotated[str, AfterValidator(is_local_folder)] | None = None
    disk_cache_bytes: Annotated[ByteSize, Field(ge=64 << 20)] = ByteSize(64 << 30)
    # Folder through which a node's workers share one index and one plan of the epoch. auto: a folder among the node's
    # temporary files, for data sets of 131,072 images or more. null: each worker holds its own
    index_cache: Literal["auto"] | Annotated[str, AfterValidator(is_local_folder)] | None = "auto"


class CheckpointSettings(Settings):
    every_epochs: int = Field(default=1, ge=1)
    every_batches: Annotated[int, Field(ge=1)] | None = None  # beside those at the ends of epochs
    # The newest so many; with `select: best:…` the best one so far is one of them. None: all
    keep: Annotated[int, Field(ge=1)] | None = 2


class RerankSettings(Settings):
    """k-reciprocal encoding (`methods.reranking`), with the paper's values."""

    k1: int = Field(default=20, ge=1)  # neighbours that may describe an entry
    k2: int = Field(default=6, ge=1)  # nearest entries whose descriptions are averaged; 1: none
    weight: Probability = 0.3  # λ: share of the original distance in the final one


class EvaluateSettings(Settings):
    batch: int = Field(default=128, ge=1)  # images per forward pass
    flip: bool = True  # add the embedding of the mirror image; not of clips, as published
    clip_length: int = Field(default=8, ge=1)  # frames per clip, where tracklets are ranked
    clip_stride: int = Field(default=4, ge=1)  # from one frame of a clip to its next
    # Also score each mode with parts of the test images painted over, as <mode>-<cue>/… (`datasets.images.cues`)
    cues: tuple[CueName, ...] = ()
    rerank: RerankSettings | None = None  # {}: also score each mode re-ranked, as <mode>-reranked/…


class ResourceSettings(Settings):
    """Resources of each worker, and how long training waits for them."""

    cpus: float = Field(default=1.0, gt=0)
    gpu: bool | Literal["auto"] = "auto"  # auto: where the cluster has one for every worker
    # Through which workers talk to each other, as "eth0"; by default gloo and NCCL choose. All machines must have it
    network_interface: str | None = None
    wait_s: float = Field(default=600.0, ge=0)  # for room for the smallest group, before the run gives up
    grow_s: float = Field(default=60.0, ge=0)  # so long there must be room for more workers before training moves there


class WorkerRange(Settings):
    """Elastic: as many workers as fit, of those numbers that divide the batch's lanes."""

    min: int = Field(default=1, ge=1)
    max: int = Field(ge=1)


def kind_of_workers(given: Any) -> str:
    return "range" if isinstance(given, (dict, WorkerRange)) else "number"


# Told apart by what was given: an error names one of both, not both.
Workers = Annotated[
    Annotated[int, Field(ge=1), Tag("number")] | Annotated[WorkerRange, Tag("range")], Discriminator(kind_of_workers)
]


class StrategySettings(Settings):
    """How workers hold a run's state. What is trained is the same; a run may be resumed under another one."""

    # data-parallel: all of it on each; fsdp: weights, gradients and optimizers in parts; zero: optimizers in parts
    name: StrategyName = "data-parallel"
    stage: Literal[1, 2] = 1  # of zero; 2: gradients in parts, too
    offload: Literal["none", "cpu"] = "none"  # cpu: what a worker holds in parts waits in the memory of its CPU


class Experiment(Settings):
    """Everything that decides what a run does. Addresses are absolute once it is loaded."""

    name: str
    method: MethodSettings
    data: str
    optimizers: dict[str, OptimizerSettings]
    epochs: int = Field(default=60, ge=1)
    until: str | None = None  # the name of a stage: the run ends with it, and may be resumed
    batch: BatchSettings = BatchSettings()
    augment: AugmentSettings = AugmentSettings()
    # float32: IEEE 754 everywhere; tf32: a GPU's shorter products; bfloat16: autocast, weights stay float32
    precision: Literal["float32", "tf32", "bfloat16", "float64"] = "float32"
    numerics: Numerics = "native"  # of CPUs; portable: the same on all x86 processors with AVX2, slower
    sync_batch_norm: bool = True
    seed: int = Field(default=1, ge=0)
    strategy: StrategySettings = StrategySettings()
    workers: Workers = 1  # they never change the global batch or a learning rate
    threads: int = Field(default=1, ge=1)  # torch's, of each worker: sums depend on it
    resources: ResourceSettings = ResourceSettings()
    stream: StreamSettings = StreamSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    select: Annotated[str, AfterValidator(is_selection)] = "last"
    select_on_test: bool = False
    # of the backbone: published (the hub's, of ResNets also imagenet), a path or an address, https://…#sha256=DIGEST
    weights: str | None = None
    init_from: str | None = None  # a checkpoint or run whose weights training starts from; RUN@STAGE: behind that stage
    storage: str = "runs"
    experiment: str = "redress"  # MLflow's name for the runs that belong together
    register_as: Annotated[str, AfterValidator(is_model_name)] | None = Field(
        default=None, alias="register"
    )  # under this name, as candidate
    # losses of workers or nodes in a row, without a newer checkpoint, that the run outlives
    max_failures: int = Field(default=3, ge=0)
    # Seconds without progress of any worker, longer than any step, after which the workers are restarted. null: never
    hang_s: Annotated[float, Field(ge=10)] | None = 300.0

    def group_sizes(self) -> tuple[int, ...]:
        """The numbers of workers that may train the run, ascending; one where `workers` is a number."""
        if isinstance(self.workers, int):
            return (self.workers,)
        numbers = range(self.workers.min, self.workers.max + 1)
        return tuple(number for number in numbers if self.batch.lanes % number == 0)

    def resolved(self) -> dict[str, Any]:
        """The whole tree as plain JSON; `from_resolved` gives the same experiment again."""
        tree = self.model_dump(mode="json", by_alias=True)
        tree["method"] = {"name": self.method.name, **tree["method"]}
        return tree

    @classmethod
    def from_resolved(cls, tree: dict[str, Any]) -> Experiment:
        """Raises: RequestError where the tree is damaged or was written by a version with other settings."""
        try:
            return parse(tree | {"method": as_stored_now(tree.get("method", {}))})
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise unreadable(found) from error
        except (AttributeError, TypeError) as error:  # a list where a method's settings belong, or the like
            raise unreadable(str(error)) from error


def unreadable(why: str) -> RequestError:
    return RequestError(
        f"this experiment was stored by another version of redress, or is damaged ({why}). Use that version, restore the file, "
        "or start a new run."
    )


def completed(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored experiment with the defaults of the settings that came after it; as it is where its settings are gone."""
    try:
        return Experiment.from_resolved(stored).resolved()
    except RequestError:
        return stored


def parse(tree: dict[str, Any]) -> Experiment:
    """Types as JSON has them: "8" and true are no numbers. Raises: ValidationError."""
    return Experiment.model_validate_json(json.dumps(tree, default=str), strict=True)
