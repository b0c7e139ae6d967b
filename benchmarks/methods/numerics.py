"""What portable numbers cost on this processor, and the digits that they have.

    python -m benchmarks.methods.numerics [--json]

A step of `baseline-demo`'s network (64 images of 96×48, one thread) in CPU time, and of ResNet-50 at 256×128 (8 images).
Processes take turns: native, and held to AVX2 as `numerics: portable` holds them. The median of three counts. The last lines
are the digests of the trained weights, which other processors print as well if portable.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.report import options, show
from methods.baseline import Baseline, BaselineSettings
from methods.method import Batch, DataFacts
from orchestration.numerics import PORTABLE

NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int, int, int]]] = {
    "demo": ({"backbone": "resnet18", "width": 0.375}, (64, 3, 96, 48)),
    "ResNet-50": ({"backbone": "resnet50"}, (8, 3, 256, 128)),
}
STEPS, ROUNDS = 8, 3
TARGETS = {"demo: portable against native, CPU time": ("<=", 2.0)}  # it is for small runs


def step_of(name: str) -> dict[str, Any]:
    settings, shape = NETWORKS[name]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    method = Baseline(BaselineSettings(**settings), DataFacts(32, torch.zeros(0, dtype=torch.int64)))
    method.begin_epoch(0)
    optimizer = torch.optim.Adam(method.parameters(), 1e-3, fused=True)
    person = torch.arange(shape[0]) % 32
    seconds = []
    for _ in range(STEPS):
        batch = Batch(torch.randn(shape, generator=random), person, person)
        began = time.process_time()
        for update in method.updates(batch):
            optimizer.zero_grad()
            update.loss.backward()
            optimizer.step()
        seconds.append(time.process_time() - began)
    weights = b"".join(p.detach().numpy().tobytes() for p in method.parameters())
    return {"ms": 1000 * statistics.median(seconds[2:]), "digest": hashlib.sha256(weights).hexdigest()[:16]}


def in_child(name: str, variables: dict[str, str]) -> dict[str, Any]:
    native = {key: value for key, value in os.environ.items() if key not in PORTABLE}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.methods.numerics", "--child", name],
        env=native | variables, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(step_of(args.child)))
        return
    results: dict[str, float] = {}
    digests = []
    for name in NETWORKS:
        turns = [(in_child(name, {}), in_child(name, PORTABLE)) for _ in range(ROUNDS)]
        native, portable = (statistics.median(turn[at]["ms"] for turn in turns) for at in (0, 1))
        results |= {
            f"{name}: native, ms a step": native,
            f"{name}: portable, ms a step": portable,
            f"{name}: portable against native, CPU time": portable / native,
        }
        digests.append(f"{name}: native {turns[0][0]['digest']}, portable {turns[0][1]['digest']}")
    show(results, TARGETS, as_json=args.json)
    if not args.json:
        print("\n".join(digests))


if __name__ == "__main__":
    main()
