"""Whether a training still makes sense: gradients that explode or vanish, losses that are no numbers, no memory.

What is found ends the run with a status and a diagnosis: what a worker raises is tried again, and would fail
again.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.recipe import EngineSection

LOOKS = 3  # looks in a row beyond a limit: one bad batch is no trend
CGROUP = Path("/sys/fs/cgroup")
# What to do about it, by status.
ADVICE = {
    "diverged": "lower the stage's learning_rate or engine.gradient_clip, or look for rows with extreme targets",
    "exploding": "lower the stage's learning_rate, raise warmup_share or set engine.gradient_clip; the limit is "
    "engine.gradient_max",
    "vanishing": "raise the stage's learning_rate or the weights of its losses, thaw layers, or end the stage earlier; "
    "the limit is engine.gradient_min",
    "paused": "jobs watch RECIPE --once repairs the model; then the same command goes on from the checkpoint",
    "out_of_memory": "lower batch_size or set engine.micro_batch, or engine.activation_checkpointing=true",
}


class Stopped(Exception):
    """A training that must not go on; caught inside `train`, which ends with `status` and `reason`."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Where:
    """Where a training stands: stage and step, the loss terms by name, and the learning rate."""

    stage: str
    step: int
    terms: Mapping[str, float]
    rate: float

    def told(self, what: str) -> str:
        """One paragraph: where, what, and the figures."""
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items())
        return f"{self.stage}, step {self.step}: {what} (loss terms: {terms}; learning rate {self.rate:.3g})"

    def line(self, steps: int, shares: Sequence[float]) -> dict[str, Any]:
        """What `jobs.progress` shows: position, loss, and every term with its realised share."""
        terms = {name: [value, share] for (name, value), share in zip(self.terms.items(), shares, strict=True)}
        position = {"stage": self.stage, "step": self.step, "steps": steps}
        return {**position, "loss": sum(self.terms.values()), "terms": terms}


def refuse_not_finite(where: Where) -> None:
    """Raise Stopped("diverged") when a loss term is NaN or infinite."""
    values = list(where.terms.values())
    if not all(math.isfinite(value) for value in values):
        raise Stopped("diverged", where.told(f"losses {values} are not finite"))


class Pulse:
    """Watches the gradient's norm (L2, before clipping) at the looks it is given."""

    def __init__(self, section: EngineSection) -> None:
        self.largest, self.least = section.gradient_max, section.gradient_min
        self.high, self.low = 0, 0

    def look(self, norm: float, where: Where) -> None:
        """Take one norm. Raises Stopped: not finite at once, beyond a limit after LOOKS looks in a row."""
        if not math.isfinite(norm):
            raise Stopped("diverged", where.told(f"the gradient's norm is {norm}"))
        self.high = self.high + 1 if self.largest is not None and norm > self.largest else 0
        self.low = self.low + 1 if self.least is not None and norm < self.least and any(where.terms.values()) else 0
        if self.high >= LOOKS:
            raise Stopped("exploding", where.told(f"the gradient explodes: norm {norm:.3g} above {self.largest:g}"))
        if self.low >= LOOKS:
            raise Stopped("vanishing", where.told(f"the gradient vanishes: norm {norm:.3g} below {self.least:g}"))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ended: Python's, CUDA's, or torch's allocator on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def kernel_kills(root: Path = CGROUP) -> int:
    """How many processes of this control group the kernel has killed for memory (count); 0 where it does not say."""
    for name, key in (("memory.events", "oom_kill"), ("memory/memory.oom_control", "oom_kill")):
        path = root / name
        if path.is_file():
            for line in path.read_text().splitlines():
                word, _, count = line.partition(" ")
                if word == key:
                    return int(count)
    return 0


def death_by_memory(failure: BaseException, kills_before: int) -> str | None:
    """What is known of workers that died for memory, else None: Ray's monitor says so, the kernel only counts."""
    if "NODE_OUT_OF_MEMORY" in str(failure) or "running low on memory" in str(failure):
        return "Ray's memory monitor ended a worker: its node was nearly out of memory"
    if kernel_kills() > kills_before:
        return "the kernel ended a process of this container for memory"
    return None


def note_of(table: str) -> Path:
    """The file beside a training's table that tells the next attempt of a group to stop."""
    return Path(table).with_suffix(".stopped")


class Memory:
    """Turns the end of memory in a training into a status, whoever notices it."""

    def __init__(self, note: Path, world: int) -> None:
        """note: a file that all ranks see, for what one rank alone has to tell the next attempt of the group."""
        self.note, self.world = note, world

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Raise Stopped("out_of_memory") for what runs out of memory inside.

        Beside other ranks, which would wait for this one for ever, the error itself goes on and ends the group; the
        note is what its next attempt stops at.
        """
        if self.note.is_file():
            raise Stopped(**json.loads(self.note.read_text()))
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            reason = f"no memory left: {error}"
            if self.world == 1:
                raise Stopped("out_of_memory", reason) from error
            self.note.write_text(json.dumps({"status": "out_of_memory", "reason": reason}))
            raise
