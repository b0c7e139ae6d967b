"""Evaluation of a checkpoint by its data set's protocol: embed, rank, keep each query's result, draw pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from datasets import protocols
from datasets.decode import decode_image
from datasets.protocols import PROTOCOLS, Mode, Protocol, check
from datasets.shards import DataError, Dataset, SplitIndex
from datasets.store import Store, StoreError, open_store
from methods.ranking import Labels, Ranking, judge, rank
from orchestration import checkpoint, cluster, explain, pictures
from orchestration.combinations import sketch
from orchestration.embed import EmbeddingJob, embed, load_features
from orchestration.errors import RequestError
from orchestration.experiment import Experiment

REPORTED_RANKS = (1, 5, 10, 20)
CMC_RANKS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
EMBEDDING = "embedding.json"
SHOWN_QUERIES = 8
SHOWN_RANKS = 10


@dataclass(frozen=True)
class Evaluation:
    """`metrics` are fractions by the protocol's names; `pictures` are PNG bytes by file name."""

    metrics: dict[str, float]
    rankings: dict[str, Ranking]
    pictures: dict[str, bytes] = field(default_factory=dict)


def open_for_evaluation(data: str, *, validation: bool = False) -> tuple[Dataset, Protocol]:
    """The data set and the protocol by which it is scored. RequestError where it cannot be scored as asked."""
    try:
        dataset = Dataset.open(data)
        protocol = PROTOCOLS[dataset.manifest.protocol]
        protocol = protocol.validation() if validation else protocol
        check(protocol, dataset)
        if protocol.sample != "image":
            raise RequestError(
                f"{data}: protocol {protocol.name!r} ranks tracklets, and evaluation here ranks images. Evaluate on a "
                "data set of images."
            )
    except (DataError, StoreError) as error:
        raise RequestError(str(error)) from error
    return dataset, protocol


def check_inputs(experiment: Experiment, label_map: str | None, dataset: Dataset, protocol: Protocol) -> None:
    """A method whose descriptors need parsing maps finds them in every split that is scored, by the label map it knows.

    Raises: RequestError.
    """
    if "parsing" not in sketch(experiment).inputs:
        return
    splits = sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})
    if bare := [split for split in splits if not dataset.index(split).has_parsing]:
        raise RequestError(
            f"data {dataset.address}: method {experiment.method.name!r} needs each image's parsing mask at test time, too, "
            f"and there are images without one in {', '.join(bare)}. Convert with --parsing MASKS --labels …, or make masks "
            "with `redress data parse`."
        )
    if dataset.manifest.label_map != label_map:
        raise RequestError(
            f"data {dataset.address}: its masks are by label map {dataset.manifest.label_map!r}, and the model was trained "
            f"on {label_map!r}. Evaluate on a data set of the same label map."
        )


def metric_names(dataset: Dataset, protocol: Protocol) -> dict[str, str]:
    """What an evaluation will give: each metric's name, and the split of its queries. Ranks beyond the gallery are none."""
    names: dict[str, str] = {}
    for mode in protocol.modes:
        num_gallery = len(protocols.rows(mode, dataset.index(mode.gallery)))
        ranks = [f"rank-{k}" for k in REPORTED_RANKS if k <= num_gallery]
        names |= {f"{mode.name}/{measure}": mode.query for measure in (*ranks, "mAP", "mINP")}
    return names


def evaluate(
    model: str,
    experiment: Experiment,
    destination: str,
    *,
    validation: bool = False,
    draw_pictures: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score the checkpoint (or a run's newest) at `model` on `experiment.data` and leave features and results in `destination`.

    `<destination>/features/<split>/…parquet` holds descriptors by row of the index, `<destination>/queries.parquet` each
    query's average precision and the position of its first match, by mode. Descriptors that an earlier evaluation left
    there are taken up where `<destination>/embedding.json` says that they are of this model and these data.
    Raises: RequestError before work starts where data, protocol or checkpoint are not usable.
    """
    dataset, protocol = open_for_evaluation(experiment.data, validation=validation)
    found = checkpoint.find(model)
    check_inputs(Experiment.from_resolved(found.experiment), found.facts["label_map"], dataset, protocol)
    cluster.connect()
    store = open_store(destination)
    keep_only(store, {"model": found.digests, "data": dataset.fingerprint, "flip": experiment.evaluate.flip})
    splits = sorted({split for mode in protocol.modes for split in (mode.query, mode.gallery)})
    job = EmbeddingJob(
        model=found.address,
        data=experiment.data,
        destination=store.join("features"),
        batch=experiment.evaluate.batch,
        flip=experiment.evaluate.flip,
        threads=experiment.threads,
        gpu=cluster.use_gpu(experiment),
    )
    embed(job, splits, actors=experiment.workers, cpus=experiment.resources.cpus, progress=progress)
    indexes = dict(zip(splits, dataset.indexes(*splits), strict=True))
    features = {split: load_features(store.sub("features"), split, len(index)) for split, index in indexes.items()}
    result = rank_modes(protocol, indexes, features)
    write_queries(store, protocol, indexes, result.rankings)
    if draw_pictures:
        result.pictures["cmc.png"] = pictures.cmc_curves({m: r.cmc for m, r in result.rankings.items()})
        for mode in protocol.modes:
            name = f"ranked-lists-{mode.name}.png"
            result.pictures[name] = draw_ranked_lists(dataset, protocol, mode, indexes, features, result)
        result.pictures.update(explain.draw_triples(found, dataset, protocol, indexes, features))
        for name, data in result.pictures.items():
            store.write(name, data)
    return result


def keep_only(store: Store, embedding: dict[str, Any]) -> None:
    """Take away descriptors that come of anything but `embedding` (plain JSON), and leave its description there."""
    text = json.dumps(embedding, indent=1, sort_keys=True).encode()
    if not store.exists(EMBEDDING) or store.read(EMBEDDING) != text:
        store.delete_tree("features")
        store.write(EMBEDDING, text)


def rank_modes(protocol: Protocol, indexes: dict[str, SplitIndex], features: dict[str, Tensor]) -> Evaluation:
    """Every metric that the protocol lists, from L2-normalised features float32 [N, D] in the order of each index."""
    metrics: dict[str, float] = {}
    rankings: dict[str, Ranking] = {}
    for mode in protocol.modes:
        query_rows = protocols.rows(mode, indexes[mode.query])
        gallery_rows = protocols.rows(mode, indexes[mode.gallery])
        ranking = rank(
            features[mode.query][query_rows],
            features[mode.gallery][gallery_rows],
            labels(indexes[mode.query], protocol, query_rows),
            labels(indexes[mode.gallery], protocol, gallery_rows),
            mode.rule,
            ranks=CMC_RANKS,
        )
        rankings[mode.name] = ranking
        for k in REPORTED_RANKS:
            if (value := ranking.cmc[k]) is not None:
                metrics[f"{mode.name}/rank-{k}"] = value
        metrics[f"{mode.name}/mAP"] = ranking.mAP
        metrics[f"{mode.name}/mINP"] = ranking.mINP
    return Evaluation(metrics, rankings)


def labels(index: SplitIndex, protocol: Protocol, rows: np.ndarray) -> Labels:
    """What the rules compare, of some rows."""
    read = protocols.labels(protocol, index).take(rows)
    return Labels(read.person, read.camera, read.clothes)


def write_queries(
    store: Store, protocol: Protocol, indexes: dict[str, SplitIndex], rankings: dict[str, Ranking]
) -> None:
    """One row per mode and query: key, average precision (null where the query is not valid), first match from 1."""
    tables = []
    for mode in protocol.modes:
        ranking, keys = rankings[mode.name], indexes[mode.query].keys()
        rows = protocols.rows(mode, indexes[mode.query]).tolist()
        tables.append(
            pa.table(
                {
                    "mode": [mode.name] * len(rows),
                    "query": [keys[row] for row in rows],
                    "average_precision": pa.array(ranking.per_query_ap, from_pandas=True),
                    "first_match": ranking.first_match,
                }
            )
        )
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), buffer)
    store.write("queries.parquet", buffer.getvalue())


def draw_ranked_lists(
    dataset: Dataset,
    protocol: Protocol,
    mode: Mode,
    indexes: dict[str, SplitIndex],
    features: dict[str, Tensor],
    result: Evaluation,
) -> bytes:
    """Queries spread evenly from the worst to the best average precision, each with its nearest valid gallery images."""
    query_index, gallery_index = indexes[mode.query], indexes[mode.gallery]
    query_rows, gallery_rows = protocols.rows(mode, query_index), protocols.rows(mode, gallery_index)
    ap = result.rankings[mode.name].per_query_ap
    valid = np.flatnonzero(~np.isnan(ap))
    by_ap = valid[np.argsort(ap[valid], kind="stable")]
    chosen = by_ap[np.linspace(0, len(by_ap) - 1, min(SHOWN_QUERIES, len(by_ap))).round().astype(int)]
    counted, matches = judge(
        labels(query_index, protocol, query_rows[chosen]), labels(gallery_index, protocol, gallery_rows), mode.rule
    )
    similarity = (features[mode.query][query_rows[chosen]] @ features[mode.gallery][gallery_rows].T).numpy()
    similarity[~counted] = -np.inf
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :SHOWN_RANKS]
    images = ImageReader(dataset)
    lists = []
    for i, query in enumerate(chosen.tolist()):
        row = int(query_rows[query])
        person = query_index.person_names[query_index.person[row]]
        shown = [pictures.Shown(images.read(query_index, row), f"person {person}\nAP {100 * ap[query]:.0f} %", None)]
        for place in nearest[i][counted[i, nearest[i]]].tolist():
            image = images.read(gallery_index, int(gallery_rows[place]))
            shown.append(pictures.Shown(image, f"{similarity[i, place]:.2f}", bool(matches[i, place])))
        lists.append(shown)
    title = f"{mode.name}: {len(lists)} of {len(valid)} queries, from the worst to the best average precision"
    return pictures.ranked_lists(title, lists)


class ImageReader:
    """Single images of a data set for pictures; keeps the row group it read last of each split."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.last: dict[str, tuple[int, pa.Table]] = {}

    def read(self, index: SplitIndex, row: int) -> np.ndarray:
        """uint8 [h, w, 3]."""
        group = int(index.group[row])
        if self.last.get(index.split, (-1, None))[0] != group:
            self.last[index.split] = group, self.dataset.read_group(index.split, group, ("image",))
        data = self.last[index.split][1]["image"][int(index.row_in_group[row])].as_py()
        return decode_image(data).permute(1, 2, 0).numpy()
