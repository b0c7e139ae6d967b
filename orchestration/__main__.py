"""`python -m orchestration …`, which is also what `redress …` runs."""

import os
import signal
import sys


def run() -> int:
    """With --json, stdout carries one object. What others print there (Ray, MLflow, workers) goes to stderr.

    So the descriptor is moved before these are imported.
    """
    json_descriptor = None
    if "--json" in sys.argv:
        json_descriptor = os.dup(1)
        os.dup2(2, 1)
    from orchestration import lost_cluster
    from orchestration.cli.main import main
    from orchestration.numerics import PORTABLE, OtherNumericsError
    from orchestration.signals import interrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        status = main(sys.argv[1:], json_descriptor)
        lost_cluster.leave(status)
        return status
    except OtherNumericsError:  # nothing was started: begin anew, with the variables in place before torch loads
        os.environ.update(PORTABLE)
        if json_descriptor is not None:
            os.dup2(json_descriptor, 1)
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # our `datasets`, not a library's
    # A spawned process imports its parent's main module again, unless this says that it is a package's. Else it would
    # run the launcher, and with it the command.
    sys.modules["__main__"].__spec__ = __spec__
    sys.exit(run())
