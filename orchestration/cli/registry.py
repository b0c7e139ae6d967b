"""The words of `redress registry`: registered models, how they compare, and what is decided about them."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

VERSION = "models:/NAME/VERSION or models:/NAME@ALIAS"


def add_commands(registry: Any, add: Callable[..., ArgumentParser]) -> None:
    """registry: the group they are added to, by `add`."""
    add(registry, "list", "registry_list", "every registered model and its versions", path="registry")
    register = add(registry, "register", "registry_register", "register a run's model as candidate", path="registry")
    register.add_argument("model", metavar="RUN", help="a run's id or storage, or a checkpoint of it")
    register.add_argument("name", metavar="NAME")
    version = add(registry, "show", "registry_show", "a version, its evidence and its model card", path="registry")
    version.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME: what was decided about it")
    compare = add(
        registry, "compare", "registry_compare", "a candidate with the champion, as evidence", path="registry"
    )
    compare.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME is its candidate")
    compare.add_argument(
        "--with", dest="against", metavar="MODEL", help="another version than the champion (no evidence)"
    )
    compare.add_argument("--data", metavar="ADDRESS", help="compare on this data set, not on the candidate's own")
    compare.add_argument("--page", metavar="FILE", help="write the review page there, too")
    promote = add(registry, "promote", "registry_promote", "make a version the champion", path="registry")
    promote.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME is its candidate")
    promote.add_argument("--override", metavar="REASON", help="promote although the gate is not passed, and say why")
    reject = add(registry, "reject", "registry_reject", "take a version out of the running", path="registry")
    reject.add_argument("model", metavar="MODEL", help=f"{VERSION}; NAME is its candidate")
    rollback = add(registry, "rollback", "registry_rollback", "undo the last decision about a model", path="registry")
    rollback.add_argument("name", metavar="NAME")
    for decision in (reject, rollback):
        decision.add_argument("--reason", required=True, metavar="REASON", help="kept with the decision")
    for decision in (compare, promote, reject, rollback):
        decision.add_argument("--by", metavar="WHO", help="who decides (default: this user)")
    gate = add(registry, "gate", "registry_gate", "what a candidate has to show; options change it", path="registry")
    gate.add_argument("name", metavar="NAME")
    gate.add_argument("--target", metavar="METRIC", help="what has to be better, such as clothes-changing/mAP")
    gate.add_argument("--tolerance", type=float, metavar="X", help="no mode worse by more; 0.01 is a point")
    gate.add_argument("--confidence", type=float, metavar="X", help="of the intervals, such as 0.95")
