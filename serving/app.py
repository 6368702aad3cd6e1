"""Start and stop the service on the connected Ray: HAProxy in front, gateway replicas, the teacher beside them."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.environment import ray_folder
from cluster.errors import DataError, RaydistillError, RecipeError
from cluster.recipe.serving import ServingSection
from serving.gateway import TEACHER, Gateway, Names, Plan
from serving.loopback import free_port, haproxy_environment

GATEWAY = "gateway"
HAPROXY = "hap"  # folder of its files; short, because sockets are among them
REPLICA_CPUS = 0.25  # what Ray reserves: a service must also fit beside a job on a one-core machine
ONGOING_MAX = 128  # requests inside one gateway replica (count); they wait for the student's thread
STOP_S = 30.0
UNREGISTERED = Names()
SERVE_SETTINGS = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Running:
    """A service that answers at `url` until `stop`."""

    url: str
    names: Names

    def stop(self) -> None:
        """See `stop`."""
        stop()


def start(bundle: Path, teacher: Path | None, section: ServingSection, allow_fault_injection: bool = False,
          names: Names = UNREGISTERED) -> Running:  # fmt: skip
    """Serve a bundle on the connected Ray; returns when requests can be answered.

    `teacher` is a model folder (`hf/` of the teacher's artifact); without it, or with `teacher_concurrency` 0, nothing
    falls back. Raises DataError for a folder that is none, RecipeError for a host beyond loopback, RaydistillError when
    Ray is not connected or an application does not come up.
    """
    import ray
    from ray import serve

    if not ray.is_initialized():
        raise RaydistillError("Ray is not connected: call cluster.session.connect first")
    if not section.host.startswith("127."):
        # Whoever reaches the port may ask: keys come first, then other addresses.
        raise RecipeError("serving.host", got=section.host, expected="a loopback address (127.0.0.1)")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _check(bundle, "bundle.json")
    targets = []
    teacher = teacher if section.teacher_concurrency else None
    if teacher is not None:
        _check(teacher, "task.json")
        targets.append(serve.RunTarget(_teacher(teacher, section), name=TEACHER, route_prefix=None))
    plan = Plan(bundle, names, section, teacher is not None, allow_fault_injection)
    targets.append(serve.RunTarget(_gateway(plan), name=GATEWAY, route_prefix="/"))
    port = section.port or free_port(section.host)
    variables = haproxy_environment(section.host, ray_folder().parent / HAPROXY)
    serve.start(
        http_options={"host": section.host, "port": port, "request_timeout_s": section.total_ms / 1000 + 5},
        controller_options={"runtime_env": {"env_vars": variables}},
        logging_config=SERVE_SETTINGS,
    )
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        stop()
        raise RaydistillError(f"the service did not come up: {error}") from error
    return Running(f"http://{section.host}:{port}", names)


def _gateway(plan: Plan) -> Any:
    from ray import serve

    deployment: Any = serve.deployment(
        serve.ingress()(Gateway), name=GATEWAY, num_replicas=plan.section.replicas, max_ongoing_requests=ONGOING_MAX,
        ray_actor_options={"num_cpus": REPLICA_CPUS}, graceful_shutdown_timeout_s=plan.section.total_ms / 1000 + 1,
        logging_config=SERVE_SETTINGS,
    )  # fmt: skip
    return deployment.bind(plan)


def _teacher(folder: Path, section: ServingSection) -> Any:
    from ray import serve

    from serving.teachers.deployment import Teacher

    deployment: Any = serve.deployment(
        Teacher, name=TEACHER, max_ongoing_requests=section.teacher_concurrency,
        max_queued_requests=4 * section.teacher_concurrency, ray_actor_options={"num_cpus": REPLICA_CPUS},
        graceful_shutdown_timeout_s=section.total_ms / 1000 + 1, logging_config=SERVE_SETTINGS,
    )  # fmt: skip
    return deployment.bind(folder)


def stop() -> None:
    """End all of Serve on the connected Ray, also when it is half started; returns when its ports are closed."""
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    if not ray.is_initialized():
        return
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        # serve.shutdown() alone waits inside the controller for the controller's own death, and Ray prints that as a
        # failed task to whoever ends a service cleanly.
        ray.get(controller.graceful_shutdown.remote(wait=False), timeout=STOP_S)
        until = time.monotonic() + STOP_S
        while time.monotonic() < until:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            time.sleep(0.05)
    except (ValueError, ray.exceptions.RayActorError):
        pass  # it is gone
    node = ray.get_runtime_context().get_node_id()
    shutil.rmtree(ray_folder().parent / HAPROXY / node, ignore_errors=True)
    serve.shutdown()  # type: ignore[no-untyped-call]


def _check(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise DataError(f"nothing to serve in {folder}", got=f"no {name}", expected="a folder written by jobs")
