"""infra/aws/spot_notice.sh against a metadata service of this machine, and a stand-in for ray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestration.signals import GRACE_S

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "aws" / "spot_notice.sh"
NODE = "ab" * 28


class Metadata(BaseHTTPRequestHandler):
    """As AWS answers: a token for a PUT, 404 until there is a notice, 401 without the token."""

    asked: list[int]
    notice_at: int

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200 if self.path == "/latest/api/token" else 404, b"secret")

    def do_GET(self) -> None:
        assert self.path == "/latest/meta-data/spot/instance-action"
        if self.headers["X-aws-ec2-metadata-token"] != "secret":
            self.answer(401, b"")
            return
        type(self).asked.append(len(self.asked))
        self.answer(200 if len(self.asked) >= self.notice_at else 404, b"{}")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the test's output."""


@pytest.fixture
def metadata() -> Iterator[tuple[str, type[Metadata]]]:
    handler = type("Fresh", (Metadata,), {"asked": [], "notice_at": 3})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/latest", handler
        server.shutdown()


def test_the_notice_drains_this_node_before_it_is_taken(metadata: tuple[str, type[Metadata]], tmp_path: Path) -> None:
    address, handler = metadata
    ray = tmp_path / "ray"
    ray.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/given\n')
    ray.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "METADATA": address,
        "INTERVAL_S": "0.1",
    }
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    raylets = [
        subprocess.Popen([*sleep, f"--node_id={node}", f"--gcs-address={cluster}"])
        for node, cluster in (("cd" * 28, "10.0.0.2:6379"), (NODE, "10.0.0.1:6379"))
    ]
    try:
        done = subprocess.run([SCRIPT, "10.0.0.1:6379"], env=environment, capture_output=True, text=True, timeout=60)
    finally:
        for raylet in raylets:
            raylet.kill()
            raylet.wait()
    assert done.returncode == 0, done.stderr
    assert len(handler.asked) == 3, "it asks again until there is a notice"
    given = (tmp_path / "given").read_text().splitlines()
    options = dict(zip(given[1::2], given[2::2], strict=True))
    assert given[0] == "drain-node"
    assert (options["--address"], options["--node-id"]) == ("10.0.0.1:6379", NODE)
    assert int(options["--deadline-remaining-seconds"]) < GRACE_S
    check_ray_takes(options)


def check_ray_takes(options: dict[str, str]) -> None:
    from ray.scripts.scripts import drain_node

    parameters = {option: parameter for parameter in drain_node.params for option in parameter.opts}
    assert options.keys() <= parameters.keys()
    assert options["--reason"] in str(parameters["--reason"].type)
