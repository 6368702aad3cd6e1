"""What Ray Train and DeepSpeed cost per step over a bare PyTorch loop, inside one Ray Train worker with one thread.

The same network, rows and loss; steps alternate between the two, and which comes first too, so that both see the same
machine. A step of ours is all that the loop does for it: batch, forward, loss, backward, clip, AdamW, and what lies
between two steps.
"""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cluster.recipe import EngineSection, ResourcesSection, load
from jobs import tasks
from jobs.training import loop, table
from jobs.training.loop import Job

STEPS, WARM = 60, 12
# Rows of a step: from small ones, which are reported without a bar, to a few hundred milliseconds.
BATCHES = (8, 24, 64, 160)
BAR, FROM_MS = 1.10, {0: 30.0, 1: 60.0, 2: 60.0}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


class Bare:
    """The loop a reader of PyTorch's tutorial writes."""

    def __init__(self, task: tasks.Task, network: torch.nn.Module, rate: float) -> None:
        self.task, self.network = task, copy.deepcopy(network).train()
        own = self.network.parameters()
        self.adam = torch.optim.AdamW(own, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def step(self, columns: table.Columns, rows: np.ndarray) -> None:
        batch = self.task.batch(columns, rows)
        logits_QV, _ = self.task.scored(self.network, batch)
        F.cross_entropy(logits_QV, batch["targets"]).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


class Timed(loop._Run):
    """A run whose every step has a bare one before or after it."""

    def __init__(self, io: loop.Io, job: Job) -> None:
        super().__init__(io, job)
        self.bare = Bare(self.task, self.network, 1e-4)
        self.own_s: list[float] = []
        self.bare_s: list[float] = []
        self.mark = 0.0

    def _step(self, engine: Any, active: Any, rows: np.ndarray, *given: Any) -> Any:
        began = time.perf_counter()
        between = began - (self.mark or began)  # what the loop does from one step to the next
        first = len(self.own_s) % 2  # whoever comes second finds the rows in the cache
        if first:
            self.bare.step(self.held.index, rows)
        middle = time.perf_counter()
        done = super()._step(engine, active, rows, *given)
        ended = time.perf_counter()
        if not first:
            self.bare.step(self.held.index, rows)
        self.mark = time.perf_counter()
        self.own_s.append(ended - middle + between)
        self.bare_s.append(middle - began if first else self.mark - ended)
        return done


def worker(config: dict[str, Any]) -> None:
    """Time every job of a pickled list in this Ray Train worker and write the medians."""
    from jobs.training.runner import RayIo

    torch.set_num_threads(1)
    found = []
    with contextlib.ExitStack() as stack:
        for job in pickle.loads(Path(config["jobs"]).read_bytes()):
            io = RayIo(stack)
            io.report = lambda metrics, folder: None  # type: ignore[method-assign]
            run = Timed(io, job)
            run.stage(0)
            own, bare = (np.array(seconds[WARM:]) * 1000 for seconds in (run.own_s, run.bare_s))
            pair = {"zero": job.engine.zero_stage, "batch": job.batch_size, "steps": len(own)}
            found.append(pair | {"own_ms": float(np.median(own)), "bare_ms": float(np.median(bare)),
                                 "ratio": float(np.median(own / bare))})  # fmt: skip
    Path(config["out"]).write_text(json.dumps(found))


@pytest.fixture
def jobs_file(tmp_path: Path) -> Path:
    """Every batch size at ZeRO stages 0 to 2, on the digits recipe's own student."""
    recipe = load("digits", ["fit.samples=4096"])
    task = tasks.of(recipe)
    (tmp_path / "initial").mkdir()
    task.save(task.build(recipe.student, 0), tmp_path / "initial")
    table.write(tmp_path / "table.arrow", task.fit_columns())
    table.write(tmp_path / "validation.arrow", {k: v[:8] for k, v in task.validation_columns().items()})
    made = []
    for zero in FROM_MS:
        for batch in BATCHES:
            steps = {"epochs": STEPS * batch / 4096, "min_steps": 0, "curriculum": [], "learning_rate": 1e-4}
            stage = recipe.fit.stages[0].model_copy(update=steps)
            engine = EngineSection(zero_stage=zero, checkpoint_every=10**6)
            paths = {name: str(tmp_path / f"{name}.arrow") for name in ("table", "validation")}
            made.append(Job(recipe=recipe, arm="fit", initial=str(tmp_path / "initial"), **paths, stages=(stage,),
                            batch_size=batch, engine=engine))  # fmt: skip
    file = tmp_path / "jobs.pickle"
    file.write_bytes(pickle.dumps(made))
    return file


def test_ray_and_deepspeed_cost_little_over_a_bare_loop(
    jobs_file: Path, tmp_path: Path, ray_cluster: ResourcesSection, record: Callable[..., None]
) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    out = tmp_path / "found.json"
    TorchTrainer(
        worker,
        train_loop_config={"jobs": str(jobs_file), "out": str(out)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="engine", storage_path=str(tmp_path / "ray")),
    ).fit()
    for row in json.loads(out.read_text()):
        judged = row["bare_ms"] >= FROM_MS[row["zero"]]
        record(
            f"speed.engine_zero{row['zero']}_batch{row['batch']}",
            f"step through Ray Train and DeepSpeed ZeRO {row['zero']}, {row['batch']} rows",
            round(row["own_ms"], 2),
            "ms",
            peer="bare PyTorch loop",
            peer_value=round(row["bare_ms"], 2),
            bar=f"<= {BAR} of the bare step, from {FROM_MS[row['zero']]:.0f} ms on",
            passed=row["ratio"] <= BAR if judged else None,
            median_of_pair_ratios=round(row["ratio"], 4),
            steps=row["steps"],
        )
