"""The applications that the declarative document names (`document.BUILDERS`), as Serve builds them from its `args`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.recipe.serving import ServingSection
from serving.deployment.document import GATEWAY, SERVE_SETTINGS
from serving.deployment.served import STUDENT, TEACHER, GatewayPlan
from serving.web.auth import guard

REPLICA_CPUS = 0.25  # what Ray reserves: a service must also fit beside a job on a one-core machine
ONGOING_MAX = 1024  # requests inside one replica (count), above any queue of its own, which refuses in time and words


def gateway(args: Mapping[str, Any]) -> Any:
    """The gateway's application, from `{"plan", "placement"}`.

    Raises RecipeError, and the application does not come up, where Serve listens beyond loopback and the plan has no
    keys: the document may be deployed by others than `serving up`, and onto a Serve that was started with another host.
    """
    from ray import serve

    from serving.deployment.gateway import Gateway

    plan = GatewayPlan.parse(args["plan"])
    guard(plan.keys, _listens())
    section = plan.section
    deployment: Any = serve.deployment(
        serve.ingress()(Gateway), name=GATEWAY, num_replicas=section.replicas, max_ongoing_requests=ONGOING_MAX,
        **_shared(section, args["placement"]),
    )  # fmt: skip
    return deployment.bind(args["plan"])


def student(args: Mapping[str, Any]) -> Any:
    """An arm's application, from `{"bundle", "limits", "section", "placement", "model"}`."""
    from ray import serve

    from serving.deployment.student import Deployed

    section = ServingSection.parse(args["section"])
    deployment: Any = serve.deployment(
        Deployed, name=STUDENT, num_replicas=section.replicas, max_ongoing_requests=ONGOING_MAX,
        **_shared(section, args["placement"]),
    )  # fmt: skip
    return deployment.bind(args["bundle"], args["limits"], args["model"])


def teacher(args: Mapping[str, Any]) -> Any:
    """The teacher's application, from `{"folder", "section", "placement", "model"}`."""
    from ray import serve

    from serving.deployment.teacher import Teacher

    section = ServingSection.parse(args["section"])
    deployment: Any = serve.deployment(
        Teacher, name=TEACHER, max_ongoing_requests=section.teacher_concurrency,
        max_queued_requests=4 * section.teacher_concurrency, **_shared(section, args["placement"]),
    )  # fmt: skip
    return deployment.bind(Path(args["folder"]), args["model"])


def _listens() -> str:
    """The address that this cluster's Serve listens on."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    return str(client.http_config.host)


def _shared(section: ServingSection, placement: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ray_actor_options": {"num_cpus": REPLICA_CPUS, **placement}, "logging_config": SERVE_SETTINGS,
        "graceful_shutdown_timeout_s": section.total_ms / 1000 + 1, "max_surge_percent": 100,
    }  # fmt: skip
