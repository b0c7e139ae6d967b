"""A PostgreSQL of Debian's packages as one plain process, with a password, on the loopback alone."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import HOST, Process, ServerError, clean_environment, free_port, listens

USER, PASSWORD = "mlflow", "only-on-loopback-5432"
WITHOUT_ROOT = "postgres"  # the server refuses to run as root; Debian's package makes this user


@contextmanager
def postgres(log: Path) -> Iterator[str]:
    """Run a server with an empty database and yield its address, postgresql://user:password@host:port/database.

    It keeps its files in a folder of its own, which its user can reach, for as long as it runs.
    """
    home = Path(tempfile.mkdtemp(prefix="redress-postgres-"))
    port, is_root = free_port(), os.getuid() == 0
    as_user = ["setpriv", f"--reuid={WITHOUT_ROOT}", f"--regid={WITHOUT_ROOT}", "--clear-groups"] if is_root else []
    try:
        (home / "password").write_text(PASSWORD)
        if is_root:
            owner = pwd.getpwnam(WITHOUT_ROOT)
            for path in (home, home / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        env = clean_environment(log.parent / "home")
        make = [program("initdb"), f"--pgdata={home}/data", f"--username={USER}", f"--pwfile={home}/password"]
        make += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run([*as_user, *make], env=env, cwd=home, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"initdb failed\n{done.stdout}{done.stderr}")
        run = [program("postgres"), "-D", f"{home}/data", "-p", str(port), "-c", f"listen_addresses={HOST}"]
        run += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
        server = Process([*as_user, *run], log, env, home)
        try:
            server.wait_until(lambda: listens(port))
            yield f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/postgres"
        finally:
            server.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def program(name: str) -> str:
    """Debian keeps servers outside the path. Raises: ServerError."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), *filter(None, [shutil.which(name)])]
    if not found:
        raise ServerError(f"{name} is missing: apt-get install postgresql")
    return str(found[0])
