"""Answers as people read them: tables on stdout, percent instead of fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestration.measures import MEASURES

Answer = dict[str, Any]
QUARANTINED_SHOWN = 10


def console() -> Console:
    """stdout, as wide as it needs to be where it is no terminal."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=200)


def facts(pairs: Mapping[str, Any]) -> None:
    """One fact a line; what is not there is left out."""
    there = {name: str(value) for name, value in pairs.items() if value not in (None, "", [], {})}
    width = max(map(len, there), default=0)
    for name, value in there.items():
        print(f"{name:{width}}  " + value.replace("\n", "\n" + " " * (width + 2)))


def rows(title: str, columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    table = Table(*columns, title=title or None, title_justify="left")
    for line in lines:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in line))
    console().print(table)


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def metrics_table(title: str, metrics: Mapping[str, float]) -> None:
    """Modes down, measures across, in percent."""
    modes = list(dict.fromkeys(name.rpartition("/")[0] for name in metrics))
    columns = [measure for measure, one in MEASURES.items() if one.in_tables]
    shown = [measure for measure in columns if any(f"{mode}/{measure}" in metrics for mode in modes)]
    lines = [[mode, *(percent(metrics.get(f"{mode}/{measure}")) for measure in shown)] for mode in modes]
    rows(f"{title}, %", ["mode", *shown], lines)


def train(answer: Answer) -> None:
    metrics_table("evaluation", answer["metrics"])
    pictures = "\n".join(answer["pictures"])
    facts({"run": answer["run_id"], "storage": answer["run"], "model": answer["model"], "pictures": pictures})


def tune(answer: Answer) -> None:
    from orchestration.sweeps.space import format_value, short_names

    points, best = answer["points"], answer["best"]
    names = short_names(points[0]["values"])
    lines = [
        [
            *(format_value(value) for value in point["values"].values()),
            percent(point["score"]) + ("" if point["spread"] is None else f" ± {percent(point['spread'])}"),
            len(point["seeds"]),
            point["epochs"],
            point["state"],
            "; ".join(dict.fromkeys(point["failures"].values())),
        ]
        for point in points
    ]
    columns = [*names.values(), f"{answer['objective']}, %", "seeds", "epochs", "state", "failure"]
    rows("validation, the best first", columns if any(line[-1] for line in lines) else columns[:-1],
         lines if any(line[-1] for line in lines) else [line[:-1] for line in lines])  # fmt: skip
    facts(
        {
            "sweep": answer["sweep"],
            "best": ", ".join(f"{key} = {format_value(value)}" for key, value in best["values"].items()),
            "its run": best["run_id"],
            "model": answer["model"],
            "in MLflow": "\n".join([*(f"pictures/{name}" for name in answer["pictures"]), *answer["pages"]]),
        }
    )


def evaluate(answer: Answer) -> None:
    metrics_table(f"{answer['model']} on {answer['data']}", answer["metrics"])
    facts({"checkpoint": answer["checkpoint"], "pictures": "\n".join(answer["pictures"])})


def search(answer: Answer) -> None:
    for query in answer["results"]:
        who = f" (person {query['person']})" if "person" in query else ""
        labels = [key for key in ("is_match", "person", "clothes", "camera") if any(key in at for at in query["found"])]
        lines = [
            [found["rank"], f"{found['similarity']:.3f}", found["image"], *(word(found.get(key)) for key in labels)]
            for found in query["found"]
        ]
        columns = ["rank", "similarity", "image", *("same person" if key == "is_match" else key for key in labels)]
        rows(f"nearest to {query['image']}{who}", columns, lines)
    facts({"searched": answer["searched"], "set aside": "\n".join(answer["set_aside"]), "picture": answer["picture"]})


def word(value: Any) -> Any:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


def data_synth(answer: Answer) -> None:
    images = ", ".join(f"{split} {count}" for split, count in answer["images"].items())
    facts({"data set": answer["address"], "images": images, "fingerprint": answer["fingerprint"]})


data_holdout = data_synth


def data_parse(answer: Answer) -> None:
    data_synth(answer)
    parser, shards = answer["parser"], answer["shards"]
    kept = f", {shards['kept']} kept from an earlier run" if shards["kept"] else ""
    made = f"{parser['label_map']} by {parser['kind']} {parser['sha256'][:8]}: {shards['made']} shards{kept}"
    facts({"masks": made, "look at them": f"redress data inspect {answer['address']} --sheet masks.png"})


def data_convert(answer: Answer) -> None:
    for note in answer["notes"]:
        print(note)
    if answer["address"]:
        data_synth(answer)
    else:
        print("a dry run: nothing was written")


def data_inspect(answer: Answer) -> None:
    keys = ("address", "name", "version", "licence", "clothes", "fingerprint", "label_map", "protocol")
    aside = [f"{entry['path']}: {entry['problem']}" for entry in answer["quarantined"]]
    more = (
        [f"and {len(aside) - QUARANTINED_SHOWN} more (--json has them all)"] if len(aside) > QUARANTINED_SHOWN else []
    )
    facts({key: answer[key] for key in keys} | {"set aside": "\n".join(aside[:QUARANTINED_SHOWN] + more)})
    splits = answer["splits"]
    columns = ["split", "images", "persons", "clothes", "cameras", "masks", "sizes", "outfits: people"]
    lines = []
    for name, split in splits.items():
        sizes = ", ".join(f"{size} ({count})" for size, count in split["sizes"].items())
        outfits = ", ".join(f"{number}: {people}" for number, people in (split["clothes_per_person"] or {}).items())
        counts = [split[key] for key in ("images", "persons", "clothes", "cameras", "masks")]
        lines.append([name, *counts, sizes, outfits])
    rows("", columns, lines)
    scores = [
        [mode, kind, percent(score["rank1"]), percent(score.get("random"))]
        for mode, kinds in answer["trivial"].items()
        for kind, score in kinds.items()
    ]
    if scores:
        rows("what colours alone give, %", ["mode", "nearest by", "rank-1", "at random"], scores)
    facts({"contact sheet": answer["sheet"]})


def data_verify(answer: Answer) -> None:
    for problem in answer["problems"]:
        print(problem)
    count = len(answer["problems"])
    print(f"{answer['address']}: {f'{count} problems' if count else 'every byte as it was written'}")


def runs_list(answer: Answer) -> None:
    lines = [
        [run["run_id"], run["name"], run["status"], run["started"], main_metrics(run["metrics"]), run["data"]]
        for run in answer["runs"]
    ]
    rows("", ["run", "name", "state", "started", "rank-1 by mode, %", "data"], lines)


def main_metrics(metrics: Mapping[str, float]) -> str:
    firsts = {name.removesuffix("/rank-1"): value for name, value in metrics.items() if name.endswith("/rank-1")}
    return "  ".join(f"{mode} {percent(value)}" for mode, value in firsts.items())


def runs_show(answer: Answer) -> None:
    facts({key: answer[key] for key in ("run_id", "name", "state", "started", "seconds", "data", "storage", "models")})
    if answer["metrics"]:
        metrics_table("evaluation", answer["metrics"])
    rows("", ["setting", "value"], list(answer["settings"].items()))
    facts({"files": "\n".join(answer["files"])})


def runs_sync(answer: Answer) -> None:
    print(f"run {answer['run_id']}: {answer['delivered']} records delivered, {answer['waiting']} waiting")
    facts({"registered": answer["model"]})


def registry_list(answer: Answer) -> None:
    lines = [
        [
            model["model"],
            ", ".join(model["aliases"]),
            model["decision"],
            model["run_id"],
            main_metrics(model["metrics"]),
        ]
        for model in answer["models"]
    ]
    rows("", ["model", "aliases", "decision", "run", "rank-1 by mode, %"], lines)


def registry_show(answer: Answer) -> None:
    if "card" not in answer:
        facts({"model": answer["model"], "aliases": ", ".join(f"{k} {v}" for k, v in answer["aliases"].items())})
        decided(answer["decisions"])
        return
    facts({key: answer[key] for key in ("model", "run_id", "created")} | {"aliases": ", ".join(answer["aliases"])})
    if answer["metrics"]:
        metrics_table("evaluation", answer["metrics"])
    facts({key: answer["tags"].get(key) for key in ("review.verdict", "review.page")})
    decided(answer["decisions"])
    print(answer["card"])


def decided(decisions: Sequence[Mapping[str, Any]]) -> None:
    """Every decision about a model, the newest first."""
    lines = [
        [one["number"], one["what"], one["version"], one["who"], one["when"], one["why"], ", ".join(one["overridden"])]
        for one in reversed(decisions)
    ]
    if lines:
        rows("decisions", ["", "what", "version", "who", "when", "why", "overridden"], lines)


def registry_compare(answer: Answer) -> None:
    lines = []
    for name, one in answer["differences"].items():
        change = one["candidate"] - one["champion"]
        interval_text = "" if one["low"] is None else f"{100 * one['low']:+.1f} to {100 * one['high']:+.1f}"
        lines.append([name, percent(one["champion"]), percent(one["candidate"]), f"{100 * change:+.1f}", interval_text])
    columns = ["metric, %", answer["against"], answer["model"], "change", f"{100 * answer['confidence']:g}% interval"]
    rows(f"on {answer['data']}", columns, lines)
    for mode, count in answer["changed"].items():
        print(f"{mode}: {count['better']} queries better, {count['worse']} worse")
    print(f"\n{'passes the gate' if answer['passes'] else 'does not pass the gate'}")
    for check in answer["checks"]:
        print(f"  {'passed' if check['passed'] else 'FAILED'}  {check['name']}: {check['text']}")
    facts({"review page": f"run {answer['run_id']}, artifact {answer['page']}"})


def registry_promote(answer: Answer) -> None:
    decision = answer["decision"]
    facts(
        {
            f"{answer['name']}, decision {decision['number']}": f"{decision['what']}, version {decision['version']}",
            "who and when": f"{decision['who']}, {decision['when']}",
            "why": decision["why"],
            "evidence": decision["evidence"],
            "aliases": ", ".join(f"{alias} {number}" for alias, number in answer["aliases"].items()),
        }
    )


registry_reject = registry_rollback = registry_promote


def registry_gate(answer: Answer) -> None:
    gate = answer["gate"]
    target = gate["target"] or "clothes-changing/mAP (where there is none, the first mode's mAP)"
    tolerance = f"no mode worse by more than {100 * gate['tolerance']:g} points"
    print(f"{answer['name']}: {target} better with {100 * gate['confidence']:g}% confidence, {tolerance}")


def registry_register(answer: Answer) -> None:
    print(f"{answer['model']} is registered, as candidate")


def experiments_list(answer: Answer) -> None:
    facts(answer["experiments"])


def experiments_show(answer: Answer) -> None:
    import yaml

    print(yaml.safe_dump(answer["experiment"], sort_keys=False, allow_unicode=True), end="")


def demo(answer: Answer) -> None:
    from orchestration.cli.demo import table

    console().print(table(answer))
    facts(
        {
            "model": answer["model"],
            "pictures": "\n".join(answer["pictures"]),
            "look at the runs": f"{answer['mlflow_ui']}\nthen open {answer['mlflow_page']}",
            "seconds": round(answer["seconds"]),
        }
    )
