"""A proxy that does to HTTP what networks and busy stores do: refuses, breaks off, stalls, dribbles, alters a byte.

It stands in front of an object store and counts what it does. Headers pass unchanged, the signed Host among them.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.servers.process import HOST
from tests.servers.swift import ObjectStore

# What may befall any request, and what only the body of an object that is read.
ANY = ("slow_down", "error", "reset", "slow_start")
BODY = ("truncated", "short", "stall", "trickle", "wrong_byte")
KINDS = ANY + BODY
BURST = 3  # requests that a slow_down refuses in a row

SLOW_DOWN = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'
ERROR = b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>Please try again.</Message></Error>'


@dataclass
class Faults:
    """How likely each kind is per request, and what was done so far.

    What befalls a request depends on the seed, on what it asks for and on how often that was asked before, not on which
    thread was first. slow_down: 503, for BURST requests. error: 500. reset: the connection breaks, in the body of an
    answer, or of a write before or after it was done. truncated: the body ends early; short: the same, and its length
    says so. stall: the body stops for stall_s; trickle: it goes on with a byte each 20 ms; slow_start: nothing for
    slow_s. wrong_byte: one bit of the body is turned. most: faults in all, None without an end.
    """

    rates: Mapping[str, float]
    seed: int = 0
    stall_s: float = 30.0
    slow_s: float = 1.0
    most: int | None = None
    injected: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)  # by method
    asked: Counter[str] = field(default_factory=Counter)  # by "METHOD path range"
    bytes_sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    refusals: int = 0  # left of a burst
    over: threading.Event = field(default_factory=threading.Event)  # ends what stalls

    def draw(self, method: str, what: str, is_object: bool) -> tuple[str | None, random.Random]:
        """The fault of this request, if any, and the generator for its details."""
        with self.lock:
            self.requests[method] += 1
            self.asked[what] += 1
            rng = random.Random(f"{self.seed} {what} {self.asked[what]}")
            kind = self._kind(rng, KINDS if is_object else ANY)
            if kind:
                self.injected[kind] += 1
            return kind, rng

    def _kind(self, rng: random.Random, possible: tuple[str, ...]) -> str | None:
        if self.refusals:
            self.refusals -= 1
            return "slow_down"
        if self.most is not None and sum(self.injected.values()) >= self.most:
            return None
        drawn = rng.random()
        for kind in possible:
            drawn -= self.rates.get(kind, 0)
            if drawn < 0:
                if kind == "slow_down":
                    self.refusals = BURST - 1
                return kind
        return None


@contextmanager
def fault_proxy(store: ObjectStore, faults: Faults) -> Iterator[ObjectStore]:
    """The same store seen through the faults."""
    server = _Server((HOST, 0), _Handler)
    server.target, server.faults = urlsplit(store.endpoint).netloc, faults
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield replace(store, endpoint=f"http://{HOST}:{server.server_address[1]}")
    finally:
        faults.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    target: str
    faults: Faults

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves early is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def answer(self) -> None:
        faults, body = self.server.faults, self.request_body()
        path, _, query = self.path.partition("?")
        is_object = self.command == "GET" and path.count("/") > 1 and not query
        what = f"{self.command} {self.path} {self.headers.get('Range', '')}".strip()
        kind, rng = faults.draw(self.command, what, is_object)
        if kind == "slow_start" and faults.over.wait(faults.slow_s):
            self.break_off()
        elif kind in ("slow_down", "error"):
            self.respond(*((503, SLOW_DOWN) if kind == "slow_down" else (500, ERROR)))
        elif kind == "reset" and not is_object and rng.random() < 0.5:
            self.break_off()
        else:
            answer, content = self.forward(body)
            if kind == "reset" and not is_object:
                self.break_off()
            else:
                self.pass_on(answer, content, kind if is_object and content else None, rng)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815

    def request_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def forward(self, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        upstream = http.client.HTTPConnection(self.server.target, timeout=60)
        is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
        headers = {name: value for name, value in self.headers.items() if name != "Expect"}
        upstream.request(
            self.command, self.path, iter([body]) if is_chunked else body, headers, encode_chunked=is_chunked
        )
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        return answer, content

    def pass_on(self, answer: http.client.HTTPResponse, content: bytes, kind: str | None, rng: random.Random) -> None:
        """Sends the store's answer on. kind: what befalls its body."""
        cut = rng.randrange(len(content)) if kind else len(content)
        if kind == "wrong_byte":
            altered = bytearray(content)
            altered[cut] ^= 1 << rng.randrange(8)
            content, cut = bytes(altered), len(content)
        elif kind == "slow_start":
            cut = len(content)
        length = str(cut if kind == "short" else len(content))
        if self.command == "HEAD":
            length = answer.headers.get("Content-Length", "0")
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.send(content[:cut])
        if kind == "reset":
            self.break_off()
        elif kind == "truncated":
            self.hang_up()
        elif kind == "stall":
            self.go_on(self.server.faults.stall_s, content[cut:])
        elif kind == "trickle":
            for position in range(cut, len(content)):
                if not self.go_on(0.02, content[position : position + 1]):
                    break

    def go_on(self, wait_s: float, data: bytes) -> bool:
        """Sends after a while. Where all is over it breaks off instead, so that nobody waits for the rest."""
        if self.server.faults.over.wait(wait_s):
            self.break_off()
            return False
        self.send(data)
        return True

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        with self.server.faults.lock:
            self.server.faults.bytes_sent += len(data)

    def respond(self, status: int, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def hang_up(self) -> None:
        """Ends the connection in good order, before its time."""
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def break_off(self) -> None:
        """Resets the connection: the other side sees an error, and what was on the way is lost."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *arguments: object) -> None:
        pass
