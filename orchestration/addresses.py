"""Addresses that MLflow and Ray resolve, and references to runs and models. Files and objects: `datasets.storage.address`."""

from __future__ import annotations

import re

from datasets.storage.address import AddressError, check_text, parse_address, shown

RUN_ID = re.compile(r"[0-9a-f]{32}")
MODEL = "models:/"
STAGE = re.compile(r"(.+)@([A-Za-z][\w -]*)")
SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}")


def run_address(text: str) -> str:
    """A run's id as it is, or the address of its storage. Raises: AddressError."""
    return text if RUN_ID.fullmatch(text) else str(parse_address(text))


def model_address(text: str) -> str:
    """models:/NAME/VERSION and models:/NAME@ALIAS as they are, else as `run_address`. Raises: AddressError."""
    if text.startswith(MODEL):
        check_text(text)
        return text
    return run_address(text)


def initial_address(text: str) -> str:
    """As `model_address`, or RUN@STAGE: the end of one of a run's stages. Raises: AddressError."""
    address, stage = split_stage(text)
    return model_address(address) + (f"@{stage}" if stage else "")


def split_stage(text: str) -> tuple[str, str | None]:
    """A run's id or address and the stage behind "@", None where there is none; a model's alias is no stage."""
    found = None if text.startswith(MODEL) else STAGE.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)


def tracking_address(text: str, name: str) -> str:
    """The address of a tracking server or database, unchanged. name: where it was given, for messages.

    A database's address may have user, password and query; a server's user and password. Raises: AddressError.
    """
    check_text(text, name)
    scheme, separator, rest = text.partition("://")
    where = f"{name} = {shown(text)}"
    if re.search(r'[\s"<>]', rest if separator else ""):
        raise AddressError(f"{where} contains a blank, a quote, '<' or '>'; write %20, %22, %3C or %3E in its place")
    if separator and scheme != scheme.lower():
        raise AddressError(f"{where}: write {scheme.lower()}:// in lower-case letters")
    if scheme in ("http", "https"):
        check_server(rest, where)
    return text


def check_server(rest: str, where: str) -> None:
    """rest: what follows http:// in a server's address. Raises: AddressError."""
    server, _, path = rest.partition("/")
    user, at, host = server.rpartition("@")
    if ("@" in path and not at and ":" in server) or "#" in user or "?" in user:
        raise AddressError(f"{where}: write %2F, %3F and %23 for '/', '?' and '#' in a password")
    if "?" in rest or "#" in rest:
        raise AddressError(f"{where}: the address of a server has no query and no fragment; remove it")
    if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(:\d{1,5})?", host):
        raise AddressError(f"{where}: expected http://host:port or https://host")


def cluster_address(text: str, name: str) -> str:
    """The address of a running Ray cluster, unchanged: host:port, ray://host:port, or auto for one on this machine.

    name: where it was given, for messages. Raises: AddressError.
    """
    check_text(text, name)
    where = f"{name} = {shown(text)}"
    scheme, separator, rest = text.rpartition("://")
    expected = "expected host:port of a Ray head, ray://host:port, or auto for a cluster on this machine"
    if text == "local":
        raise AddressError(f"{where}: unset {name} to start Ray on this machine; {expected}")
    if scheme in ("http", "https"):
        raise AddressError(f"{where} is the address of a dashboard, which `ray job submit` takes; {expected}")
    if text != "auto" and (scheme not in ("", "ray") or (separator and not scheme) or not SERVER.fullmatch(rest)):
        raise AddressError(f"{where}: {expected}")
    return text
