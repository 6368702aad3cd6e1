"""What is said of trials between searcher, ledger and prior; nothing of Ray or Optuna is needed to say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tuning.space import Point

KINDS = ("tpe", "motpe", "random")
DIRECTIONS: Mapping[str, Literal["maximize", "minimize"]] = {
    "quality": "maximize",
    "latency_ms": "minimize",
    "bytes": "minimize",
}


@dataclass(frozen=True)
class Ended:
    """A trial that ended: its point, and its objectives, or where it was stopped (progress, agreement), or neither
    where it failed."""

    point: Point
    objectives: Mapping[str, float] | None = None
    stopped: tuple[int, float] | None = None


@dataclass
class Notes:
    """What the driver writes down as it happens; each is called in the driver's thread."""

    started: Callable[[str, Point], None] = lambda trial_id, point: None
    ended: Callable[[str, Ended, Mapping[str, Any]], None] = lambda trial_id, ended, result: None


@dataclass(frozen=True)
class Asked:
    """What a searcher is made of: how it draws, what it optimises, and what is tried before it draws itself."""

    kind: str
    objectives: Sequence[str]
    seed: int = 0
    startup: int = 8
    first: Sequence[Point] = ()
    known: Sequence[Ended] = field(default_factory=tuple)
