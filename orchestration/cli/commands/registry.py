"""`redress registry`: model versions are listed, registered, compared and decided about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestration.cli.argument_types import any_address, any_run, local_path
from orchestration.cli.command import Answer, Command, Group
from orchestration.cli.options import Options, argument, option, required
from orchestration.cli.tables import main_metrics, percent, print_facts, print_metrics, print_table, rename_status

VERSION = "models:/NAME/VERSION or models:/NAME@ALIAS"
CANDIDATE = argument("MODEL", f"{VERSION}; NAME alone means its candidate")
NAME = argument("NAME", "the registered model's name")
REASON = required("recorded with the decision", metavar="REASON")
BY = option(None, "who decides (default: the user at MLflow's server, or this machine's)", flag="--by", metavar="WHO")


def list_models(options: Options) -> Answer:
    from orchestration.registry.models import list_models

    return {"models": list_models()}


def show_models(answer: Answer) -> None:
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
    print_table("", ["model", "aliases", "decision", "run", "rank-1 by mode, %"], lines)


class ShowOptions(Options):
    model: str = argument("MODEL", f"{VERSION}; NAME alone shows every decision about it")


def describe_model(options: ShowOptions) -> Answer:
    from orchestration.registry.models import show_model

    return rename_status(show_model(options.model))


def show_model(answer: Answer) -> None:
    if "card" not in answer:
        aliases = ", ".join(f"{alias} {number}" for alias, number in answer["aliases"].items())
        print_facts({"model": answer["model"], "aliases": aliases})
        print_decisions(answer["decisions"])
        return
    facts = {key: answer[key] for key in ("model", "run_id", "created")}
    print_facts(facts | {"aliases": ", ".join(answer["aliases"])})
    if answer["metrics"]:
        print_metrics("evaluation", answer["metrics"])
    print_facts({key: answer["tags"].get(key) for key in ("review.verdict", "review.page")})
    print_decisions(answer["decisions"])
    print(answer["card"])


def print_decisions(decisions: Sequence[Mapping[str, Any]]) -> None:
    """Newest first; nothing where there are none."""
    lines = [
        [one["number"], one["what"], one["version"], one["who"], one["when"], one["why"], ", ".join(one["overridden"])]
        for one in reversed(decisions)
    ]
    if lines:
        print_table("decisions", ["", "decision", "version", "who", "when", "reason", "overridden"], lines)


class RegisterOptions(Options):
    model: str = argument("RUN", "a run's id or storage, or one of its checkpoints", parse=any_run)
    name: str = NAME


def register(options: RegisterOptions) -> Answer:
    from orchestration.registry.models import register_run

    return register_run(options.model, options.name)


def show_registration(answer: Answer) -> None:
    print(f"{answer['model']} is registered as candidate")


class CompareOptions(Options):
    model: str = CANDIDATE
    against: str | None = option(
        None, "compare with this version instead of the champion (gives no evidence)", flag="--with", metavar="MODEL"
    )
    data: str | None = option(
        None, "compare on this data set instead of the candidate's", metavar="ADDRESS", parse=any_address
    )
    page: str | None = option(None, "also write the review page to this file", metavar="FILE", parse=local_path)
    by: str | None = BY


def compare(options: CompareOptions) -> Answer:
    from orchestration.review.review import review

    return review(options.model, against=options.against, data=options.data, page=options.page, who=options.by)


def show_comparison(answer: Answer) -> None:
    confidence = f"{100 * answer['confidence']:g}% interval"
    columns = ["metric, %", answer["against"], answer["model"], "change", confidence]
    lines = [[name, *difference_cells(difference)] for name, difference in answer["differences"].items()]
    print_table(f"on {answer['data']}", columns, lines)
    for mode, count in answer["changed"].items():
        print(f"{mode}: {count['better']} queries better, {count['worse']} worse")
    print(f"\n{'passes the gate' if answer['passes'] else 'does not pass the gate'}")
    for check in answer["checks"]:
        print(f"  {'passed' if check['passed'] else 'FAILED'}  {check['name']}: {check['text']}")
    page = f"run {answer['run_id']}, artifact {answer['page']}\n{answer['page_address']}"
    print_facts({"review page": page, "its copy": answer["copy"]})


def difference_cells(difference: Mapping[str, Any]) -> list[str]:
    """Champion and candidate in percent; change and its confidence interval in points."""
    low, high = difference["low"], difference["high"]
    return [
        percent(difference["champion"]),
        percent(difference["candidate"]),
        f"{100 * (difference['candidate'] - difference['champion']):+.1f}",
        "" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}",
    ]


class PromoteOptions(Options):
    model: str = CANDIDATE
    override: str | None = option(
        None, "promote although the version does not pass the gate, for this reason", metavar="REASON"
    )
    by: str | None = BY


def promote(options: PromoteOptions) -> Answer:
    from orchestration.registry.decisions import promote

    return promote(options.model, override=options.override, who=options.by)


class RejectOptions(Options):
    model: str = CANDIDATE
    reason: str = REASON
    by: str | None = BY


def reject(options: RejectOptions) -> Answer:
    from orchestration.registry.decisions import reject

    return reject(options.model, options.reason, who=options.by)


class RollbackOptions(Options):
    name: str = NAME
    reason: str = REASON
    by: str | None = BY


def rollback(options: RollbackOptions) -> Answer:
    from orchestration.registry.decisions import rollback

    return rollback(options.name, options.reason, who=options.by)


def show_decision(answer: Answer) -> None:
    decision = answer["decision"]
    print_facts(
        {
            f"{answer['name']}, decision {decision['number']}": f"{decision['what']}, version {decision['version']}",
            "who and when": f"{decision['who']}, {decision['when']}",
            "reason": decision["why"],
            "evidence": decision["evidence"],
            "aliases": ", ".join(f"{alias} {number}" for alias, number in answer["aliases"].items()),
        }
    )


class GateOptions(Options):
    name: str = NAME
    target: str | None = option(None, "metric that has to improve, such as clothes-changing/mAP", metavar="METRIC")
    tolerance: float | None = option(
        None, "largest loss allowed in any mode; 0.01 is one point", metavar="X", parse=float
    )
    confidence: float | None = option(None, "confidence level of the intervals, such as 0.95", metavar="X", parse=float)


def gate(options: GateOptions) -> Answer:
    from orchestration.registry.gate import show_gate

    return show_gate(options.name, target=options.target, tolerance=options.tolerance, confidence=options.confidence)


def show_gate(answer: Answer) -> None:
    gate = answer["gate"]
    target = gate["target"] or "clothes-changing/mAP (or, where the protocol has none, the first mode's mAP)"
    confidence, tolerance = f"{100 * gate['confidence']:g}% confidence", f"{100 * gate['tolerance']:g} points"
    print(f"{answer['name']}: {target} better with {confidence}, no mode worse by more than {tolerance}")


REGISTRY = Group(
    "registry",
    "list, register, compare and promote models",
    (
        Command("list", "list every version of every registered model", Options, list_models, show_models),
        Command("register", "register the model of a run as candidate", RegisterOptions, register, show_registration),
        Command("show", "show a version, its evidence and its model card", ShowOptions, describe_model, show_model),
        Command(
            "compare", "compare the candidate with the champion, as evidence", CompareOptions, compare, show_comparison
        ),
        Command("promote", "make a version the champion", PromoteOptions, promote, show_decision),
        Command("reject", "reject a version", RejectOptions, reject, show_decision),
        Command("rollback", "undo the last decision about a model", RollbackOptions, rollback, show_decision),
        Command("gate", "show or change what a candidate has to pass", GateOptions, gate, show_gate),
    ),
)
