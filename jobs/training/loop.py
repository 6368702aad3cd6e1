"""One training function for the teacher's fit, the student's stages and its control arm, under two runners.

`train(io, job)` runs in this process or as a Ray Train worker; nothing in it knows which. Every checkpoint folder holds
the engine's state, the generators' states and `state.json`, so a run killed anywhere goes on at the exact step; the
checkpoint that ends a stage also holds `hf/`, the weights as a Hugging Face folder, and hands on only those.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cluster.recipe import EngineSection, Recipe, Stage
from jobs import tasks
from jobs.training import table
from jobs.training.engine import Engine, schedule_at
from jobs.training.losses import LOSSES, Signals
from jobs.training.sampler import bucketed, order, steps_of
from jobs.training.state import Progress, StageResult
from jobs.training.terms import Active, terms_at
from jobs.training.weighting import Balance

log = logging.getLogger(__name__)
LOG_EVERY = 20  # steps between points of the training curve


class Io(Protocol):
    """What the loop needs of its runner. `report` is a barrier: every rank calls it the same number of times."""

    rank: int
    world: int

    def scratch(self) -> Path:
        """A new folder for one checkpoint."""

    def last_checkpoint(self) -> Path | None:
        """The newest complete checkpoint, or None."""

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        """Make `folder` the newest checkpoint."""


@dataclass(frozen=True)
class Job:
    """One training run: `initial` weights (HF folder), packed `table` and `validation` files, and the stages."""

    recipe: Recipe
    arm: str
    initial: str
    table: str
    validation: str
    stages: tuple[Stage, ...]
    batch_size: int
    engine: EngineSection
    teacher_hidden: int = 0


class Distiller(nn.Module):
    """A network and the linear adapter that lifts its hidden state to the teacher's width; the network is saved."""

    def __init__(self, task: tasks.Task, network: nn.Module, adapter: nn.Linear | None) -> None:
        super().__init__()
        self.task, self.network, self.adapter = task, network, adapter

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits [Q, V], hidden states [Q, W] and, where a stage has adapters, these as [Q, teacher H]."""
        logits_QV, hidden_QW = self.task.scored(self.network, batch)
        return logits_QV, hidden_QW, None if self.adapter is None else self.adapter(hidden_QW)


class Diverged(Exception):
    """A loss that is not finite; caught inside `train`, which ends with a status (what is raised would be retried)."""


def train(io: Io, job: Job) -> dict[str, Any]:
    """Run all stages that are not done; returns the final `Progress` as a dict.

    `status` is "done" or "diverged" (NaN or infinity: the last good checkpoint stays and `reason` says where).
    """
    torch.set_num_threads(job.engine.threads)
    run = _Run(io, job)
    if run.progress.status != "running":
        return run.progress.as_dict()
    try:
        for index in range(run.progress.stage, len(job.stages)):
            run.stage(index)
    except Diverged as error:
        run.progress.status, run.progress.reason = "diverged", str(error)
        log.error("training stopped: %s", error)
    return run.progress.as_dict()


class _Run:
    """A run in the making: the network, its data, where it stands, and the checkpoint it was resumed from, if any."""

    def __init__(self, io: Io, job: Job) -> None:
        self.io, self.job, self.task = io, job, tasks.of(job.recipe)
        self.columns, self.validation = table.read(Path(job.table)), table.read(Path(job.validation))
        self.progress, self.resumed = Progress.restore(io.last_checkpoint())
        self.network = self.task.load(str(self.resumed / "hf") if self.resumed else job.initial)
        self.start: dict[str, Tensor] | None = None
        self.counts_V = None
        if "target" in self.columns:
            self.counts_V = torch.from_numpy(np.bincount(self.columns["target"]))

    def stage(self, index: int) -> None:
        """Train one stage from where the progress says and report its closing checkpoint."""
        stage, progress = self.job.stages[index], self.progress
        if stage.kv_heads is not None:
            self.network = self.task.merge_kv(self.network, stage.kv_heads)
        self.start = self._start_weights(index)
        if not progress.step:
            progress.before = self.task.evaluate(self.network, self.validation)
        _seed(self.job.recipe.seed + index)
        model = Distiller(self.task, self.network, self._adapter(stage)).train()  # loading leaves dropout off
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(stage.freeze)))
        engine = Engine(model, self.job.engine, stage, self.job.batch_size, self.io.world)
        if self.resumed is not None and progress.step:
            engine.load(self.resumed, self.io.rank)
        self.resumed = None
        self._steps(engine, index, stage)
        after = self.task.evaluate(self.network, self.validation)
        rows, batch = table.rows(self.columns), self.job.batch_size
        epochs = steps_of(stage, rows, batch) * batch / rows
        progress.close(StageResult(stage.name, epochs, progress.seconds, progress.shares, progress.before, after))
        if progress.stage == len(self.job.stages):
            progress.status = "done"
        self._checkpoint(engine)
        engine.close()

    def _adapter(self, stage: Stage) -> nn.Linear | None:
        return nn.Linear(self.task.hidden_size(self.network), self.job.teacher_hidden) if stage.adapters else None

    def _start_weights(self, index: int) -> dict[str, Tensor] | None:
        """Weights before the first stage, heads merged as in this one: read again, so that a resumed run has them."""
        stages = self.job.stages[: index + 1]
        if not any("start_weights" in LOSSES[term.name].needs for term in stages[-1].losses):
            return None
        network = self.task.load(self.job.initial)
        for heads in (stage.kv_heads for stage in stages if stage.kv_heads is not None):
            network = self.task.merge_kv(network, heads)
        return {name: parameter.detach() for name, parameter in network.named_parameters()}

    def _steps(self, engine: Engine, index: int, stage: Stage) -> None:
        progress = self.progress
        names = self.task.slices
        seed = self.job.recipe.seed * 1000 + index
        plan = order(stage, self.columns["slice"], names, self.job.batch_size, seed)
        if "length" in self.columns:
            plan = bucketed(plan, self.columns["length"], seed)
        active = terms_at(stage.losses, 0, len(plan))
        balance = Balance([t.weight for t in active], progress.means, [t.loss.absolute for t in active])
        started = time.perf_counter() - progress.seconds
        for step in range(progress.step, len(plan)):
            engine.set_rate(schedule_at(stage, step, len(plan)))
            active = terms_at(stage.losses, step, len(plan))
            balance.weigh([term.weight for term in active])
            value = self._step(engine, active, plan[step], balance)
            if step % LOG_EVERY == 0 or step == len(plan) - 1:
                progress.point(stage.name, step, value, engine.rate, balance.shares)
                self._show(stage.name, step, len(plan), value)
            progress.step, progress.means = step + 1, balance.means.tolist()
            progress.seconds = time.perf_counter() - started
            if (step + 1) % self.job.engine.checkpoint_every == 0 and step + 1 < len(plan):
                self._checkpoint(engine)
        progress.shares = dict(zip([t.name for t in stage.losses], balance.mean_shares, strict=True))

    def _step(self, engine: Engine, active: list[Active], rows: np.ndarray, balance: Balance) -> float:
        mine = rows[self.io.rank :: self.io.world]
        batch = engine.on_device(self.task.batch(self.columns, mine))
        signals = self._signals(engine.forward(batch), batch)
        results = [term.value(signals) for term in active]
        # A rank's mean is over its own positions; this share makes the average over ranks the mean over all of them.
        share = len(batch["targets"]) * self.io.world / self.task.positions(self.columns, rows)
        terms = [term if own is None else term * (engine.share(own) / share) for term, own in results]
        values = engine.average(torch.stack([term.detach() for term in terms]) * share)
        if not bool(torch.isfinite(values).all()):
            stage = self.job.stages[self.progress.stage].name
            raise Diverged(f"{stage}, step {self.progress.step}: losses {values.tolist()} are not finite")
        engine.step(balance(terms, values) * share)
        return float(values.sum())

    def _signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        logits_QV, features_QW, hidden_QH = outputs
        start, named = self.start, self.network.named_parameters()
        pairs = start and tuple((value, start[name].to(value.device)) for name, value in named if value.requires_grad)
        return Signals(
            logits_QV,
            batch["targets"],
            batch.get("teacher_logits"),
            hidden_QH,
            batch.get("teacher_hidden"),
            student_features_QW=features_QW,
            start_weights=pairs or None,
            target_counts_V=None if self.counts_V is None else self.counts_V.to(logits_QV.device),
        )

    def _show(self, stage: str, step: int, steps: int, loss: float) -> None:
        """Leave a line for whoever watches; a reader that finds half of it tries again."""
        if self.io.rank == 0:
            seen = {"stage": stage, "step": step, "steps": steps, "loss": loss}
            Path(self.job.table).with_suffix(".progress").write_text(json.dumps(seen))

    def _checkpoint(self, engine: Engine) -> None:
        folder = self.io.scratch()
        engine.save(folder, self.io.rank)
        engine.consolidate(lambda: self.task.save(self.network, folder / "hf"), self.io.rank)
        if self.io.rank == 0:
            (folder / "state.json").write_text(json.dumps(self.progress.as_dict()))
        metrics = {"stage": self.progress.stage, "step": self.progress.step}
        self.io.report(metrics, folder)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
