"""`python -m orchestration …`, which is also what `redress …` runs."""

import os
import sys
from multiprocessing import parent_process


def run() -> int:
    """With --json, stdout is for the one object: what anything else prints there (Ray, MLflow, workers) goes to stderr.

    So the descriptor is moved before those are imported.
    """
    answer = None
    if "--json" in sys.argv:
        answer = os.dup(1)
        os.dup2(2, 1)
    from orchestration.cli import main

    return main(sys.argv[1:], answer)


# A process spawned by ours runs this file again, for what it defines.
if __name__ == "__main__" and parent_process() is None:
    sys.exit(run())
