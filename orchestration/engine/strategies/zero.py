"""ZeRO (Rajbhandari et al., SC 2020) by DeepSpeed: each worker holds a part of the optimizers' states; stage 2: of gradients.

Only holding is DeepSpeed's. Its engine never sees the method: it gets parameters, a torch optimizer and a loss.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer

from methods.method import Method, MethodError
from methods.sharded.share import parts_of
from orchestration.engine.loop import LR_FACTOR
from orchestration.engine.strategies.data_parallel import DataParallel
from orchestration.engine.strategies.strategy import FullState, OptimizerStates, state_name

EVERY = 1 << 60  # steps between reports that nobody wants
BUCKET = 64 << 20  # numbers
States = dict[str, dict[str, Tensor]]  # parameter → its state by key


class ZeRO(DataParallel):
    """Optimizer states in equal parts over the workers; stage 2: gradients as well. Float32 weights, whole on each worker.

    An optimizer has an engine over exactly the parameters that its update reaches, because a flat partition steps everything
    in it: without a gradient, weight decay and old momenta would still move a parameter. Where another stage reaches others,
    the engine is built anew and states are carried over. Parameters that took different numbers of steps are in groups of
    their own, because a partition has one step counter.
    """

    def __init__(self, stage: Literal[1, 2], *, offload: bool = False) -> None:
        super().__init__()
        self.name = f"zero-{stage}"
        self.stage, self.offload = stage, offload
        self.engines: dict[str, Any] = {}
        self.names: dict[str, list[str]] = {}  # by optimizer: the parameters of its engine

    def prepare(self, method: Method, optimizers: dict[str, Optimizer]) -> None:
        if divided := parts_of(method):
            raise MethodError(
                f"zero takes {next(iter(divided))}, whose rows are divided over workers, for the same on all of them: "
                "set strategy.name to data-parallel or fsdp"
            )
        self.method, self.optimizers = method, optimizers
        self.owned = method.parameters_of()
        self.templates = {name: [dict(group) for group in one.param_groups] for name, one in optimizers.items()}
        self.states: dict[str, States] = {name: {} for name in optimizers}  # of parameters outside the engines

    def load_optimizers(self, states: OptimizerStates) -> None:
        for (name, parameter), state in states.items():
            self.states[name][parameter] = dict(state)

    def backward(self, optimizer: str, loss: Tensor) -> None:
        ends = leaves(loss)
        reached = [(name, p) for name, p in self.owned[optimizer] if p in ends]
        if self.names.get(optimizer) != [name for name, _ in reached]:
            self.release(optimizer)
            self.hold(optimizer, reached)
        self.engines[optimizer].backward(loss)

    def gradient_norm(self, optimizer: str) -> Tensor:
        norm = torch.as_tensor(self.engines[optimizer].optimizer.scaled_global_norm())
        return torch.where(norm < 0, torch.nan, norm)  # DeepSpeed's −1 stands for inf and NaN

    def step(self, optimizer: str) -> None:
        self.engines[optimizer].step()

    def full_state(self) -> FullState:
        tensors: dict[str, Tensor] = {}
        for name in self.optimizers:
            for parameter, state in {**self.states[name], **self.gathered(name)}.items():
                tensors |= {state_name(name, parameter, key): value for key, value in state.items()}
        return FullState(self.method.state_dict(), tensors) if self.rank == 0 else FullState({}, {})

    def hold(self, name: str, parameters: list[tuple[str, Parameter]]) -> None:
        """Build the optimizer's engine over these parameters, with the states that they had."""
        optimizer, states = self.optimizers[name], self.states[name]
        groups = self.groups(name, parameters)
        optimizer.param_groups = [{**options, "params": [p for _, p in members]} for options, members in groups]
        optimizer.state.clear()
        self.engines[name] = build_engine(optimizer, [p for _, p in parameters], self.stage, offload=self.offload)
        self.names[name] = [parameter for parameter, _ in parameters]
        for index, (_, members) in enumerate(groups):
            self.fill(
                name, index, {parameter: states.pop(parameter) for parameter, _ in members if parameter in states}
            )

    def groups(
        self, name: str, parameters: list[tuple[str, Parameter]]
    ) -> list[tuple[dict[str, Any], list[tuple[str, Parameter]]]]:
        """(settings, parameters) of each group: one for each template of the optimizer and number of steps taken."""
        rates = {group.get(LR_FACTOR, 1.0): group["lr"] for group in self.optimizers[name].param_groups}
        found: dict[tuple[int, float], list[tuple[str, Parameter]]] = {}
        for index, template in enumerate(self.templates[name]):
            for parameter_name, parameter in parameters:
                if any(parameter is one for one in template["params"]):
                    taken = float(self.states[name].get(parameter_name, {}).get("step", torch.zeros(())))
                    found.setdefault((index, taken), []).append((parameter_name, parameter))
        groups = []
        for (index, _), members in found.items():
            options = {key: value for key, value in self.templates[name][index].items() if key != "params"}
            factor = options.get(LR_FACTOR, 1.0)
            rate = rates[factor] if factor in rates else next(lr / of * factor for of, lr in rates.items())
            groups.append((options | {"lr": rate}, members))
        return groups

    def fill(self, name: str, group: int, states: States) -> None:
        """Give this worker's partition of a group its part of whole states."""
        zero, optimizer = self.engines[name].optimizer, self.optimizers[name]
        part, own = zero.single_partition_of_fp32_groups[group], {}
        for key in sorted({key for state in states.values() for key in state}):
            if key == "step":
                own[key] = next(iter(states.values()))[key].clone()
                continue
            flat = part.new_zeros(part.numel() * self.workers)
            for parameter, offset, shape in self.places(name, group):
                if parameter in states:
                    flat[offset : offset + shape.numel()] = states[parameter][key].to(flat).flatten()
            own[key] = flat.chunk(self.workers)[self.rank].clone()
        if own:
            optimizer.state[part] = own

    def places(self, name: str, group: int) -> list[tuple[str, int, torch.Size]]:
        """(parameter, offset, shape) of what a flat group holds."""
        zero = self.engines[name].optimizer
        names = {id(p): n for n, p in self.owned[name]}
        members = zip(zero.bit16_groups[group], zero.round_robin_bit16_offsets[group], strict=True)
        return [(names[id(parameter)], offset, parameter.shape) for parameter, offset in members]

    def gathered(self, name: str) -> States:
        """The whole states of the parameters of an engine. Called on all workers together."""
        if name not in self.engines:
            return {}
        states: States = {parameter: {} for parameter in self.names[name]}
        for group, part in enumerate(self.engines[name].optimizer.single_partition_of_fp32_groups):
            for key, value in sorted(self.optimizers[name].state.get(part, {}).items()):
                if key != "step":
                    parts = [torch.empty_like(value) for _ in range(self.workers)]
                    dist.all_gather(parts, value.contiguous(), group=self.group)
                    value = torch.cat(parts)
                for parameter, offset, shape in self.places(name, group):
                    own = value.clone() if key == "step" else value[offset : offset + shape.numel()].view(shape)
                    states[parameter][key] = own
        return {parameter: state for parameter, state in states.items() if state}

    def release(self, name: str) -> None:
        """Take the states out of the optimizer's engine, and end it."""
        self.states[name] |= self.gathered(name)
        if engine := self.engines.pop(name, None):
            engine.destroy()


def leaves(loss: Tensor) -> set[Tensor]:
    """The parameters at which a backward pass from `loss` ends: those that would get a gradient."""
    found: set[Tensor] = set()
    seen: set[Any] = set()
    todo: list[Any] = [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (variable := getattr(node, "variable", None)) is not None:
            found.add(variable)
        todo += [following for following, _ in node.next_functions]
    return found


def build_engine(optimizer: Optimizer, parameters: Iterable[Parameter], stage: int, *, offload: bool) -> Any:
    deepspeed = import_deepspeed()
    engine, *_ = deepspeed.initialize(
        model=nn.ParameterList(parameters),
        optimizer=optimizer,
        config=settings(stage, offload),
        dist_init_required=False,
    )
    return engine


def settings(stage: int, offload: bool) -> Mapping[str, Any]:
    """DeepSpeed's, with every default that would change what is trained written out: it clips gradients otherwise."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "torch_autocast": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": EVERY,
        "wall_clock_breakdown": False,
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "reduce_scatter": True,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "round_robin_gradients": False,
            "offload_optimizer": {"device": "cpu" if offload else "none"},
        },
    }


def import_deepspeed() -> Any:
    """DeepSpeed, quiet, with nothing to compile. It looks for an accelerator, and prints, while it is imported."""
    has_gpu = torch.cuda.is_available()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if has_gpu else "cpu")
    os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device() if has_gpu else 0))  # Ray has set it
    with redirect_stdout(sys.stderr):
        import deepspeed
        import deepspeed.ops
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    return deepspeed
