"""Arms of the gateway: a student in this process, or one in an application of its own behind a handle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serving.bundle.answer import Answer, BundleError
from serving.deployment.served import ServedArm
from serving.fallback.guard import ArmGuard
from serving.seams.problems import Refusal
from serving.students.stepper import Pieces, Writing, Written


class Answers(Protocol):
    """Whatever answers for an arm."""

    async def answer(self, item: Mapping[str, Any], within_ms: float, delay_ms: float = 0.0) -> Answer:
        """See `Student.answer`."""

    async def written(
        self, item: Mapping[str, Any], writing: Writing, within_ms: float, delay_ms: float = 0.0
    ) -> Written:
        """See `Student.written`."""

    def write(self, item: Mapping[str, Any], writing: Writing, delay_ms: float = 0.0) -> Pieces:
        """See `Student.write`."""


@dataclass(frozen=True)
class LiveArm:
    """An arm that answers: what it is, who answers, what is remembered of it, and its bundle's description."""

    arm: ServedArm
    answers: Answers
    guard: ArmGuard
    spec: Mapping[str, Any]


class Remote:
    """Asks a deployment over gRPC; a call that is cancelled here is cancelled there."""

    def __init__(self, app: str, deployment: str) -> None:
        from ray import serve

        # gRPC: 1-2 ms a call instead of 3-6, and cancelled there too when it is here (findings/serving.md 2, 3).
        handle = serve.get_deployment_handle(deployment, app_name=app, _check_exists=False)
        self._handle: Any = handle.options(_by_reference=False)
        self._streaming: Any = handle.options(_by_reference=False, stream=True)

    async def answer(self, item: Mapping[str, Any], within_ms: float, delay_ms: float = 0.0) -> Answer:
        """See `Student.answer`."""
        found: Answer = await self._call("answer", item, within_ms, delay_ms)
        return found

    async def written(
        self, item: Mapping[str, Any], writing: Writing, within_ms: float, delay_ms: float = 0.0
    ) -> Written:
        """See `Student.written`."""
        found: Written = await self._call("written", item, writing, within_ms, delay_ms)
        return found

    async def write(self, item: Mapping[str, Any], writing: Writing, delay_ms: float = 0.0) -> Pieces:
        """See `Student.write`; raises TimeoutError when the deployment is lost on the way."""
        from ray.exceptions import RayError, RayTaskError

        response = self._streaming.write.remote(item, writing, delay_ms)
        try:
            async for piece in response:
                yield piece
        except RayTaskError as error:
            if isinstance(error.cause, BundleError | Refusal | TimeoutError):
                raise error.cause from None
            raise TimeoutError(f"the model failed: {error}") from None
        except RayError as error:
            raise TimeoutError(f"the model is gone: {error}") from None
        finally:
            response.cancel()  # who leaves early ends the work there; where it is over nothing happens

    async def taught(self, item: Mapping[str, Any]) -> Answer:
        """The answer of a teacher's deployment."""
        found: Answer = await self._call("answer", item)
        return found

    async def _call(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayTaskError

        response = getattr(self._handle, method).remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayTaskError as error:
            if isinstance(error.cause, BundleError | Refusal):
                raise error.cause from None
            raise
