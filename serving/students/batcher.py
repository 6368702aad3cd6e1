"""Takes what is queued and never waits: rows of one length that came while the last batch was computed go together.

No timer, so a request alone is computed at once; no padding, so an answer is the same in any batch (the bundle says so:
`batch_invariant`). One batch at a time, in one thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from serving.seams.problems import Refusal

Row = TypeVar("Row")
Result = TypeVar("Result")
SMOOTHING = 0.1  # weight of the newest batch in the running time of a row


@dataclass(frozen=True)
class Limits:
    """Rows of a batch, rows that wait (count), and the longest expected wait (ms) before a row is refused."""

    batch_max: int
    queue_max: int
    queue_ms: float


@dataclass(frozen=True)
class _Waiting(Generic[Row, Result]):
    row: Row
    key: Hashable
    until: float  # of the loop's clock; nobody waits for it any longer
    done: asyncio.Future[Result]


class Batcher(Generic[Row, Result]):
    """Rows in, results out, by a function of many rows that runs in a thread."""

    def __init__(self, run: Callable[[Sequence[Row]], Sequence[Result | Exception]], limits: Limits) -> None:
        """`run` gives a result or an exception for each row; what it raises itself fails the whole batch."""
        self._run, self._limits = run, limits
        self._queue: deque[_Waiting[Row, Result]] = deque()
        self._thread = ThreadPoolExecutor(1, "student")
        self._busy = False
        self._done_at = 0.0  # when the batch that runs should be done, of time.perf_counter
        self._row_ms = 0.0  # running mean of what a row costs

    @property
    def waiting(self) -> int:
        """Rows that wait for their turn (count)."""
        return len(self._queue)

    async def submit(self, row: Row, key: Hashable, within_ms: float) -> Result:
        """The row's result; rows with equal `key` may share a batch.

        A row that is cancelled, or whose time is up, before its turn is never computed (asyncio.TimeoutError). Raises
        Refusal (429, Retry-After) when the queue is full or too long for `queue_ms`, and what `run` gave for the row.
        """
        expected_ms = self._expected_ms()
        if len(self._queue) >= self._limits.queue_max or expected_ms > self._limits.queue_ms:
            retry_s = str(max(1, round(expected_ms / 1000)))
            detail = f"{len(self._queue)} requests wait already; one more would wait about {expected_ms:.0f} ms"
            raise Refusal("overloaded", detail, {"Retry-After": retry_s})
        loop = asyncio.get_running_loop()
        waiting = _Waiting[Row, Result](row, key, loop.time() + within_ms / 1000, loop.create_future())
        self._queue.append(waiting)
        if not self._busy:
            self._next()
        return await waiting.done

    def close(self) -> None:
        """End the thread when it is idle; rows that wait are refused."""
        while self._queue:
            waiting = self._queue.popleft()
            if not waiting.done.done():
                waiting.done.set_exception(TimeoutError("the model is gone"))
        self._thread.shutdown(wait=False)

    def _expected_ms(self) -> float:
        """What a row that comes now would wait: for the batch that runs, and for those before it."""
        running_ms = (self._done_at - time.perf_counter()) * 1000 if self._busy else 0.0
        return max(0.0, running_ms) + len(self._queue) * self._row_ms

    def _next(self) -> None:
        """Start on the oldest row and those that may go with it; nothing when none wait."""
        batch = self._take()
        self._busy = bool(batch)
        if batch:
            began, loop = time.perf_counter(), asyncio.get_running_loop()
            self._done_at = began + len(batch) * self._row_ms / 1000

            def back(done: Future[Sequence[Result | Exception]]) -> None:
                if not loop.is_closed():  # nobody waits for it any more
                    loop.call_soon_threadsafe(self._finished, batch, began, done)

            # Not `run_in_executor`: a future of the loop's own would cost a further turn of it, a twentieth of a ms.
            self._thread.submit(self._run, [one.row for one in batch]).add_done_callback(back)

    def _take(self) -> list[_Waiting[Row, Result]]:
        now = asyncio.get_running_loop().time()
        batch: list[_Waiting[Row, Result]] = []
        passed: list[_Waiting[Row, Result]] = []
        while self._queue and len(batch) < self._limits.batch_max:
            one = self._queue.popleft()
            if one.done.done():
                continue
            if one.until <= now:
                one.done.set_exception(TimeoutError("its turn came too late"))
            elif not batch or one.key == batch[0].key:
                batch.append(one)
            else:
                passed.append(one)
        self._queue.extendleft(reversed(passed))
        return batch

    def _finished(self, batch: Sequence[_Waiting[Row, Result]], began: float,
                  done: Future[Sequence[Result | Exception]]) -> None:  # fmt: skip
        ms = (time.perf_counter() - began) * 1000 / len(batch)
        self._row_ms = ms if not self._row_ms else (1 - SMOOTHING) * self._row_ms + SMOOTHING * ms
        failure = asyncio.CancelledError() if done.cancelled() else done.exception()
        results: Sequence[Result | BaseException] = [failure] * len(batch) if failure else done.result()
        self._next()
        for one, result in zip(batch, results, strict=True):
            if one.done.done():
                continue
            if isinstance(result, asyncio.CancelledError):
                one.done.cancel()
            elif isinstance(result, BaseException):
                one.done.set_exception(result)
            else:
                one.done.set_result(result)
