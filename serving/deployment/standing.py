"""What Serve runs now, as its controller keeps it: the document that was deployed last, by people or by the control.

It is the only memory of what is served: `serve deploy`, an operator and the control all write it, and whoever changes
it reads it first. Applications of others in the same document stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.recipe.serving import ServingSection
from serving.deployment import document
from serving.deployment.document import GATEWAY
from serving.deployment.promoted import Catalog
from serving.deployment.served import GatewayPlan, Served, ServedArm
from serving.seams.problems import Refusal


@dataclass(frozen=True)
class Standing:
    """The applications of the document by name, as Serve's schema has them."""

    applications: dict[str, dict[str, Any]]

    @property
    def plan(self) -> GatewayPlan:
        """How gateways answer."""
        return GatewayPlan.parse(self._args["plan"])

    @property
    def section(self) -> ServingSection:
        """The recipe's section."""
        return self.plan.section

    @property
    def served(self) -> Served:
        """What is served."""
        return Served.parse(self._gateway["user_config"])

    @property
    def catalog(self) -> Catalog | None:
        """The versions that may be served; None where what is served is not registered."""
        found = self._args["catalog"]
        return None if found is None else Catalog(**found)

    def turned(self, served: Served, arms: Sequence[ServedArm]) -> list[dict[str, Any]]:
        """The applications with a gateway that serves `served`, those of `arms` beside it, and no other students."""
        gateway = self.applications[GATEWAY]
        deployments = [
            one | {"user_config": served.model_dump(mode="json")} if one["name"] == GATEWAY else one
            for one in gateway["deployments"]
        ]
        shared = {key: gateway[key] for key in ("runtime_env", "logging_config") if key in gateway}
        apps = {GATEWAY: gateway | {"deployments": deployments}}
        for arm in arms:
            if arm.app is not None:
                made = document.arm_application(arm, self.section, self._args["placement"])
                apps[arm.app] = self.applications.get(arm.app) or made | shared
        others = {name: app for name, app in self.applications.items() if app["import_path"] != document.STUDENT_PATH}
        return list((others | apps).values())

    @property
    def _args(self) -> dict[str, Any]:
        args: dict[str, Any] = self.applications[GATEWAY]["args"]
        return args

    @property
    def _gateway(self) -> dict[str, Any]:
        return next(one for one in self.applications[GATEWAY]["deployments"] if one["name"] == GATEWAY)


async def read() -> Standing:
    """What Serve runs on the connected Ray. Raises Refusal (409) where no gateway is deployed."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        configs = await controller.get_app_configs.remote()
    except (ValueError, ray.exceptions.RayActorError) as error:
        raise Refusal("conflict", f"Serve does not answer: {error}"[:300]) from None
    found = {name: config.model_dump(exclude_unset=True) for name, config in configs.items()}
    if GATEWAY not in found:
        raise Refusal("conflict", f"no gateway is deployed here, only {sorted(found)}"[:300])
    return Standing(found)
