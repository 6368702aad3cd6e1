"""Where a training run stands: what `state.json` of a checkpoint holds, and what the report shows of each stage."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class StageResult:
    """One finished stage: seconds of training, realised loss shares (sum 1), validation metrics before and after.

    `after` is what the stage reached, also where it was undone (`kept` false: the next one starts from `before`).
    `stopped`: it ended early. `layers`: which layer of the student met which of the teacher's.
    """

    name: str
    epochs: float
    seconds: float
    shares: dict[str, float]
    before: dict[str, float]
    after: dict[str, float]
    steps: int = 0
    stopped: bool = False
    kept: bool = True
    layers: list[list[int]] = field(default_factory=list)


@dataclass
class Progress:
    """Position (stage, step), the running means of the loss terms, and what was measured so far.

    Of the current stage: `metric`, the primary one on validation rows when last measured; `best` and how many
    measurements were `worse` since; `layers`, the pairs of its layer map.
    """

    stage: int = 0
    step: int = 0
    status: str = "running"
    reason: str = ""
    seconds: float = 0.0
    means: list[float] | None = None
    before: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    metric: float = 0.0
    best: float | None = None
    worse: int = 0
    layers: list[list[int]] = field(default_factory=list)
    stages: list[StageResult] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def restore(cls, checkpoint: Path | None) -> tuple[Progress, Path | None]:
        """The progress of a checkpoint folder and the folder itself, or a fresh start and None."""
        if checkpoint is None:
            return cls(), None
        values = json.loads((checkpoint / "state.json").read_text())
        values["stages"] = [StageResult(**stage) for stage in values["stages"]]
        return cls(**values), checkpoint

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready content."""
        return asdict(self)

    def close(self, result: StageResult) -> None:
        """End the current stage and stand at the start of the next."""
        self.stages.append(result)
        self.stage, self.step, self.seconds = self.stage + 1, 0, 0.0
        self.means, self.before, self.shares = None, {}, {}
        self.metric, self.best, self.worse, self.layers = 0.0, None, 0, []

    def point(self, stage: str, step: int, loss: float, rate: float, shares: list[float]) -> None:
        """Add one point to the training curve."""
        self.curve.append({"stage": stage, "step": step, "loss": loss, "rate": rate, "shares": shares})
