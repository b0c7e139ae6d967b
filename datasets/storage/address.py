"""Addresses of files and objects: plain paths, file:// and s3://. One function parses them, before any work.

Light to import: the command line checks its options here before it loads anything else.
"""

import os
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from datasets.errors import DataError

_SCHEME = re.compile(r"([^/]*?)://(.*)")
_ONE_SLASH = re.compile(r"(s3|file):", re.IGNORECASE)
_UNWANTED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
_IN_TEXT = re.compile(r'([A-Za-z][A-Za-z0-9+.-]*)://([^\s"<>]+)')
_WITHOUT_USERS = ("s3", "file")


class AddressError(DataError):
    """The text is no address. The message shows it without secrets, and says what is expected."""


class Address(NamedTuple):
    """A file, folder, object or prefix. `str` gives the text that parses to the same address.

    bucket: of s3://bucket/key; "" for a path. path: the key, "" for the whole bucket; else an absolute path.
    """

    bucket: str
    path: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.path}".rstrip("/") if self.bucket else self.path

    @property
    def name(self) -> str:
        """The last part of the path; "" for a whole bucket and for the root folder."""
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> "Address":
        above = self.path.rpartition("/")[0]
        return Address(self.bucket, above if self.bucket else above or "/")


def parse_address(text: str) -> Address:
    """A plain path (made absolute, ~ expanded), file:///path (percent-decoded) or s3://bucket/key.

    Raises: AddressError for all other text, among it text with credentials, a query, or a fragment.
    """
    check_text(text)
    if found := _SCHEME.fullmatch(text):
        scheme, rest = found.groups()
        if scheme == "s3":
            return _object(text, rest)
        if scheme == "file":
            return _path(text, _decoded(text, rest))
        if scheme.lower() in _WITHOUT_USERS:
            raise AddressError(f"{shown(text)}: write {scheme.lower()}:// in lower-case letters")
        raise AddressError(
            f"{shown(text)} begins with {shown(scheme)}://; supported are plain paths, file:// and s3://"
        )
    if _ONE_SLASH.match(text):
        raise AddressError(f"{shown(text)} has no '//'; expected s3://bucket/prefix or file:///absolute/path")
    return _path(text, text)


def parse_endpoint(text: str, name: str) -> tuple[str, str]:
    """Scheme and the rest (host, port, path) of an S3 endpoint. name: the variable that holds it, for the message.

    Raises: AddressError.
    """
    check_text(text, name)
    scheme, _, rest = text.partition("://") if "://" in text else ("https", "", text)
    host, _, path = rest.rstrip("/").partition("/")
    if scheme not in ("http", "https") or not _HOST.fullmatch(host) or re.search(r"[\s?#@]", path):
        raise AddressError(
            f"{name} = {shown(text)}: expected http://host:port or https://host, without credentials and query. "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY hold the credentials"
        )
    return scheme, f"{host}/{path}".rstrip("/")


def check_text(text: str, name: str = "") -> None:
    """Checks what holds for every address. name: where it was given, for the message. Raises: AddressError."""
    where = f"{name} = {shown(text)}" if name else shown(text)
    if not text.strip():
        raise AddressError(f"{where} is blank; expected an address")
    if text != text.strip():
        raise AddressError(f"{where} has blanks around the address; remove them")
    if found := _UNWANTED.search(text):
        kind = "a byte that is not UTF-8" if "\ud800" <= found[0] <= "\udfff" else "a control character"
        raise AddressError(f"{where} contains {kind} at position {found.start()}; rename it")


def shown(text: str) -> str:
    """An address for a message: without secrets, on one line."""
    if "://" in text and re.search(r'[\s"<>]', text):  # where the secret ends is unknown
        return f"{text.partition('://')[0]!r}://…"
    text = without_secret(text)
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def without_secret(text: str) -> str:
    """Text whose addresses have neither user and password nor a query: `http://user:pass@host/x?key=1` → `http://host/x`.

    A password may contain "/", "?" and "#" although it should not. The rest of such an address is cut as well where
    it is not certain where the password ends.
    """
    return _IN_TEXT.sub(_cut, text)


def _cut(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    head, mark, query = rest.partition("?")
    server, slash, path = head.partition("/")
    if scheme.lower() in _WITHOUT_USERS and ("@" in server or ":" not in server):
        head = f"{server.rpartition('@')[2]}{slash}{path}"  # a key may contain "@"
    elif server and "@" in head:
        head = head.rpartition("@")[2]
    elif server and "@" in query and ":" in head:
        return f"{scheme}://…"
    return f"{scheme}://{head}{'' if query else mark}"


def _object(text: str, rest: str) -> Address:
    bucket, _, key = rest.removesuffix("/").partition("/")
    if not bucket:
        raise AddressError(f"{shown(text)} names no bucket; expected s3://bucket or s3://bucket/prefix")
    if "@" in bucket or ":" in bucket:
        raise AddressError(
            f"{shown(text)} contains credentials or a port; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL "
            "hold those. Expected s3://bucket/prefix"
        )
    if found := re.search("[?#]", rest):
        raise AddressError(f"{shown(text)} contains {found[0]!r}, which an s3:// address cannot; rename the object")
    if not _BUCKET.fullmatch(bucket):
        raise AddressError(f"{shown(text)}: a bucket's name has letters, digits, '.', '_' and '-'")
    if key and any(part in ("", ".", "..") for part in key.split("/")):
        raise AddressError(f"{shown(text)} has an empty part, '.' or '..' in its path; expected s3://bucket/prefix")
    if any(part != part.strip() for part in key.split("/")):
        raise AddressError(f"{shown(text)} has blanks around a part of its path; remove them")
    return Address(bucket, key)


def _decoded(text: str, rest: str) -> str:
    """The path of a file:// address."""
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise AddressError(f"{shown(text)} names a host; expected file:///absolute/path")
    for character, code in (("?", "%3F"), ("#", "%23")):
        if character in path:
            raise AddressError(f"{shown(text)} contains {character!r}; write {code} for it, or give a plain path")
    try:
        return f"/{unquote_to_bytes(path).decode()}"
    except UnicodeDecodeError:
        raise AddressError(f"{shown(text)} contains percent codes that are not UTF-8; rename it") from None


def _path(text: str, path: str) -> Address:
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise AddressError(f"{shown(text)}: there is no such home folder; write ./~… for a file of this name")
    try:
        absolute = os.path.abspath(expanded)  # a worker's current folder is a different one
    except FileNotFoundError:
        raise AddressError(f"{shown(text)} is relative, and the current folder was deleted; change folders") from None
    absolute = f"/{absolute.lstrip('/')}"
    check_text(absolute)
    return Address("", absolute)
