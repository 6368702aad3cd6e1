"""What is served as one declarative document (Serve's deploy schema); its import paths name `builders`.

A change of a gateway's `user_config` alone restarts nothing; a change of `args` restarts the application.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import Field

from cluster.canonical import digest
from cluster.recipe.base import Section
from cluster.recipe.serving import ServingSection
from serving.deployment.served import TEACHER, GatewayPlan, Served, ServedArm
from serving.students.batcher import Limits

GATEWAY = "gateway"
BUILDERS = "serving.deployment.builders"
STUDENT_PATH = f"{BUILDERS}:student"
# A net below everything. Requests to models end by `total_ms`; a long stream and a promotion may take longer.
REQUEST_S = 300.0
SERVE_SETTINGS = {"log_level": "WARNING", "enable_access_log": False}


class Service(Section):
    """Everything that does not change while the service runs."""

    plan: GatewayPlan = Field(description="How gateways answer.")
    port: int = Field(ge=1, le=65535, description="TCP port of the ingress.")
    teacher: str | None = Field(None, description="The teacher's folder; null: nothing falls back.")
    placement: dict[str, Any] = Field({}, description="Ray's options for where replicas run (session.placed).")
    catalog: dict[str, Any] | None = Field(None, description="Fields of promoted.Catalog; null: nothing is registered.")

    @property
    def section(self) -> ServingSection:
        """The recipe's section."""
        return self.plan.section


def document(service: Service, served: Served, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document, as `serve deploy` reads it; `variables` are those of Serve's controller."""
    section = service.section
    # By name: arms of one bundle share its application.
    arms = {arm.app: arm_application(arm, section, service.placement) for arm in served.arms if arm.app is not None}
    apps = [_gateway(service, served), *arms.values()]
    if service.teacher is not None:
        apps.append(_teacher(service.teacher, service, served.arms[0].model))
    http = {"host": section.host, "port": service.port, "request_timeout_s": REQUEST_S}
    options = {} if variables is None else {"controller_options": {"runtime_env": {"env_vars": dict(variables)}}}
    return {"http_options": http, "logging_config": SERVE_SETTINGS, **options, "applications": apps}


def arm_application(arm: ServedArm, section: ServingSection, placement: Mapping[str, Any]) -> dict[str, Any]:
    """The application that answers for an arm which has one."""
    assert arm.app is not None
    args = {"bundle": arm.bundle, "limits": asdict(limits_of(section)), "section": section.model_dump(mode="json")}
    args |= {"placement": dict(placement), "model": arm.model}
    return {"name": arm.app, "route_prefix": None, "import_path": STUDENT_PATH, "args": args}


def app_of(bundle: str) -> str:
    """The name of a bundle's own application."""
    return f"arm-{digest(str(bundle))[:12]}"


def limits_of(section: ServingSection) -> Limits:
    """How many may go together and wait."""
    return Limits(section.batch_max, section.queue_max, section.queue_ms)


def _gateway(service: Service, served: Served) -> dict[str, Any]:
    deployment = {"name": GATEWAY, "user_config": served.model_dump(mode="json")}
    args = {
        "plan": service.plan.model_dump(mode="json"), "placement": service.placement, "catalog": service.catalog,
    }  # fmt: skip
    return {
        "name": GATEWAY, "route_prefix": "/", "import_path": f"{BUILDERS}:gateway", "args": args,
        "deployments": [deployment],
    }  # fmt: skip


def _teacher(folder: str, service: Service, model: str) -> dict[str, Any]:
    section = service.section.model_dump(mode="json")
    args = {"folder": folder, "section": section, "placement": service.placement, "model": model}
    return {
        "name": TEACHER,
        "route_prefix": None,
        "import_path": f"{BUILDERS}:teacher",
        "args": args,
    }
