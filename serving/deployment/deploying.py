"""Lets Serve run a declarative document, and waits until what it names can be asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cluster.errors import RaydistillError

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
    while time.monotonic() < until:
        found = serve.status().applications
        seen = {name: found[name].status if name in found else "NOT_STARTED" for name in names}
        if failed := [name for name in names if seen[name] in ("DEPLOY_FAILED", "UNHEALTHY")]:
            why = found[failed[0]]
            more = "; ".join(one.message for one in why.deployments.values() if one.message)
            raise RaydistillError(f"the service did not come up: {failed[0]}: {why.message} {more}".strip())
        if all(status == "RUNNING" for status in seen.values()):
            client: Any = _get_global_client()
            client.wait_for_proxies_serving(wait_for_applications_running=True)
            return
        time.sleep(POLL_S)
    raise RaydistillError(f"the service did not come up in {UP_S:.0f} s: {seen}")
