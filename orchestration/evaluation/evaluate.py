"""Evaluation of a checkpoint by its data set's protocol: embed, rank, store each query's result, render pictures."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from datasets.images.cues import CueName
from datasets.protocols import protocols
from datasets.protocols.protocols import PROTOCOLS, Mode, Protocol, check
from datasets.shards.dataset import DataError, Dataset, SplitIndex
from datasets.storage.store import Store, StoreError, open_store
from methods import METHODS
from orchestration import cluster, figures, numerics
from orchestration.config import build
from orchestration.config.diagnostics import either
from orchestration.config.load import Experiment
from orchestration.config.meta import outline
from orchestration.config.settings import EvaluateSettings
from orchestration.config.stored import experiment_of, facts_of
from orchestration.engine import checkpoint
from orchestration.engine.checkpoint import Checkpoint
from orchestration.errors import RequestError
from orchestration.evaluation import cue_study, distances, explain, tsne
from orchestration.evaluation.cue_study import asked_cues, check_cues, scored_splits
from orchestration.evaluation.distances import Distances
from orchestration.evaluation.embed import CueRenderer, Descriptors, EmbeddingJob, GroupReader, embed, load_features
from orchestration.evaluation.modes import RERANKED, Evaluation, names_of, query_table, rank_modes
from orchestration.measures import MEASURES

__all__ = ["Evaluation", "check_method", "evaluate", "metric_names", "open_for_evaluation"]

CACHE_KEY = "embedding.json"

log = logging.getLogger(__name__)


def open_for_evaluation(data: str, *, validation: bool = False) -> tuple[Dataset, Protocol]:
    """The data set and its protocol. Raises: RequestError where the data cannot be evaluated by it."""
    try:
        dataset = Dataset.open(data)
        protocol = PROTOCOLS[dataset.manifest.protocol]
        protocol = protocol.validation() if validation else protocol
        check(protocol, dataset)
    except (DataError, StoreError) as error:
        raise RequestError(str(error)) from error
    return dataset, protocol


def check_fits(model: Checkpoint, dataset: Dataset, protocol: Protocol) -> None:
    """Check that the model can be evaluated on the data. Raises: RequestError."""
    trained = experiment_of(model)
    check_method(trained.method.name, protocol, dataset.address)
    check_inputs(trained, facts_of(model)["label_map"], dataset, protocol)


def check_method(name: str, protocol: Protocol, data: str) -> None:
    """Check that a protocol of tracklets has a method that takes clips. Raises: RequestError."""
    able = [other for other, method in METHODS.items() if method.takes_clips]
    if protocol.sample == "tracklet" and name not in able:
        raise RequestError(
            f"{data}: protocol {protocol.name!r} ranks tracklets by their clips, and method {name!r} takes single images. "
            f"Choose a data set of images, or a model of {either(able)}."
        )


def check_inputs(experiment: Experiment, label_map: str | None, dataset: Dataset, protocol: Protocol) -> None:
    """Check that a method that needs parsing masks finds them in every evaluated split, by the label map of its training.

    Raises: RequestError.
    """
    if "parsing" not in outline(experiment).inputs:
        return
    splits = scored_splits(protocol)
    if bare := [split for split in splits if not dataset.index(split).has_parsing]:
        raise RequestError(
            f"data {dataset.address}: method {experiment.method.name!r} needs a parsing mask for each image at test time, too, "
            f"and images in {', '.join(bare)} have none. Convert with --parsing MASKS --labels …, or create masks with "
            "`redress data parse`."
        )
    if dataset.manifest.label_map != label_map:
        raise RequestError(
            f"data {dataset.address}: its masks have label map {dataset.manifest.label_map!r}, and the model was trained "
            f"with {label_map!r}. Evaluate on a data set of the same label map."
        )


def metric_names(dataset: Dataset, protocol: Protocol, *, reranked: bool = False) -> dict[str, str]:
    """The metrics of an evaluation, each with the split of its queries. Ranks beyond the gallery's size are omitted."""
    names: dict[str, str] = {}
    for mode in protocol.modes:
        drawn = protocols.galleries(protocol, mode, dataset.index(mode.gallery), dataset.manifest)
        smallest = min(map(len, drawn))
        measures = [measure for measure, one in MEASURES.items() if one.min_gallery <= smallest]
        for name in (mode.name, f"{mode.name}{RERANKED}") if reranked else (mode.name,):
            names |= {f"{name}/{measure}": mode.query for measure in measures}
    return names


def cache_key(model: Checkpoint, dataset: Dataset, protocol: Protocol, settings: EvaluateSettings) -> dict[str, Any]:
    """Everything that descriptors depend on, as plain JSON. Those of a cue have the same key and a folder of their own."""
    frames = clip(protocol, settings)
    how = {"clip": list(frames)} if frames else {"flip": settings.flip}
    return {"model": model.digests, "data": dataset.fingerprint, **how}


def clip(protocol: Protocol, settings: EvaluateSettings) -> tuple[int, int] | None:
    """Frames and stride of the clips that tracklets are embedded by; None where images are ranked."""
    return (settings.clip_length, settings.clip_stride) if protocol.sample == "tracklet" else None


def evaluate(
    model: str,
    experiment: Experiment,
    destination: str,
    *,
    validation: bool = False,
    details: bool = True,
    progress: Callable[..., None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluate the checkpoint (or a run's newest) at `model` on `experiment.data`; features and results go to `destination`.

    `<destination>/features/<split>/…parquet` holds descriptors by row of the index (a tracklet's by its middle frame),
    `<destination>/features/<cue>/<split>/…` those of a cue, `<destination>/queries.parquet` each query's average precision
    and the position of its first match, by mode. Descriptors of an earlier evaluation are reused if their cache key
    (`<destination>/embedding.json`) has this model and these data.
    details: also distances of pairs, and pictures. An evaluation for its ranking alone needs neither.
    progress: called with the number of embedded images and of all; during re-ranking, with entries. say:
    reports that Ray starts.
    Raises: RequestError before work starts where data, protocol or checkpoint are not usable.
    """
    cluster.check_address()
    dataset, protocol = open_for_evaluation(experiment.data, validation=validation)
    found = checkpoint.find(model)
    check_fits(found, dataset, protocol)
    check_cues(experiment.evaluate, dataset, protocol)
    store = open_store(destination)
    settings = experiment.evaluate
    splits, asked = scored_splits(protocol), asked_cues(settings)
    job = embedding_job(found, experiment, protocol, store, asked)
    invalidate_stale_cache(store, cache_key(found, dataset, protocol, settings))
    embed(job, splits, workers=experiment.group_sizes(), resources=experiment.resources, progress=progress, say=say)
    store.clean_temp("features")  # a worker may have been killed while it wrote
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    result, whole = Evaluation(), load_splits(store, protocol, indexes)
    for cue in (None, *asked):
        descriptors = whole if cue is None else load_splits(store, protocol, indexes, cue)
        how = settings.rerank
        result.add(
            rank_modes(protocol, indexes, descriptors, dataset.manifest, reranking=how, cue=cue, progress=progress)
        )
    if progress and settings.rerank:  # end with the number of images, as the embedding began
        progress(*[(1 + len(asked)) * sum(map(len, indexes.values()))] * 2)
    store.write("queries.parquet", query_table(protocol, indexes, result.rankings, asked))
    if details:
        pairs = distances.distances_of(protocol, indexes, whole)
        result.metrics.update(pairs.metrics())
        render(result, found, dataset, protocol, indexes, whole, asked)
        result.pictures.update(render_features(protocol, indexes, whole, pairs))
        for name, data in result.pictures.items():
            store.write(name, data)
    return result


def embedding_job(
    model: Checkpoint, experiment: Experiment, protocol: Protocol, store: Store, asked: tuple[CueName, ...] = ()
) -> EmbeddingJob:
    """The job that embeds `experiment.data` into an evaluation's folder: whole images, and the cues `asked` for.

    Raises: OtherNumericsError where this process cannot embed by the experiment's numerics.
    """
    numerics.use(experiment.numerics)
    return EmbeddingJob(
        model=model.address,
        data=experiment.data,
        destination=store.join("features"),
        batch=experiment.evaluate.batch,
        flip=experiment.evaluate.flip,
        clip=clip(protocol, experiment.evaluate),
        threads=experiment.threads,
        cues=asked,
    )


def load_splits(
    store: Store, protocol: Protocol, indexes: dict[str, SplitIndex], cue: CueName | None = None
) -> dict[str, Descriptors]:
    return {
        split: load_features(store.sub("features"), split, protocols.samples(protocol, index), cue)
        for split, index in indexes.items()
    }


def render(
    result: Evaluation,
    found: Checkpoint,
    dataset: Dataset,
    protocol: Protocol,
    indexes: dict[str, SplitIndex],
    whole: dict[str, Descriptors],
    asked: tuple[CueName, ...],
) -> None:
    """Add the pictures to the result."""
    augmentation = build.build_augmentation(experiment_of(found))
    result.pictures["cmc.png"] = figures.cmc_curves({m: r.cmc for m, r in result.rankings.items()})
    for mode in protocol.modes:
        for name, cue in names_of(mode, asked).items():
            if name in result.lists:
                picture = render_ranked_lists(
                    dataset, mode, indexes, name, result, CueRenderer(dataset, augmentation, cue)
                )
                result.pictures[f"ranked-lists-{name}.png"] = picture
    result.pictures.update(explain.render_triples(found, dataset, protocol, indexes, whole))
    if asked:
        result.pictures[cue_study.PICTURE] = cue_study.render_sheet(
            dataset, list(indexes.values()), asked, augmentation
        )


def render_features(
    protocol: Protocol, indexes: dict[str, SplitIndex], whole: dict[str, Descriptors], pairs: Distances
) -> dict[str, bytes]:
    """{file name: PNG} of the distances of pairs, and of some persons' descriptors in the plane where they can be drawn."""
    pictures = {distances.PICTURE: distances.draw(pairs)}
    plane = tsne.plane_of(protocol, indexes, whole)
    if isinstance(plane, str):
        log.warning("no picture %s: %s", tsne.PICTURE, plane)
        return pictures
    return pictures | {tsne.PICTURE: tsne.draw(plane)}


def invalidate_stale_cache(store: Store, key: dict[str, Any]) -> None:
    """Delete the descriptors in `store` unless they have the cache key `key`, and write the key beside them."""
    text = json.dumps(key, indent=1, sort_keys=True).encode()
    if not store.exists(CACHE_KEY) or store.read(CACHE_KEY) != text:
        store.delete_tree("features")
        store.write(CACHE_KEY, text)


def render_ranked_lists(
    dataset: Dataset, mode: Mode, indexes: dict[str, SplitIndex], name: str, result: Evaluation, renderer: CueRenderer
) -> bytes:
    """PNG of a mode's ranked lists, with the images as the model saw them; a tracklet by its middle frame."""
    query, gallery = indexes[mode.query], indexes[mode.gallery]
    read = {split: GroupReader(dataset, indexes[split], renderer.columns) for split in (mode.query, mode.gallery)}

    def shown(index: SplitIndex, row: int, caption: str, right: bool | None) -> figures.Shown:
        [encoded] = read[index.split](np.array([row]))
        image, _ = renderer(encoded)
        return figures.Shown(image[0].permute(1, 2, 0).numpy(), caption, right)

    rows = []
    for one in result.lists[name]:
        person = query.person_names[query.person[one.query]]
        row = [shown(query, one.query, f"person {person}\nAP {100 * one.average_precision:.0f} %", None)]
        for at, value, right in zip(one.gallery.tolist(), one.shown_value, one.is_match, strict=True):
            row.append(shown(gallery, at, f"{value:.2f}", bool(right)))
        rows.append(row)
    num_valid = result.rankings[name].num_valid
    return figures.ranked_lists(
        f"{name}: {len(rows)} of {num_valid} queries, from the worst to the best average precision", rows
    )
