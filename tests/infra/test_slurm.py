"""infra/slurm/: the batch script, with stand-ins in place of a cluster."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infra.slurm_job import LIMIT_S, SLURM, Job


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path)
    yield made
    for pid in map(int, re.findall(r" pid (\d+)", "\n".join(made.log()))):  # where a test failed
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("nodes", ["n1", "n1 n2", "n1 n2 n3"])
def test_ray_runs_on_every_node_before_the_driver_and_not_after_it(job: Job, nodes: str) -> None:
    status, output = job.run("train", "cal-ltcc", "data=/shared/a b", NODES=nodes)
    assert status == 0, output
    started = job.starts()
    assert set(started) == set(nodes.split())
    assert next(iter(started)) == "n1", "the others could not join it yet"
    port = re.search(r"--port=(\d+)", started["n1"])
    assert port is not None
    for name, options in started.items():
        assert ("--head" in options) == (name == "n1")
        assert (f"--address=127.0.0.1:{port[1]}" in options) == (name != "n1")
        assert "--num-cpus=3" in options
        assert job.position(f"ray {name} start") < job.position("driver start") < job.position(f"ray {name} TERM")
    [line] = [line for line in job.log() if line.startswith("driver start")]
    assert line.startswith("driver start -m orchestration train cal-ltcc data=/shared/a b --run-file ")
    assert not [line for line in job.log() if line.startswith("scontrol")]


def test_the_token_is_the_jobs_own(job: Job) -> None:
    tokens = []
    for _ in range(2):
        assert job.run("train", "cal-ltcc", RAY_AUTH_TOKEN="of another cluster", RAY_ADDRESS="10.0.0.9:1")[0] == 0
        tokens.append({line.split()[-1] for line in job.log() if " token token " in line or " ray at " in line})
        (job.state / "log").unlink()
    assert all(len(found) == 1 for found in tokens), "all nodes and the driver have the same"
    assert tokens[0] != tokens[1]
    assert all(re.fullmatch("[0-9a-f]{64}", min(found)) for found in tokens)


def test_two_jobs_of_one_user_share_neither_port_nor_folder(job: Job) -> None:
    seen: list[set[str]] = []
    first = int(job.environment["SLURM_JOB_ID"])
    for number in (first, first + 1, first + 2):
        assert job.run("runs", "list", SLURM_JOB_ID=str(number), NODES="n1 n2")[0] == 0
        for options in job.starts().values():
            # 0: the kernel chooses. The other ports have to be this job's own.
            assert {"--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"} <= set(
                options.split()
            )
        ports = set(re.findall(r"port=(\d{2,})", job.starts()["n1"]))
        assert len(ports) == 3
        assert all(20_000 <= int(port) < 32_768 for port in ports), "neither Ray's workers' nor the kernel's choice"
        seen.append(ports | set(re.findall(r"--temp-dir=(\S+)", job.starts()["n1"])))
        (job.state / "log").unlink()
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_every_option_of_ray_start_exists(job: Job) -> None:
    from ray.scripts.scripts import start

    assert job.run("runs", "list")[0] == 0
    known = {option for parameter in start.params for option in parameter.opts}
    for options in job.starts().values():
        words = options.split()
        assert words.pop(0) == "start"
        assert {word.partition("=")[0] for word in words} <= known


@pytest.mark.parametrize("status", [0, 1, 2, 130, 137, 143])
def test_the_drivers_status_is_the_jobs_and_143_alone_requeues(job: Job, status: int) -> None:
    found, output = job.run("train", "cal-ltcc", DRIVER=str(status))
    assert found == status, output
    requeued = [line for line in job.log() if line.startswith("scontrol")]
    assert requeued == (["scontrol requeue " + job.environment["SLURM_JOB_ID"]] if status == 143 else [])
    if requeued:
        assert job.position("scontrol") > max(job.position(f"ray {name} TERM") for name in ("n1", "n2", "n3"))


def test_a_cancelled_job_is_not_requeued(job: Job) -> None:
    assert job.run("train", "cal-ltcc", DRIVER="143", JOB_STATE="COMPLETING")[0] == 143
    assert not [line for line in job.log() if line.startswith("scontrol")]


def test_a_job_that_cannot_be_requeued_says_how_to_go_on(job: Job) -> None:
    status, output = job.run("train", "cal-ltcc", DRIVER="143", SCONTROL_STATUS="1")
    assert status == 143
    assert re.search(r"could not be requeued\. Submit it again with --run-file \S+\.run", output)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_driver_alone_and_ray_lives_until_it_has_saved(
    job: Job, number: signal.Signals, status: int
) -> None:
    process = job.start("train", "cal-ltcc", DRIVER="runs")
    job.wait_until("driver runs")
    process.send_signal(number)
    assert job.end(process)[0] == status
    assert job.position(f"driver {number.name}") < job.position("driver saved")
    for name in ("n1", "n2", "n3"):
        assert job.position("driver saved") < job.position(f"ray {name} TERM")
    assert any(line.startswith("scontrol requeue") for line in job.log()) == (number == signal.SIGTERM)


def test_the_next_start_of_the_job_continues_the_run(job: Job) -> None:
    for begun in (False, True):
        process = job.start("train", "cal-ltcc", DRIVER="runs", SLURM_RESTART_COUNT=str(int(begun)))
        job.wait_until("driver runs")
        process.terminate()
        assert job.end(process)[0] == 143
        assert ("driver continues /runs/1" if begun else "driver begins") in job.log()
        (job.state / "log").unlink()


@pytest.mark.parametrize(
    "words",
    [
        ["train", "cal-ltcc", "--resume", "x"], ["train", "--resume=x"], ["train", "cal-ltcc", "--run-file", "y"],
        ["tune", "cal"], ["evaluate", "x"],
    ],
)  # fmt: skip
def test_a_command_that_names_its_run_or_has_none_is_given_as_it_is(job: Job, words: list[str]) -> None:
    assert job.run(*words, NODES="n1")[0] == 0
    assert f"driver start -m orchestration {' '.join(words)}" in job.log()


def test_a_node_that_does_not_come_is_named_and_nothing_is_started(job: Job) -> None:
    status, output = job.run("train", "cal-ltcc", LATE="n2", REDRESS_NODES_WAIT_S="2")
    assert status == 1
    assert re.search(r"2 of 3 nodes have joined Ray at 127\.0\.0\.1:\d+; missing: n2\. Gave up after 2 s", output)
    assert not [line for line in job.log() if line.startswith(("driver", "scontrol"))]


def test_a_ray_that_ends_at_once_is_not_waited_for(job: Job) -> None:
    status, output = job.run("train", "cal-ltcc", FAILS="n1", NODES="n1", REDRESS_NODES_WAIT_S="1000")
    assert status == 1
    assert "ray: this port is taken" in output
    assert re.search(r"missing: n1\. A step that holds Ray ended", output)


def test_sigterm_while_nodes_are_awaited_ends_and_requeues_the_job(job: Job) -> None:
    process = job.start("train", "cal-ltcc", LATE="n2", REDRESS_NODES_WAIT_S="1000")
    job.wait_until("ray n2 token token " + next(iter(tokens(job))))
    process.terminate()
    assert job.end(process)[0] == 143
    assert any(line.startswith("scontrol requeue") for line in job.log())
    assert not [line for line in job.log() if line.startswith("driver")]


def tokens(job: Job) -> set[str]:
    """The token, once all three nodes have it."""
    until = time.monotonic() + LIMIT_S
    while len(found := re.findall(r"token token (\S+)", "\n".join(job.log()))) < 3:
        assert time.monotonic() < until, job.log()
        time.sleep(0.05)
    return set(found)


def test_different_accelerators_are_refused_unless_they_are_asked_for(job: Job) -> None:
    kinds = {"GPU_n1": "A100", "GPU_n2": "A100", "GPU_n3": "H100"}
    status, output = job.run("train", "cal-ltcc", **kinds)
    assert status == 1
    assert "the nodes have different accelerators: A100, H100." in output
    assert job.run("train", "cal-ltcc", **kinds, REDRESS_MIXED_ACCELERATORS="1")[0] == 0


def test_the_first_nodes_address_is_none_of_the_loopback(job: Job) -> None:
    del job.environment["REDRESS_HEAD_ADDRESS"]
    status, output = job.run("runs", "list", GETENT="127.0.1.1 127.0.0.1")
    assert status == 2
    assert "n1 has no address that other nodes reach. Set REDRESS_HEAD_ADDRESS" in output
    assert job.run("runs", "list", GETENT="127.0.1.1 0.0.0.0")[0] == 0
    assert "--node-ip-address=0.0.0.0" in job.starts()["n1"]


def test_bad_requests_are_refused_before_anything_starts(job: Job, tmp_path: Path) -> None:
    for words, environment, told in (
        ((), {}, "no command"),
        (("train", "x"), {"SLURM_SUBMIT_DIR": str(tmp_path)}, "is no checkout of redress"),
    ):
        status, output = job.run(*words, **environment)
        assert status == 2
        assert told in output
    assert job.log() == []


def test_addresses_and_keys_come_from_the_users_file(job: Job) -> None:
    (job.folder / "home" / ".redress.env").write_text("REDRESS_HEAD_ADDRESS=127.0.0.2\n")
    assert job.run("runs", "list")[0] == 0
    assert "--node-ip-address=127.0.0.2" in job.starts()["n1"]


def test_the_steps_cover_all_nodes_once_with_all_their_processors(job: Job) -> None:
    assert job.run("runs", "list", SLURM_CPUS_PER_TASK="16")[0] == 0
    steps = [line.split() for line in job.log() if line.startswith("srun --")]
    assert sorted("".join(re.findall(r"nodelist=(\S+)", " ".join(step))) for step in steps) == ["n1", "n2,n3"]
    for step, count in zip(sorted(steps, key=len), (1, 2), strict=True):
        assert {"--overlap", "--export=ALL", "--cpu-bind=none", "--kill-on-bad-exit=0", "--cpus-per-task=16"} <= set(
            step
        )
        assert any(f"--nodes={count}" in one and f"--ntasks={count}" in one for one in map(set, steps))


def test_the_scripts_never_end_what_is_not_theirs() -> None:
    for file in SLURM.iterdir():
        code = re.sub(r"^\s*#.*$", "", file.read_text(), flags=re.MULTILINE)
        assert not re.search(r"ray stop|pkill|killall|symmetric-run", code), file.name


def test_bash_reads_the_scripts() -> None:
    for name in ("redress.sbatch", "node.sh"):
        assert subprocess.run(["bash", "-n", SLURM / name]).returncode == 0


# The waiting alone


@pytest.fixture(scope="module")
def waiting() -> dict[str, Any]:
    return runpy.run_path(str(SLURM / "wait_for_nodes.py"))


def test_dead_and_unasked_nodes_do_not_count(waiting: dict[str, Any]) -> None:
    missing_of: Callable[..., list[str]] = waiting["missing_of"]
    found = [{"NodeName": "a", "Alive": True}, {"NodeName": "b", "Alive": False}, {"NodeName": "z", "Alive": True}]
    assert missing_of(["c", "a", "b"], found) == ["c", "b"]
    assert missing_of(["a"], found) == []


def test_nodes_without_accelerators_may_stand_beside_those_with_one(waiting: dict[str, Any]) -> None:
    nodes = [{"Resources": {"CPU": 4}}, {"Resources": {"accelerator_type:A100": 1, "GPU": 4}}]
    waiting["check_accelerators"](nodes)
    with pytest.raises(waiting["NodesMissingError"], match="A100, L4"):
        waiting["check_accelerators"]([*nodes, {"Resources": {"accelerator_type:L4": 1}}])
