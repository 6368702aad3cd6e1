"""Asks the teacher what it would have said, after the user has the answer: a few requests at once, never in the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from serving.bundle.answer import Answer
from serving.seams.observe import Ask, Record

log = logging.getLogger(__name__)

TEACHER = "teacher"
WAIT_S = 30.0


@dataclass(frozen=True)
class Compared:
    """A request that the teacher was asked, too: `arm` gave `own`, in the shadow where `shadow` is true."""

    record: Record
    arm: str
    own: Answer
    taught: Answer
    teacher_ms: float
    shadow: bool


class Shadows:
    """A bounded queue and `concurrency` workers; what finds the queue full is dropped, and `dropped` is told."""

    def __init__(self, ask: Ask, size: int, concurrency: int, told: Callable[[Compared | None], None]) -> None:
        """`told` gets every comparison, None for one that failed; it is called on the event loop."""
        self._ask, self._concurrency, self._told = ask, concurrency, told
        self._queue: asyncio.Queue[tuple[Record, str | None]] = asyncio.Queue(size)
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, on the running loop."""
        self._workers = [_task(self._work()) for _ in range(self._concurrency)]

    def put(self, record: Record, shadow_arm: str | None) -> bool:
        """Compare the arm's own answer, or, where `shadow_arm` is given, that one's; False when the queue is full."""
        try:
            self._queue.put_nowait((record, shadow_arm))
        except asyncio.QueueFull:
            return False
        return True

    async def drained(self) -> None:
        """Return when nothing waits; for tests."""
        await self._queue.join()

    def stop(self) -> None:
        """End at once; what waits is not asked."""
        for worker in self._workers:
            worker.cancel()

    async def _work(self) -> None:
        while True:
            record, shadow_arm = await self._queue.get()
            try:
                async with asyncio.timeout(WAIT_S):
                    self._told(await self._compare(record, shadow_arm))
            except Exception as error:  # noqa: BLE001 - whatever a model raises: nobody waits for this answer
                log.info("a shadow failed: %r", error)
                self._told(None)
            finally:
                self._queue.task_done()

    async def _compare(self, record: Record, shadow_arm: str | None) -> Compared:
        own = record.student
        if shadow_arm is not None:
            own = await self._ask(shadow_arm, record.item)
        assert own is not None, "only requests with an answer of the arm are compared"
        began = time.perf_counter()
        taught = await self._ask(TEACHER, record.item)
        took_ms = (time.perf_counter() - began) * 1000
        return Compared(record, shadow_arm or record.arm, own, taught, took_ms, shadow_arm is not None)


def _task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)
