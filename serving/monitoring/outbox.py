"""Batches of one gateway that the monitor has not written down yet: it may die, and then asks for them again."""

from __future__ import annotations

from dataclasses import replace

from serving.experiments.events import Batch
from serving.monitoring.monitor import Reply

KEPT = 60  # batches, one a second; the monitor writes down what it knows more often (`monitor.SAVE_S`)


class Outbox:
    """First in, first out, and back again to where the monitor says; pure."""

    def __init__(self) -> None:
        self._kept: list[Batch] = []
        self._next = 0

    def put(self, batch: Batch) -> None:
        """Keep one more; beyond KEPT the oldest goes."""
        self._kept = [*self._kept, batch][-KEPT:]

    def next(self) -> Batch | None:
        """The batch to send now, None where the monitor has all."""
        left = [one for one in self._kept if one.number >= self._next]
        return replace(left[0], oldest=self._kept[0].number) if left else None

    def heard(self, reply: Reply) -> None:
        """Go on where the monitor says, which is further back after it has died; what is written down can go."""
        self._next = reply.awaits
        self._kept = [one for one in self._kept if one.number > reply.saved]
