"""The monitor as a Ray actor, one per service, and the way to it from gateways and from it to the control actor."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from cluster.canonical import digest
from cluster.errors import RaydistillError
from serving.experiments.events import Batch
from serving.monitoring.monitor import Monitor, Reply
from serving.seams import controlling
from serving.seams.controlling import NAMESPACE
from serving.seams.problems import Refusal

log = logging.getLogger(__name__)

NAME = "raydistill-monitor"
TICK_S, IDLE_S, ANSWER_S = 0.5, 120.0, 5.0


class Service(Monitor):
    """The Ray actor: the monitor with a clock of its own and the control actor for hands. Without a gateway that says
    anything for IDLE_S it saves and ends."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings, _Control())
        self._clock: asyncio.Task[None] | None = None

    async def push(self, batch: Batch) -> Reply:
        """See `Monitor.push`; the first one starts the clock."""
        if self._clock is None:
            self._clock = asyncio.get_running_loop().create_task(self._run())
        return await super().push(batch)

    async def _run(self) -> None:
        import ray

        while time.monotonic() - self.heard_s < IDLE_S:
            await asyncio.sleep(TICK_S)
            try:
                await self.tick()
            except Exception:
                log.exception("a look at the experiments failed; the next one follows")
        self.save()
        ray.kill(ray.get_runtime_context().current_actor)


class _Control:
    """The control actor (`serving.deployment.control`), found by name at each call: it may be replaced."""

    async def split(self, shares: Mapping[str, float]) -> object:
        return await self._call("split", shares=dict(shares), start=False)

    async def promote(self, arm: str, version: str) -> object:
        return await self._call("promote", arm=arm, version=version)

    async def rollback(self) -> object:
        return await self._call("rollback")

    async def _call(self, action: str, **arguments: Any) -> object:
        """Raises RaydistillError with what the actor says, or that there is none."""
        from ray.exceptions import RayError

        try:
            return await controlling.call(action, **arguments)
        except (Refusal, RayError) as error:
            raise RaydistillError(f"{action} is refused: {error}"[:500]) from None


def join(settings: Mapping[str, Any]) -> Any:
    """The handle of this service's monitor, which is started where there is none."""
    import ray

    actor: Any = ray.remote(Service)
    name = f"{NAME}-{digest(dict(settings))[:12]}"  # another service on this cluster has another one
    options = {"name": name, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached", "num_cpus": 0}
    return actor.options(**options, max_restarts=-1, max_concurrency=32).remote(dict(settings))


class Link:
    """The way from a gateway to the monitor's actor, found anew after it was lost."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._handle: Any = None

    async def push(self, batch: Batch) -> Reply:
        """Hand over a batch. Raises RaydistillError when the actor does not take it."""
        reply: Reply = await self._call("push", batch)
        return reply

    async def state(self) -> dict[str, Any]:
        """What the page shows. Raises as `push`."""
        found: dict[str, Any] = await self._call("state")
        return found

    async def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(join, self._settings)
            return await asyncio.wait_for(getattr(self._handle, method).remote(*arguments), ANSWER_S)
        except (TimeoutError, ray.exceptions.RayError) as error:
            self._handle = None
            raise RaydistillError(f"the monitor does not answer: {error!r}"[:300]) from None
