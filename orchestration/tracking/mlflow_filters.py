"""Quoting of text in MLflow's search filters."""

from __future__ import annotations

from orchestration.errors import RequestError


def quoted(text: str) -> str:
    """The text as a string of a filter, in the kind of quotation mark that it does not contain: MLflow has no escapes.

    Raises: RequestError where it contains both kinds.
    """
    if set("'\"") <= set(text):
        raise RequestError(
            f"{text}: MLflow cannot search for a name that contains both ' and \". Choose a name with at most one of them."
        )
    return f'"{text}"' if "'" in text else f"'{text}'"
