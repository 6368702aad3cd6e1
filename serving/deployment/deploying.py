"""Lets Serve run a declarative document, and waits until what it names can be asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.errors import RaydistillError

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

UP_S = 300.0  # a bundle is checked and loaded, a teacher too; on a machine that is busy
POLL_S = 0.1


def deploy(described: dict[str, Any], awaited: Sequence[str] | None = None) -> None:
    """Let Serve run this document; returns when its applications (or those `awaited`) run. Raises RaydistillError when
    one does not."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema(**described))
    await_running([app["name"] for app in described["applications"]] if awaited is None else awaited)


def await_running(names: Sequence[str]) -> None:
    """Return when these applications run and can be reached; raises RaydistillError when one fails or takes UP_S."""
    from ray import serve
    from ray.serve.context import _get_global_client

    until = time.monotonic() + UP_S
    told = "Ray Serve said nothing"
    while time.monotonic() < until:
        found = serve.status().applications
        waiting = [name for name in names if name not in found or found[name].status != "RUNNING"]
        if not waiting:
            client: Any = _get_global_client()
            client.wait_for_proxies_serving(wait_for_applications_running=True)
            return
        if failed := [name for name in waiting if name in found and has_failed(found[name])]:
            raise RaydistillError(f"the service did not come up: {_told(failed[0], found[failed[0]])}")
        told = "; ".join(_told(name, found[name]) if name in found else f"{name}: NOT_STARTED" for name in waiting)
        time.sleep(POLL_S)
    raise RaydistillError(f"the service did not come up in {UP_S:.0f} s: {told}")


def has_failed(app: ApplicationStatusOverview) -> bool:
    """Whether waiting is in vain. An application that ran is UNHEALTHY also while a replica that died is replaced, and
    a document that changes nothing of it leaves it so until the new replica is there."""
    if app.status != "UNHEALTHY":
        return app.status == "DEPLOY_FAILED"
    unhealthy = [one for one in app.deployments.values() if one.status == "UNHEALTHY"]
    return not unhealthy or any(one.status_trigger != "HEALTH_CHECK_FAILED" for one in unhealthy)


def _told(name: str, app: ApplicationStatusOverview) -> str:
    said = "; ".join(one.message for one in app.deployments.values() if one.message)
    return f"{name}: {app.status.value} {app.message} {said}".strip()
