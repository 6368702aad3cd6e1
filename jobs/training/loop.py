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
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from cluster.recipe import EngineSection, Recipe, Stage
from cluster.store import Store
from jobs import tasks
from jobs.quantize import aware
from jobs.training import curves, halting, health, on_policy, table, words
from jobs.training.accumulate import Seen, Update
from jobs.training.distiller import Distiller
from jobs.training.engine import Engine, schedule_at
from jobs.training.feeding import Feed, start_weights
from jobs.training.rows import Shown, held
from jobs.training.sampler import plan_of, pool_of
from jobs.training.stages.keeping import Keeper
from jobs.training.stages.meeting import Sides, adapters_of, arrange
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

    def stream(self, plan: np.ndarray, uri: str) -> Iterator[pa.Table]:
        """What `streamed.fetch` gives for each step of a plan, in its order."""


@dataclass(frozen=True)
class Job:
    """One training run: `initial` weights (HF folder), packed `table` and `validation` files, and the stages.

    `teacher` is its folder, opened only for a stage that runs it beside the student. `rows_at` is where rows are
    streamed from, then `table` is their index (`jobs.training.streamed`).
    """

    recipe: Recipe
    arm: str
    initial: str
    table: str
    validation: str
    stages: tuple[Stage, ...]
    batch_size: int
    engine: EngineSection
    teacher_hidden: int = 0
    teacher: str | None = None
    curve_to: curves.Target | None = None
    own_seed: int | None = None
    rows_at: str | None = None
    store: Store | None = None  # where a pause of the model is looked for; None: nowhere

    @property
    def seed(self) -> int:
        """Seed of the order of rows and of dropout: its own, else the recipe's."""
        return self.recipe.seed if self.own_seed is None else self.own_seed


def train(io: Io, job: Job) -> dict[str, Any]:
    """Run all stages that are not done; returns the final `Progress` as a dict.

    `status` is "done" or one of `jobs.training.health.ADVICE`: then `reason` is the diagnosis, and the last good
    checkpoint stays. (What is raised would be tried again.)
    """
    torch.set_num_threads(job.engine.threads)
    run = _Run(io, job)
    if run.progress.status != "running":
        return run.progress.as_dict()
    try:
        with health.Memory(health.note_of(job.table), io.world)():
            for index in range(run.progress.stage, len(job.stages)):
                run.stage(index)
    except health.Stopped as error:
        run.progress.status, run.progress.reason = error.status, error.reason
        log.error("training stopped: %s: %s", error.status, error.reason)
    finally:
        run.curve.close()
    return run.progress.as_dict()


class _Run:
    """A run in the making: the network, its data, where it stands, and the checkpoint it was resumed from, if any."""

    def __init__(self, io: Io, job: Job) -> None:
        self.io, self.job, self.task = io, job, tasks.trained(job.recipe, Path(job.initial))
        self.held = held(Path(job.table), job.rows_at, io.stream)
        self.validation = table.read(Path(job.validation))
        self.progress, self.resumed = Progress.restore(io.last_checkpoint())
        self.network = self.task.load(str(self.resumed / "hf") if self.resumed else job.initial)
        self.written: Mapping[str, Tensor] | None = None
        self.shown: Shown = ({}, np.arange(0))  # this rank's rows of the step
        self.pulse = health.Pulse(job.engine)
        self.curve = curves.Curves(job.curve_to if io.rank == 0 else None)
        self.counts_V = None
        if "target" in self.held.index:
            self.counts_V = torch.from_numpy(np.bincount(self.held.index["target"]))

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher's network; it never learns. Asked for by stages that run it beside the student."""
        assert self.job.teacher is not None
        return self.task.load(self.job.teacher).eval().requires_grad_(False)

    def stage(self, index: int) -> None:
        """Train one stage from where the progress says and report its closing checkpoint."""
        stage, progress = words.resolved(self.job.stages[index], self.task), self.progress
        if stage.kv_heads is not None:
            self.network = self.task.merge_kv(self.network, stage.kv_heads)
        if not progress.step:
            progress.before = self.task.evaluate(self.network, self.validation)
            progress.metric = next(iter(progress.before.values()))
        start = start_weights(self.task, self.job.initial, self.job.stages[: index + 1])
        keeper = Keeper(stage, self.network, progress, self.resumed if progress.step else None)
        sides = self._sides(stage)
        meeting = arrange(stage, sides, progress.layers)
        progress.layers = [list(pair) for pair in meeting.pairs]
        self.feed = Feed(self.task, self.network, meeting, sides.teacher)
        self.feed.start, self.feed.counts_V = start, self.counts_V
        _seed(self.job.seed + index)
        adapters = adapters_of(stage, sides, meeting, self.job.teacher_hidden)
        with aware.quantized(self.network, self.job.recipe.export if stage.quantize else None):
            engine = self._engine(Distiller(self.task, self.network, adapters, meeting.own), stage)
            seed = self.job.seed * 1000 + index
            plan = plan_of(stage, self.held.index, self.task.slices, self.job.batch_size, seed)
            self._steps(engine, plan, stage, keeper)
        self._close(engine, stage, keeper, stopped=progress.step < len(plan))

    def _engine(self, model: nn.Module, stage: Stage) -> Engine:
        """The stage's engine around the model, where the checkpoint left it; what thaws later is in it at once."""
        model.train()  # loading leaves dropout off
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(stage.thaw_share < 1 or not name.startswith(tuple(stage.freeze)))
        engine = Engine(model, self.job.engine, stage, self.job.batch_size, self.io.world)
        if self.resumed is not None and self.progress.step:
            engine.load(self.resumed, self.io.rank)
        self.resumed = None
        return engine

    def _sides(self, stage: Stage) -> Sides:
        kept = self.job.recipe.generate.kept_layers
        return Sides(self.task, self.network, self.teacher if stage.live_teacher else None, self.held, kept)

    def _close(self, engine: Engine, stage: Stage, keeper: Keeper, stopped: bool) -> None:
        """Settle which weights go on, note what the stage did, and report its closing checkpoint."""
        progress = self.progress
        keeper.take_best()
        after = self.task.evaluate(self.network, self.validation)
        self.curve.point(progress.step, {f"{stage.name}/validation/{name}": value for name, value in after.items()})
        kept = keeper.undo_unless_better(progress.before, after)
        progress.close(
            StageResult(
                stage.name,
                progress.step * self.job.batch_size / len(pool_of(stage, self.held.index, self.task.slices)),
                progress.seconds,
                progress.shares,
                progress.before,
                after,
                steps=progress.step,
                stopped=stopped,
                kept=kept,
                layers=progress.layers,
            )
        )
        if progress.stage == len(self.job.stages):
            progress.status = "done"
        self._checkpoint(engine)
        engine.close()

    def _steps(self, engine: Engine, plan: np.ndarray, stage: Stage, keeper: Keeper) -> None:
        progress, steps, every = self.progress, len(plan), self.job.engine.checkpoint_every
        active = terms_at(stage.losses, 0, steps, progress.metric)
        balance = Balance([t.weight for t in active], progress.means, [t.loss.absolute for t in active])
        started = time.perf_counter() - progress.seconds
        with closing(self.held.steps(plan[progress.step :, self.io.rank :: self.io.world])) as shown:
            for step, self.shown in zip(range(progress.step, steps), shown, strict=True):
                engine.set_rate(schedule_at(stage, step, steps), thawed=step >= stage.thaw_share * steps)
                active = terms_at(stage.losses, step, steps, progress.metric)
                balance.weigh([term.weight for term in active])
                point = step % LOG_EVERY == 0 or step == steps - 1
                look = point or (step + 1) % every == 0  # what a checkpoint holds was looked at
                where, norm = self._step(engine, active, plan[step], balance, look)
                if norm is not None:
                    self.pulse.look(norm, where)
                if point:
                    progress.point(stage.name, step, sum(where.terms.values()), engine.rate, balance.shares)
                    self._show(where, steps, balance.shares, norm)
                progress.step, progress.means = step + 1, balance.means.tolist()
                progress.seconds = time.perf_counter() - started
                if stage.evaluate_every and (step + 1) % stage.evaluate_every == 0 and self._no_more(keeper):
                    break
                if (step + 1) % every == 0 and step + 1 < steps:
                    self._checkpoint(engine, keeper)
        progress.shares = dict(zip([t.name for t in stage.losses], balance.mean_shares, strict=True))

    def _no_more(self, keeper: Keeper) -> bool:
        """Measure on validation rows: whether the stage ends here."""
        metrics = self.task.evaluate(self.network, self.validation)
        return keeper.ends(next(iter(metrics.values())))

    def _step(
        self, engine: Engine, active: list[Active], rows: np.ndarray, balance: Balance, look: bool
    ) -> tuple[health.Where, float | None]:
        """Train on one step's rows; where that was, and the gradient's norm where it was looked at."""
        stage, seen = self.job.stages[self.progress.stage], []

        def judge(values: Tensor) -> None:
            terms = dict(zip([term.name for term in stage.losses], values.tolist(), strict=True))
            seen.append(health.Where(stage.name, self.progress.step, terms, engine.rate))
            health.refuse_not_finite(seen[0])

        self.written = self._write(rows[self.io.rank :: self.io.world])
        update = Update(engine, lambda part: self._terms(engine, active, part), self._positions(engine, rows), balance)
        norm = update(engine.pieces(self.shown[1]), judge, look)
        return seen[0], norm

    def _write(self, rows: np.ndarray) -> Mapping[str, Tensor] | None:
        """In an on-policy step the batch that the student writes after these rows' beginnings, else None."""
        progress = self.progress
        draw = on_policy.drawn(self.job.stages[progress.stage], self.job.seed, progress.stage, progress.step)
        if draw is None:
            return None
        assert isinstance(self.task, on_policy.Generative)
        columns, places = self.shown
        return self.task.on_policy(
            self.network, self.teacher, columns, places, replace(draw, rows=tuple(rows.tolist()))
        )

    def _positions(self, engine: Engine, rows: np.ndarray) -> float:
        """Scored positions of a step over all ranks, `rows` being those of all."""
        if self.written is None:
            return self.task.positions(self.held.index, rows)
        own = torch.tensor(float(len(self.written["targets"])))
        return float(engine.average(own)) * self.io.world

    def _terms(self, engine: Engine, active: list[Active], places: np.ndarray) -> Seen:
        """Every term of these of the step's rows with what its positions count, and how many positions there are."""
        batch = engine.on_device(self.task.batch(self.shown[0], places) if self.written is None else self.written)
        signals = self.feed.signals(engine.forward(batch), batch)
        return [term.value(signals) for term in active], len(batch["targets"])

    def _show(self, where: health.Where, steps: int, shares: list[float], norm: float | None) -> None:
        """Leave a line for whoever watches; a reader that finds half of it tries again."""
        if self.io.rank == 0:
            Path(self.job.table).with_suffix(".progress").write_text(json.dumps(where.line(steps, shares)))
            self.curve.point(where.step, curves.figures(where, shares, norm))

    def _checkpoint(self, engine: Engine, keeper: Keeper | None = None) -> None:
        """Report where the run stands; `keeper`: in the middle of a stage."""
        folder = self.io.scratch()
        engine.save(folder, self.io.rank)
        engine.consolidate(lambda: self.task.save(self.network, folder / "hf"), self.io.rank)
        if self.io.rank == 0:
            (folder / "state.json").write_text(json.dumps(self.progress.as_dict()))
            if keeper is not None:
                keeper.save(folder)
        metrics = {"stage": self.progress.stage, "step": self.progress.step}
        self.io.report(metrics, folder)
        halting.refuse_paused(self.job.store, self.job.recipe, self.io.rank, self.io.world)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
