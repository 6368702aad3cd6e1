"""The way to the control actor (`serving.deployment.control`), found by name at each call: it may be replaced."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.errors import RaydistillError
from serving.seams.problems import Refusal

NAME, NAMESPACE = "raydistill-control", "raydistill"


async def call(action: str, **arguments: Any) -> dict[str, Any]:
    """Ask the control actor from a gateway. Raises the actor's Refusal; 409 when there is no actor."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        handle = await asyncio.to_thread(ray.get_actor, NAME, NAMESPACE)
        found: dict[str, Any] = await getattr(handle, action).remote(**arguments)
        return found
    except RayTaskError as error:  # it is also of its cause's type
        if isinstance(error.cause, Refusal):
            raise error.cause from None
        if isinstance(error.cause, RaydistillError):
            raise Refusal("conflict", f"{error.cause}"[:500]) from None
        raise
    except (ValueError, RayActorError) as error:
        raise Refusal("conflict", f"the service's control does not answer: {error}"[:300]) from None
