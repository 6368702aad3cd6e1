"""A student as a Ray Serve application of its own, asked over a handle: a challenger, or every arm in `split` mode."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from serving.bundle.answer import Answer
from serving.deployment.loopback import keep_replica_home
from serving.seams.memory import Report
from serving.students.batcher import Limits
from serving.students.stepper import Pieces, Writing, Written
from serving.students.swap import opened


class Deployed:
    """A bundle that answers requests from gateways."""

    def __init__(self, bundle: str, limits: Mapping[str, Any], model: str) -> None:
        """Raises BundleError for a bundle that is not fit to serve; `model` is its registered name, for metrics."""
        keep_replica_home()
        self._student = opened(Path(bundle), Limits(**limits), None)
        Report("student", model).loaded()

    async def answer(self, item: Mapping[str, Any], within_ms: float, delay_ms: float = 0.0) -> Answer:
        """See `Student.answer`."""
        return await self._student.answer(item, within_ms, delay_ms)

    async def written(
        self, item: Mapping[str, Any], writing: Writing, within_ms: float, delay_ms: float = 0.0
    ) -> Written:
        """See `Student.written`."""
        return await self._student.written(item, writing, within_ms, delay_ms)

    async def write(self, item: Mapping[str, Any], writing: Writing, delay_ms: float = 0.0) -> Pieces:
        """See `Student.write`; a call that is cancelled ends the work at the next token."""
        async with aclosing(self._student.write(item, writing, delay_ms)) as pieces:
            async for piece in pieces:
                yield piece
