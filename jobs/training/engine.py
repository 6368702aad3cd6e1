"""DeepSpeed ZeRO behind a few verbs: forward, step, save, load (also for another number of workers), consolidate.

On a CPU the optimizer is torch's fused AdamW and the shared-memory op is off, so nothing is compiled at start. Fused,
clip and step over 4.7 million parameters take 12 ms instead of 54, over 22.6 million 52 instead of 199 (one core).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cluster.errors import StepFailed
from cluster.recipe import EngineSection, Stage
from jobs.training import recompute, universal

TAG = "ds"
LINEAR = torch.nn.functional.linear  # torch's own, before DeepSpeed comes
ABOUT = "engine.json"  # of a checkpoint: ZeRO stage and number of workers


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


def zero_stage(section: EngineSection) -> int:
    """The recipe's ZeRO stage; unless it says one, 0 for a single worker (1 and 2 only cost there) and 1 above.

    By the workers that were asked for, never by those there are: a checkpoint is of one stage for all its life.
    """
    if section.zero_stage is not None:
        return section.zero_stage
    alone = section.workers == 1 and section.precision == "fp32" and not section.offload_optimizer
    return 0 if alone else 1


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


def apart(
    module: nn.Module, groups: Mapping[float, list[nn.Parameter]], stage: Stage
) -> list[tuple[float, bool, list[nn.Parameter]]]:
    """(factor, thaws later, parameters) of every group, split where a stage's `freeze` ends within it.

    A rate of 0 is what freezes: ZeRO's partitions cannot take a parameter in later, and AdamW's decay is times the rate
    too, so nothing moves (its moments do follow the gradients).
    """
    prefixes = tuple(stage.freeze) if stage.thaw_share < 1 else ()
    named = module.named_parameters()
    later = {id(one) for name, one in named if prefixes and name.removeprefix("network.").startswith(prefixes)}
    parts = []
    for factor, own in groups.items():
        for thaws in (False, True):
            parts.append((factor, thaws, [one for one in own if (id(one) in later) == thaws]))
    return [part for part in parts if part[2]]


class Engine:
    """One stage's DeepSpeed engine around a module."""

    def __init__(self, module: nn.Module, section: EngineSection, stage: Stage, batch: int, world: int) -> None:
        deepspeed = _deepspeed()
        self.world, self.zero, self.bf16 = world, zero_stage(section), section.precision == "bf16"
        own = max(1, batch // world)
        self.pieces_of_step = 1 if section.micro_batch is None else -(-own // section.micro_batch)
        config = {
            "train_micro_batch_size_per_gpu": max(1, own // self.pieces_of_step),
            "gradient_accumulation_steps": self.pieces_of_step,
            "gradient_clipping": section.gradient_clip,
            "steps_per_print": 10**9,
            "zero_optimization": {"stage": self.zero} | _offloaded(section),
            "bf16": {"enabled": self.bf16},
            "optimizer": {"type": "AdamW", "params": _adam(section, stage)},
        }
        if section.activation_checkpointing:
            recompute.enable(module)
        groups = apart(module, grouped(module, stage.rate_factors), stage)
        self.factors = [(factor, later) for factor, later, _ in groups]
        parameters = [{"params": own} for *_, own in groups]
        self.engine, self.optimizer, *_ = deepspeed.initialize(model=module, model_parameters=parameters, config=config)
        self.alone = world == 1 and self.zero == 0
        if self.alone:  # it would copy all gradients, average them over one rank and copy them back: 9 ms of 80
            self.engine.enable_backward_allreduce = False
        self.rate = stage.learning_rate

    def set_rate(self, rate: float, thawed: bool = True) -> None:
        """Set the learning rate of the coming step, for every group times its factor; 0 for what thaws later, until
        it is `thawed`."""
        self.rate = rate
        for group, (factor, later) in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor if thawed or not later else 0.0

    def on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A batch on this worker's device, every value in its own type: losses read targets and teacher from it."""
        return {name: value.to(self.engine.device) for name, value in batch.items()}

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        """The module's outputs for a batch moved to this worker's device (floats in the training precision)."""
        return self.engine({name: self._place(value) for name, value in batch.items()})

    def pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """This rank's rows of a step in micro batches: as many on every rank, of nearly one size."""
        return np.array_split(rows, self.pieces_of_step)

    def step(self, loss: Tensor, look: bool = False) -> float | None:
        """Backward; after the last micro batch of a step also clip and optimizer step.

        Returns the gradient's norm (L2 over all ranks, before clipping) where `look` asks for it and the step is whole.
        """
        self.engine.backward(loss, scale_wrt_gas=False)
        whole = self.engine.is_gradient_accumulation_boundary()
        if self.alone and whole:
            for parameter in self.engine.module.parameters():
                if parameter.requires_grad and parameter.grad is None:  # as the averaging leaves them: AdamW decays all
                    parameter.grad = torch.zeros_like(parameter)
        norm = self._norm() if look and whole and not self.zero and not self.bf16 else None
        self.engine.step()
        if look and whole and norm is None:
            norm = float(self.engine.get_global_grad_norm())
        return norm

    def _norm(self) -> float:
        """DeepSpeed keeps none at stage 0 in fp32; its parameters' gradients are whole there, and averaged."""
        gradients = [one.grad for one in self.engine.module.parameters() if one.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

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
        if rank == 0:
            (folder / ABOUT).write_text(json.dumps({"zero": self.zero, "world": self.world}))

    def load(self, folder: Path, rank: int) -> None:
        """Take up engine and generator states, also those of another number of workers.

        A rank that the checkpoint does not know keeps the seed it started its stage with. Raises StepFailed when the
        folder holds no engine state, or one of another ZeRO stage.
        """
        about = json.loads((folder / ABOUT).read_text())
        if about["zero"] != self.zero:
            raise StepFailed(
                "training", f"checkpoint {folder} is of ZeRO stage {about['zero']}, this run of {self.zero}",
                "set engine.zero_stage as it was, or delete the run's scratch folder",
            )  # fmt: skip
        tag = TAG
        if self.zero and about["world"] != self.world:
            tag = universal.converted(folder, TAG)
            self.engine._config.load_universal_checkpoint = True  # read when it loads; the checkpoint decides, not we
        loaded, _ = self.engine.load_checkpoint(str(folder), tag=tag)
        self.engine._config.load_universal_checkpoint = False
        if loaded is None:
            what = f"checkpoint {folder} holds no engine state"
            raise StepFailed("training", what, "delete the run's scratch folder")
        if (folder / f"rng_{rank}.pt").is_file():
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
        # ZeRO 3 leaves its own linear in torch for good, which no tracer can follow.
        torch.nn.functional.linear = LINEAR

    def _place(self, value: Tensor) -> Tensor:
        dtype = torch.bfloat16 if self.bf16 and value.is_floating_point() else value.dtype
        return value.to(self.engine.device, dtype)


def _adam(section: EngineSection, stage: Stage) -> dict[str, Any]:
    """AdamW's parameters, and which one DeepSpeed takes: torch's fused one on a CPU, its own where it is offloaded."""
    adam: dict[str, Any] = {"lr": stage.learning_rate, "weight_decay": stage.weight_decay, "betas": [0.9, 0.98]}
    here = not torch.cuda.is_available() and not section.offload_optimizer
    return adam | {"torch_adam": True, "fused": True} if here else adam


def _offloaded(section: EngineSection) -> dict[str, Any]:
    return {"offload_optimizer": {"device": "cpu"}} if section.offload_optimizer else {}


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """While this is open an import of the package fails, unless it was imported before."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _deepspeed() -> Any:
    """DeepSpeed with a process group to live in: Ray Train's, or one of this process alone (no port, no network)."""
    import torch.distributed as dist

    with _hidden("mlflow"):  # its autotuner's, which no one runs here: 2 s of the 2.5 that the import takes
        import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a C++ build at the first collective
    if not dist.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")
        store = torch._C._distributed_c10d.HashStore()
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    return deepspeed
