"""The batch that a gateway replica is filling, and the row of the traffic log that a request becomes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from serving.experiments.arms import ArmStats
from serving.experiments.events import Batch, Event, Judged
from serving.seams.observe import Arm, Feedback, Record


@dataclass
class Filling:
    """A `Batch` that is still open."""

    gateway: str
    number: int = 0
    since_ms: int = 0
    arms: tuple[Arm, ...] = ()
    events: list[Event] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    inputs: list[Mapping[str, str]] = field(default_factory=list)
    stats: dict[str, ArmStats] = field(default_factory=dict)
    said: list[Feedback] = field(default_factory=list)

    def closed(self) -> Batch:
        """The batch as it is."""
        return Batch(self.gateway, self.number, self.arms, self.since_ms, self.events, self.judged, self.inputs,
                     self.stats, self.said)  # fmt: skip

    def following(self) -> Filling:
        """The next one, empty."""
        return Filling(self.gateway, self.number + 1, self.since_ms, self.arms)


def row(record: Record, experiment: str | None, unit: str) -> dict[str, Any]:
    """The request as a row of the traffic log (`cluster.schema` "traffic"); `unit` is a salted hash already.

    Where the teacher answered, its answer stands in `teacher_answer`, too.
    """
    item, answer = record.item, record.answer
    return {
        "request_id": record.request_id, "at": record.at_ms, "unit": unit, "experiment": experiment,
        "arm": record.arm, "model": record.model, "version": record.version,
        "prompt": item.get("text"), "images": list(item["images"]) if item.get("images") else None,
        "audio": item.get("audio"), "frames": list(item["frames"]) if item.get("frames") else None,
        "fps": item.get("fps"),
        "answer": answer.text if answer else None, "confidence": answer.confidence if answer else None,
        "fell_back": record.fell_back, "reason": record.reason or (None if answer else record.outcome),
        "latency_ms": record.latency_ms, "teacher_answer": answer.text if answer and record.fell_back else None,
    }  # fmt: skip


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
