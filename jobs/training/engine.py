"""DeepSpeed ZeRO behind a few verbs: forward, step, save, load, consolidate.

On a CPU the optimizer is torch's fused AdamW and the shared-memory op is off, so nothing is compiled at start. Fused,
clip and step over 4.7 million parameters take 12 ms instead of 54, over 22.6 million 52 instead of 199 (one core).
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import StepFailed
from cluster.recipe import EngineSection, Stage

TAG = "ds"


def schedule_at(stage: Stage, step: int, steps: int) -> float:
    """Learning rate of one step: linear warm-up over `warmup_share`, then the stage's shape, most of them to zero."""
    warm = max(1, int(stage.warmup_share * steps))
    if step < warm and stage.warmup_share > 0:
        return stage.learning_rate * (step + 1) / warm
    left = (steps - step) / max(1, steps - warm)
    shape = {
        "constant": 1.0,
        "linear": left,
        "cosine": 0.5 * (1 - math.cos(math.pi * left)),
        "one_cycle": 0.5 * (1 - math.cos(math.pi * left)),
        "step": math.pow(stage.step_factor, step * stage.epochs // (steps * stage.step_epochs)),
    }
    return stage.learning_rate * shape[stage.schedule]


def zero_stage(section: EngineSection, world: int) -> int:
    """The recipe's ZeRO stage; unless it says one, 0 for a single worker (1 and 2 only cost there) and 1 above."""
    if section.zero_stage is not None:
        return section.zero_stage
    return 0 if world == 1 and section.precision == "fp32" else 1


def grouped(module: nn.Module, factors: Mapping[str, float]) -> dict[float, list[nn.Parameter]]:
    """Factor on the learning rate -> the parameters that learn with it: the longest prefix in `factors` that fits a
    parameter's name within the network decides, 1 where none does."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            fitting = [prefix for prefix in factors if name.removeprefix("network.").startswith(prefix)]
            factor = factors[max(fitting, key=len)] if fitting else 1.0
            groups.setdefault(factor, []).append(parameter)
    return groups


class Engine:
    """One stage's DeepSpeed engine around a module."""

    def __init__(self, module: nn.Module, section: EngineSection, stage: Stage, batch: int, world: int) -> None:
        deepspeed = _deepspeed()
        self.world, self.zero, self.bf16 = world, zero_stage(section, world), section.precision == "bf16"
        cuda = torch.cuda.is_available()
        adam = {"lr": stage.learning_rate, "weight_decay": stage.weight_decay, "betas": [0.9, 0.98]}
        config = {
            "train_micro_batch_size_per_gpu": max(1, batch // world),
            "gradient_accumulation_steps": 1,
            "gradient_clipping": section.gradient_clip,
            "steps_per_print": 10**9,
            "zero_optimization": {"stage": self.zero},
            "bf16": {"enabled": self.bf16},
            "optimizer": {"type": "AdamW", "params": adam if cuda else adam | {"torch_adam": True, "fused": True}},
        }
        groups = grouped(module, stage.rate_factors)
        self.factors = list(groups)
        parameters = [{"params": own} for own in groups.values()]
        self.engine, self.optimizer, *_ = deepspeed.initialize(model=module, model_parameters=parameters, config=config)
        self.rate = stage.learning_rate

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the coming step, for every group times its factor."""
        self.rate = rate
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor

    def on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch on this worker's device, every value in its own type: losses read targets and teacher from it."""
        return {name: value.to(self.engine.device) for name, value in batch.items()}

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        """The module's outputs for a batch moved to this worker's device (floats in the training precision)."""
        return self.engine({name: self._place(value) for name, value in batch.items()})

    def step(self, loss: Tensor) -> None:
        """Backward, clip, optimizer step."""
        self.engine.backward(loss)
        self.engine.step()

    def average(self, values: Tensor) -> Tensor:
        """The mean of `values` over all ranks."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
            values = values / self.world
        return values

    def share(self, own: Tensor) -> Tensor:
        """This rank's amount over the mean of all ranks' amounts; 1 for a single worker, 0 where nobody has any."""
        return own / self.average(own.clone()).clamp_min(1e-12)

    def save(self, folder: Path, rank: int) -> None:
        """Write engine and generator states into `folder`; every rank calls it."""
        self.engine.save_checkpoint(str(folder), tag=TAG)
        states = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()}
        torch.save(states, folder / f"rng_{rank}.pt")

    def load(self, folder: Path, rank: int) -> None:
        """Take up engine and generator states. Raises StepFailed when the folder holds none for this world size."""
        tag, _ = self.engine.load_checkpoint(str(folder), tag=TAG)
        if tag is None:
            raise StepFailed("distill", f"checkpoint {folder} holds no engine state", "delete the run's scratch folder")
        states = torch.load(folder / f"rng_{rank}.pt", weights_only=False)
        torch.set_rng_state(states["torch"])
        np.random.set_state(states["numpy"])
        random.setstate(states["python"])

    def consolidate(self, write: Callable[[], None], rank: int) -> None:
        """Call `write` on rank 0 with whole parameters (ZeRO 3 gathers them; every rank takes part)."""
        import deepspeed

        parameters = list(self.engine.module.parameters())
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=None, enabled=self.zero == 3):
            if rank == 0:
                write()

    def close(self) -> None:
        """Free the engine; the module goes on with its weights."""
        self.engine.destroy()

    def _place(self, value: Tensor) -> Tensor:
        dtype = torch.bfloat16 if self.bf16 and value.is_floating_point() else value.dtype
        return value.to(self.engine.device, dtype)


def _deepspeed() -> Any:
    """DeepSpeed with a process group to live in: Ray Train's, or one of this process alone (no port, no network)."""
    import deepspeed
    import torch.distributed as dist

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a C++ build at the first collective
    if not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")
        store = torch._C._distributed_c10d.HashStore()
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    return deepspeed
