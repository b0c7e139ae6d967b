"""Text in the conditions by which MLflow is searched."""

from __future__ import annotations

from orchestration.errors import RequestError


def quoted(text: str) -> str:
    """The text as a condition has it: in the quotation marks that it does not contain, for MLflow knows no escapes.

    Raises: RequestError where it contains both.
    """
    if set("'\"") <= set(text):
        raise RequestError(
            f"{text}: MLflow cannot search for what contains both ' and \". Take a name with one of them at most"
        )
    return f'"{text}"' if "'" in text else f"'{text}'"
