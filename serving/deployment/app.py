"""Start and stop the service on the connected Ray: HAProxy in front, gateway replicas, other arms and the teacher."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.environment import ray_folder
from cluster.errors import DataError, RaydistillError
from cluster.recipe.serving import ServingSection
from cluster.session import placed
from serving.deployment import control, deploying
from serving.deployment.document import SERVE_SETTINGS, Service, app_of, document
from serving.deployment.haproxy import haproxy_environment
from serving.deployment.loopback import free_port
from serving.deployment.promoted import Catalog
from serving.deployment.served import GatewayPlan, Names, Served, ServedArm
from serving.seams.observe import CHAMPION
from serving.web import auth

HAPROXY = "hap"  # folder of its files; short, because sockets are among them
STOP_S = 30.0
UNREGISTERED = Names()


@dataclass(frozen=True)
class Options:
    """What a service may have beside its models: arms other than the champion, and who watches.

    `catalog` (`promoted.Catalog`) knows what is registered; without it nothing can be promoted or rolled back.
    """

    arms: tuple[ServedArm, ...] = ()
    observer: dict[str, Any] | None = None
    catalog: Catalog | None = None


NO_OPTIONS = Options()


@dataclass(frozen=True)
class Running:
    """A service that answers at `url` until `stop`; `key` opens its admin routes."""

    url: str
    names: Names
    key: str

    def stop(self) -> None:
        """See `stop`."""
        stop()


def start(bundle: Path, teacher: Path | None, section: ServingSection, allow_fault_injection: bool = False,
          names: Names = UNREGISTERED, options: Options = NO_OPTIONS) -> Running:  # fmt: skip
    """Serve a bundle on the connected Ray; returns when requests can be answered.

    `teacher` is a model folder (`hf/` of the teacher's artifact); without it, or with `teacher_concurrency` 0, nothing
    falls back. Raises DataError for a folder that is none, RecipeError for a host beyond loopback without keys,
    RaydistillError when Ray is not connected or an application does not come up.
    """
    import ray
    from ray import serve

    if not ray.is_initialized():
        raise RaydistillError("Ray is not connected: call cluster.session.connect first")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    secret, operator = auth.draw(auth.OPERATOR, "admin")
    service, served = planned(bundle, teacher, section, names, options)
    plan = service.plan.model_copy(
        update={"keys": [operator, *service.plan.keys], "allow_fault_injection": allow_fault_injection}
    )
    service = service.model_copy(update={"plan": plan})
    variables = haproxy_environment(section.host, ray_folder().parent / HAPROXY)
    described = document(service, served, variables)
    serve.start(
        http_options=described["http_options"],
        controller_options=described["controller_options"],
        logging_config=SERVE_SETTINGS,
    )
    control.end()  # one that an earlier service left behind may be of other code
    try:
        deploying.deploy(described)
    except BaseException:
        stop()
        raise
    return Running(f"http://{section.host}:{service.port}", names, secret)


def planned(bundle: Path, teacher: Path | None, section: ServingSection, names: Names,
            options: Options = NO_OPTIONS) -> tuple[Service, Served]:  # fmt: skip
    """What stays while it runs, and what is served first; raises DataError and RecipeError as `start`."""
    keys = _keys(section)
    _check(bundle, "bundle.json")
    teacher = teacher if section.teacher_concurrency else None
    if teacher is not None:
        _check(teacher, "task.json")
    version = None if teacher is None else names.teacher_version
    plan = GatewayPlan(section=section, teacher=version, keys=keys, observer=options.observer)
    folder = None if teacher is None else str(teacher.resolve())
    port = section.port or free_port(section.host)
    catalog = None if options.catalog is None else asdict(options.catalog)
    service = Service(plan=plan, port=port, teacher=folder, placement=dict(placed("serve")), catalog=catalog)
    return service, first_served(bundle, section, names, options.arms)


def first_served(bundle: Path, section: ServingSection, names: Names, others: tuple[ServedArm, ...] = ()) -> Served:
    """The champion and other arms; what they do not take of the units is the champion's."""
    folder = str(bundle.resolve())
    champion = ServedArm(
        name=CHAMPION, model=names.model, version=names.version, bundle=folder,
        app=app_of(folder) if section.mode == "split" else None,
        weight=max(0.0, 1 - sum(arm.weight for arm in others)),
    )  # fmt: skip
    return Served(arms=[champion, *others], salt=names.model)


def declared(bundle: Path, teacher: Path | None, section: ServingSection, names: Names,
             options: Options = NO_OPTIONS) -> dict[str, Any]:  # fmt: skip
    """The declarative document of a service, for `serve deploy`; raises as `planned`."""
    return document(*planned(bundle, teacher, section, names, options))


def stop() -> None:
    """End all of Serve on the connected Ray, also when it is half started; returns when its ports are closed."""
    import ray
    from ray import serve
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    if not ray.is_initialized():
        return
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    control.end()
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


def _keys(section: ServingSection) -> list[auth.Key]:
    keys = [] if section.keys_file is None else auth.read(Path(section.keys_file))
    auth.guard(keys, section.host)
    return keys


def _check(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise DataError(f"nothing to serve in {folder}", got=f"no {name}", expected="a folder written by jobs")
