"""A Slurm job in one machine: stand-ins for srun, scontrol, getent, ray and the driver around the real batch script."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLURM = ROOT / "infra" / "slurm"
PYTHON = sys.executable
LIMIT_S = 60.0

# Each stand-in appends what happens to $STATE/log. A node that has joined is a file in $STATE/nodes.
LOG = 'log() { printf "%s\\n" "$*" >>"$STATE/log"; }\n'
STAND_INS = {
    "scontrol": LOG
    + """
case "$1 $2" in
"show hostnames") printf '%s\\n' $NODES ;;
"show job") echo "   JobState=${JOB_STATE-RUNNING} Reason=None" ;;
*) log "scontrol $*"; exit "${SCONTROL_STATUS-0}" ;;
esac
""",
    # As srun: a task on each node, SIGTERM passed to all.
    "srun": LOG
    + """
log "srun pid $$"
while [ "${1#-}" != "$1" ]; do
    case $1 in --nodelist=*) names=${1#*=} ;; esac
    options="${options-} $1"
    shift
done
log "srun$options"
trap 'kill -s TERM $tasks 2>/dev/null' TERM
for name in ${names//,/ }; do
    SLURMD_NODENAME=$name SLURM_CPUS_ON_NODE=3 REDRESS_RAY_TEMP=$REDRESS_RAY_TEMP-$name "$@" &
    tasks="${tasks-} $!"
done
while :; do
    wait
    [ -z "$(jobs -pr)" ] && break
done
wait -n $tasks
""",
    "getent": 'printf "%s STREAM x\\n" $GETENT\n',
    "python": f'[ "$1" = -m ] && exec {PYTHON} "$STAND_INS/driver.py" "$@"\nexec {PYTHON} "$@"\n',
    "ray": f'exec {PYTHON} "$STAND_INS/node.py" "$@"\n',
}
NODE = """
import os, signal, socket, sys, time
from pathlib import Path
options = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[2:])
name, state = options["node-name"], Path(os.environ["STATE"])
def log(text):
    with open(state / "log", "a") as file:
        file.write(f"ray {name} {text}\\n")
log(f"pid {os.getpid()}")
log("start " + " ".join(sys.argv[1:]))
log(f"token {os.environ['RAY_AUTH_MODE']} {os.environ['RAY_AUTH_TOKEN']}")
assert Path(options["temp-dir"]).is_dir()
if name in os.environ.get("FAILS", "").split():
    sys.exit("ray: this port is taken")
def end(*_):
    log("TERM")
    sys.exit(1)
signal.signal(signal.SIGTERM, end)
if "head" in options:
    server = socket.create_server((options["node-ip-address"], int(options["port"])))
if name not in os.environ.get("LATE", "").split():
    (state / "nodes" / name).write_text(os.environ.get(f"GPU_{name}", ""))
while True:
    time.sleep(0.05)
"""
RAY = """
import os
from pathlib import Path
def init(**_): pass
def nodes():
    folder = Path(os.environ["STATE"], "nodes")
    return [{"NodeName": f.name, "Alive": True, "Resources": {f"accelerator_type:{f.read_text()}": 1} if f.read_text() else {}}
            for f in folder.iterdir()]
"""
DRIVER = """
import os, signal, sys, time
from pathlib import Path
state = Path(os.environ["STATE"])
def log(text):
    with open(state / "log", "a") as file:
        file.write(f"driver {text}\\n")
log(f"pid {os.getpid()}")
log("start " + " ".join(sys.argv[1:]))
log(f"ray at {os.environ['RAY_ADDRESS']} {os.environ['RAY_AUTH_TOKEN']}")
if "--run-file" in sys.argv:
    file = Path(sys.argv[sys.argv.index("--run-file") + 1])
    log("continues " + file.read_text() if file.exists() else "begins")
    file.write_text("/runs/1")
def end(number, _):
    log(signal.Signals(number).name)
    time.sleep(0.5)
    log("saved")
    sys.exit(128 + number)
assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN, "Ctrl-C would be ignored"
if os.environ["DRIVER"] != "runs":
    sys.exit(int(os.environ["DRIVER"]))
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
log("runs")
while True:
    time.sleep(0.05)
"""


def hear_ctrl_c() -> None:
    """It is ignored where the tests run in the background, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Job:
    """A Slurm job whose parts are stand-ins: start it, signal its batch shell, read what happened."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, stand_ins = folder, folder / "state", folder / "stand-ins"
        for new in (self.state / "nodes", stand_ins, folder / "home", folder / "tmp"):
            new.mkdir(parents=True)
        for name, text in STAND_INS.items():
            (stand_ins / name).write_text(f"#!/usr/bin/env bash\n{text}")
            (stand_ins / name).chmod(0o755)
        for name, text in (("node", NODE), ("ray", RAY), ("driver", DRIVER)):
            (stand_ins / f"{name}.py").write_text(text)
        self.checkout = folder / "checkout"
        shutil.copytree(SLURM, self.checkout / "infra" / "slurm")
        (self.checkout / "orchestration").mkdir()
        (self.checkout / "orchestration" / "__main__.py").touch()
        system = os.pathsep.join(path for path in ("/usr/local/bin", "/usr/bin", "/bin") if os.path.isdir(path))
        self.environment = {
            "PATH": f"{stand_ins}{os.pathsep}{system}", "HOME": str(folder / "home"), "PYTHONPATH": str(stand_ins),
            "STATE": str(self.state), "STAND_INS": str(stand_ins), "REDRESS_TMP": str(folder / "tmp"), "DRIVER": "0",
            "SLURM_SUBMIT_DIR": str(self.checkout), "SLURM_JOB_ID": str(100_000 + os.getpid() % 7000), "NODES": "n1 n2 n3",
            "SLURM_JOB_NODELIST": "n[1-3]", "REDRESS_HEAD_ADDRESS": "127.0.0.1", "REDRESS_NODES_WAIT_S": "30",
        }  # fmt: skip

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """The script lies elsewhere when it runs: Slurm copies it."""
        script = shutil.copy(SLURM / "redress.sbatch", self.folder / "slurm_script")
        self.environment |= environment
        return subprocess.Popen(
            ["bash", script, *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=hear_ctrl_c,
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """The job's exit status and what it printed."""
        return self.end(self.start(*words, **environment))

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        output, _ = process.communicate(timeout=LIMIT_S)
        for pid in map(int, re.findall(r" pid (\d+)", "\n".join(self.log()))):
            assert not Path(f"/proc/{pid}").exists(), f"{pid} was left behind: {output}"
        assert not list((self.folder / "tmp").iterdir()), "Ray's folders were left behind"
        return process.returncode, output

    def log(self) -> list[str]:
        file = self.state / "log"
        return file.read_text().splitlines() if file.exists() else []

    def wait_until(self, line: str) -> None:
        until = time.monotonic() + LIMIT_S
        while line not in self.log():
            assert time.monotonic() < until, self.log()
            time.sleep(0.05)

    def starts(self) -> dict[str, str]:
        """Node → what its Ray was started with."""
        return dict(re.findall(r"^ray (\S+) start (.*)$", "\n".join(self.log()), re.MULTILINE))

    def position(self, start: str) -> int:
        return next(i for i, line in enumerate(self.log()) if line.startswith(start))
