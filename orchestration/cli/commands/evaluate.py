"""`redress evaluate`."""

from __future__ import annotations

from orchestration.cli.argument_types import any_model
from orchestration.cli.command import Answer, Command
from orchestration.cli.options import MODEL, Options, argument, arguments
from orchestration.cli.tables import print_facts, print_metrics


class EvaluateOptions(Options):
    model: str = argument("MODEL", MODEL, parse=any_model)
    overrides: list[str] = arguments(
        "key=value", "settings to change, such as data=ADDRESS or evaluate.rerank={}", takes_settings=True
    )


def evaluate(options: EvaluateOptions) -> Answer:
    from orchestration.config.recipes import check_names

    check_names(None, options.overrides)
    from orchestration.evaluation.score import score

    return score(options.model, options.overrides)


def show_evaluation(answer: Answer) -> None:
    print_metrics(f"{answer['model']} on {answer['data']}", answer["metrics"])
    print_facts({"checkpoint": answer["checkpoint"], "pictures": "\n".join(answer["pictures"])})


EVALUATE = Command(
    "evaluate", "evaluate a model by the protocol of its data set", EvaluateOptions, evaluate, show_evaluation
)
