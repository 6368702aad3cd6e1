"""The training curve for other tools: MLflow's tracking database and TensorBoard's event files, written by a thread.

The loop only puts figures into a queue. A run that is resumed goes on in the same MLflow run and the same folder;
points between its last checkpoint and its end are written twice, with the same values.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.registry import Registry
from jobs.training.health import Where

log = logging.getLogger(__name__)
BATCH = 200  # figures of one call to MLflow
CLOSING_S = 60.0  # how long the end of a training waits for what is not written yet


@dataclass(frozen=True)
class Target:
    """Where a training's curve goes: which tools, the store's folder, MLflow's address, and the names."""

    tools: tuple[str, ...]
    workspace: str
    tracking_uri: str | None
    recipe: str
    run: str
    arm: str

    @property
    def events(self) -> Path:
        """Folder of the event files: `tensorboard --logdir STORE/logs` shows all runs."""
        return Path(self.workspace) / "logs" / self.run / self.arm


@dataclass(frozen=True)
class Point:
    """Figures of one step, by name: `stage/what`."""

    step: int
    at_s: float
    values: Mapping[str, float]


class Curves:
    """Takes points from the loop and hands them to the tools; what a tool refuses is said once and ends its part."""

    def __init__(self, target: Target | None) -> None:
        """target: None for a training that is not logged."""
        self._queue: queue.Queue[Point | None] = queue.Queue()
        self._thread = None
        if target is not None:
            self._thread = threading.Thread(target=self._work, args=(target,), name="curves", daemon=True)
            self._thread.start()

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Note figures of a step; returns at once."""
        if self._thread is not None:
            self._queue.put(Point(step, time.time(), dict(values)))

    def close(self) -> None:
        """Write what is left and end the thread."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(CLOSING_S)
        if self._thread.is_alive():
            log.warning("the training's curve is not fully written after %.0f s; it is left so", CLOSING_S)

    def _work(self, target: Target) -> None:
        writers: dict[str, Write] = {}
        for tool in target.tools:
            with _told(tool):
                writers[tool] = TOOLS[tool](target)
        more = True
        while more:
            points, more = self._next()
            for tool, write in list(writers.items()):
                del writers[tool]
                with _told(tool):
                    write(points, more)
                    writers[tool] = write

    def _next(self) -> tuple[list[Point], bool]:
        """All points that are waiting, at least one; False at the end."""
        points = [self._queue.get()]
        while not self._queue.empty():
            points.append(self._queue.get())
        return [point for point in points if point is not None], None not in points


@contextlib.contextmanager
def _told(tool: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a tool of others raises, a training does not end because of it
        log.warning("no more curve to %s: %s", tool, error)


Write = Callable[[list[Point], bool], None]


def to_mlflow(target: Target) -> Write:
    """A writer into the run of this training, found again by its tags: experiment by recipe, run by run and arm."""
    from mlflow.entities import Metric

    registry = Registry.beside(Path(target.workspace), target.tracking_uri)
    with registry.session() as client:
        run = _mlflow_run(client, target)

    def write(points: list[Point], more: bool) -> None:
        figures = [
            Metric(name, value, int(point.at_s * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        with registry.session() as client:
            for start in range(0, len(figures), BATCH):
                client.log_batch(run, metrics=figures[start : start + BATCH])
            if not more:
                client.set_terminated(run)

    return write


def _mlflow_run(client: Any, target: Target) -> str:
    found = client.get_experiment_by_name(target.recipe)
    experiment = client.create_experiment(target.recipe) if found is None else found.experiment_id
    tags = {"raydistill.run": target.run, "raydistill.arm": target.arm}
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    known = client.search_runs([experiment], wanted, max_results=1)
    if known:
        return str(known[0].info.run_id)
    return str(client.create_run(experiment, tags=tags, run_name=f"{target.run} {target.arm}").info.run_id)


def to_tensorboard(target: Target) -> Write:
    """A writer of event files in `target.events`."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(target.events))

    def write(points: list[Point], more: bool) -> None:
        for point in points:
            for name, value in point.values.items():
                writer.add_scalar(name, value, point.step, walltime=point.at_s)
        writer.flush()
        if not more:
            writer.close()

    return write


TOOLS: dict[str, Callable[[Target], Write]] = {"mlflow": to_mlflow, "tensorboard": to_tensorboard}


def figures(where: Where, shares: Sequence[float], norm: float | None) -> dict[str, float]:
    """A point's figures by name: losses, realised shares, rate and gradient norm of the stage."""
    named = {f"loss/{name}": value for name, value in where.terms.items()}
    named |= {f"share/{name}": share for name, share in zip(where.terms, shares, strict=True)}
    named |= {"loss": sum(where.terms.values()), "rate": where.rate}
    if norm is not None:
        named["gradient_norm"] = norm
    return {f"{where.stage}/{name}": value for name, value in named.items()}
