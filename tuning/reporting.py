"""Where a trial's training lives: in this process, with every checkpoint also told to the search.

It is the third runner of `jobs.training.loop.train` and knows the loop only by its `Io`: what the student agrees with
is measured on the weights that the checkpoint holds.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs import tasks
from jobs.training import table
from jobs.training.loop import Job
from jobs.training.runner import LocalIo
from jobs.training.sampler import plan_of
from jobs.training.table import Columns

# Told: share of the trial's steps that are done (0 to 1) and agreement with the teacher (0 to 1). May not return.
Tell = Callable[[float, float], None]


class TrialIo(LocalIo):
    """Checkpoints below `root` as `LocalIo` keeps them; `tell` hears of each what its weights are worth."""

    def __init__(self, root: Path, job: Job, exam: Columns, tell: Tell) -> None:
        """exam: packed rows with the teacher's answers as targets."""
        super().__init__(root)
        self.task, self.exam, self.tell = tasks.of(job.recipe), exam, tell
        self.steps = steps_of(job)

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        """See `LocalIo.report`."""
        super().report(metrics, folder)
        done = sum(self.steps[: metrics["stage"]]) + metrics["step"]
        with undisturbed():
            measured = self.task.evaluate(self.task.load(str(folder / "hf")), self.exam)
        self.tell(min(1.0, done / sum(self.steps)), next(iter(measured.values())))


def steps_of(job: Job) -> Sequence[int]:
    """Optimizer steps of every stage, as the loop will plan them."""
    columns, slices = table.read(Path(job.table)), tasks.of(job.recipe).slices
    return [len(plan_of(stage, columns, slices, job.batch_size, job.seed)) for stage in job.stages]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the generators as they were: a training that is looked at stays the training that it would have been."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
