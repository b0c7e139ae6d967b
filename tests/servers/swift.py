"""OpenStack Swift with its S3 API: a real object store in four plain processes, without root and without memcached."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template

import boto3
from botocore.config import Config

from tests.servers.process import BIN, HOST, Process, ServerError, clean_environment, free_port, listens

ACCESS_KEY, SECRET_KEY, REGION = "reid:tester", "only-on-loopback", "us-east-1"
LISTING = 100  # objects in one answer, instead of 1,000: the tests reach the second page with fewer objects

SWIFT_CONF = """\
[swift-hash]
swift_hash_path_suffix = redress
[storage-policy:0]
name = single
default = yes
"""

SERVER_CONF = Template("""\
[DEFAULT]
bind_ip = $host
bind_port = $port
user = $user
workers = 0
swift_dir = $home
devices = $home/devices
mount_check = false
log_level = WARNING
log_address = $home/no-syslog
[pipeline:main]
pipeline = $pipeline
[app:$kind-server]
use = egg:swift#$kind
allow_account_management = true
account_autocreate = true
fallocate_reserve = 0
object_chunk_size = 1048576
client_chunk_size = 1048576
disk_chunk_size = 1048576
network_chunk_size = 1048576
[filter:s3api]
use = egg:swift#s3api
location = $region
max_bucket_listing = $listing
[filter:tempauth]
use = egg:swift#tempauth
user_reid_tester = $secret .admin
[filter:slo]
use = egg:swift#slo
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
""")

PIPELINES = {
    "account": "account-server",
    "container": "container-server",
    "object": "object-server",
    "proxy": "catch_errors gatekeeper s3api tempauth slo proxy-server",
}


@dataclass(frozen=True)
class ObjectStore:
    """Where a running store listens, and what opens it."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use `s3://` addresses (pyarrow, boto3 and so MLflow read these)."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self):  # boto3 clients have no static type
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}),
        )

    def create_bucket(self, name: str) -> str:
        """Make a bucket (at least 3 lower-case letters) and return its address."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"


@contextmanager
def swift(home: Path) -> Iterator[ObjectStore]:
    """Run a Swift of one device that keeps everything below `home`, whose file system must have extended attributes."""
    require_extended_attributes(home)
    (home / "devices" / "d1").mkdir(parents=True)
    (home / "swift.conf").write_text(SWIFT_CONF)
    ports = {kind: free_port() for kind in PIPELINES}
    env = clean_environment(home / "home")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda kind: build_ring(home, kind, ports[kind], env), ("account", "container", "object")))
    servers: list[Process] = []
    try:
        for kind, port in ports.items():
            conf = home / f"{kind}.conf"
            conf.write_text(server_conf(home, kind, port))
            servers.append(Process([BIN / f"swift-{kind}-server", conf, "--verbose"], home / f"{kind}.log", env, home))
        for server, port in zip(servers, ports.values(), strict=True):
            server.wait_until(partial(listens, port))
        yield ObjectStore(f"http://{HOST}:{ports['proxy']}")
    finally:
        for server in servers:
            server.stop()


def server_conf(home: Path, kind: str, port: int) -> str:
    user = pwd.getpwuid(os.getuid()).pw_name
    return SERVER_CONF.substitute(
        host=HOST,
        port=port,
        user=user,
        home=home,
        kind=kind,
        pipeline=PIPELINES[kind],
        region=REGION,
        listing=LISTING,
        secret=SECRET_KEY,
    )


def build_ring(home: Path, kind: str, port: int, env: dict[str, str]) -> None:
    """A ring of one device: 2⁴ partitions, one replica."""
    builder = home / f"{kind}.builder"
    for words in (["create", "4", "1", "1"], ["add", f"r1z1-{HOST}:{port}/d1", "1"], ["rebalance"]):
        command = [str(BIN / "swift-ring-builder"), str(builder), *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"swift-ring-builder {' '.join(words)} failed\n{done.stdout}{done.stderr}")


def require_extended_attributes(folder: Path) -> None:
    """Raises: ServerError where files cannot carry the attributes in which Swift keeps an object's metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / "attributes"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", bytes(1024))
    except OSError as error:
        raise ServerError(
            f"{folder} is on a file system without user extended attributes ({error.strerror}), which Swift needs; "
            "run the tests with --basetemp on ext4, xfs or btrfs"
        ) from error
    finally:
        probe.unlink()
