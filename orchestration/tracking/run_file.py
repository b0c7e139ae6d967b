"""A file that names a run: one command begins the run and, given again, continues it.

A scheduler gives a job's command again after it took the nodes away. It knows neither the run's id nor whether there is a
run yet.
"""

from __future__ import annotations

from datasets.storage.address import Address, AddressError, parse_address
from datasets.storage.store import StoreError, open_store
from orchestration.addresses import run_address
from orchestration.errors import RequestError, first_line


def read(address: str) -> str | None:
    """The run that the file at `address` names; None where it names none yet. The file is there afterwards.

    Raises: RequestError where the file cannot be read and written, or holds something else.
    """
    place = file_at(address)
    store = open_store(place.parent)
    try:
        if not store.exists(place.name):
            store.write(place.name, b"")  # what cannot be written is reported before there is a run
        text = store.read(place.name).decode(errors="replace").strip()
    except StoreError as error:
        raise RequestError(f"--run-file {address} cannot be used: {first_line(error)}") from error
    try:
        return run_address(text) if text else None
    except AddressError as error:
        raise RequestError(
            f"--run-file {address} holds no run ({first_line(error)}); expected a run's id or the address of its storage. "
            "Name another file, or delete this one to begin a new run."
        ) from error


def write(address: str, run: str) -> None:
    """run: the id of a run, or the address of its storage. Raises: StoreError."""
    place = file_at(address)
    open_store(place.parent).write(place.name, f"{run}\n".encode())


def file_at(address: str) -> Address:
    """Raises: RequestError where the address cannot be a file's."""
    place = parse_address(address)
    if not place.name:
        raise RequestError(f"--run-file {address}: is a folder or a bucket; expected the address of a file")
    return place
