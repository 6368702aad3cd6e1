"""Connects to Ray, in the only place that does, and clears up after drivers that were killed."""

import contextlib
import functools
import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from cluster import pins
from cluster.environment import Role, prepare_environment, ray_folder, shipped_variables
from cluster.errors import InputError, RayNotStarted
from cluster.recipe import ResourcesSection

__all__ = [
    "commit", "connect", "disconnect", "left_behind", "nodes", "on_loopback", "placed", "prepare_environment", "reap",
    "starting",
]  # fmt: skip

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]
# Which nodes a step's workers need, by step; from the recipe that this process connected with.
_labels: dict[str, dict[str, str]] = {}
SESSION = re.compile(r"/session_[^/]*_(\d+)/")


def connect(resources: ResourcesSection, *, role: Role = "embedded") -> None:
    """Connect this process to Ray.

    The address of the recipe, else $RAY_ADDRESS (set inside submitted jobs), else an embedded one.

    Does nothing when it is connected already, so a task or an actor may call it too. An embedded Ray runs without
    dashboard, on loopback, and dies with this process; it is one node, so labels of nodes count on a cluster only. Run
    from the repository root with -m: workers import from the working directory. Raises InputError when nothing answers
    at the address, RayNotStarted when the embedded one does not come up, and in a submitted job MismatchError when this
    node's packages are not the submitter's.
    """
    address = resources.ray_address or os.environ.get("RAY_ADDRESS") or None
    address = None if address == "local" else address
    if address is not None:
        _labels.update((step, labels) for step, labels in resources.labels.items())
    prepare_environment(role, address=address)
    import ray

    if ray.is_initialized():
        return
    pins.check()
    if address is None:
        reap()
        cpus = resources.cpus or os.cpu_count()
        # "local", not unset: plain ray.init() would join whatever cluster a killed driver left in ray_current_cluster.
        with starting():
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        if resources.labels:
            log.warning("resources.labels: this embedded Ray is one node and takes every step, whatever its labels")
        return
    try:
        ray.init(address=address, runtime_env=_shipped(), log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        hint = "is it running, and are RAY_AUTH_MODE and RAY_AUTH_TOKEN those of the cluster?"
        raise InputError(f"no Ray cluster answers at {address}", got=error, hint=hint) from None


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Raise RayNotStarted for what Ray raises where its own processes do not come up within the time it gives them.

    That is 30 s for each, fixed in Ray's code. It says so by RuntimeError (the GCS), TimeoutError (a further node) and
    a bare Exception (the raylet: ray/_private/node.py); of that class itself, for its subclasses are other things.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, (RuntimeError, TimeoutError)):
            raise
        hint = (
            "this machine is overloaded or short of memory: run the same command again when it is quieter; "
            f"Ray's own logs: {ray_folder()}/session_latest/logs"
        )
        expected = "each of its processes up within 30 s"
        raise RayNotStarted(got=_first_line(error), expected=expected, hint=hint) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def on_loopback() -> bool:
    """Whether this process's node is known to its cluster by a loopback address: then nothing may listen beyond it."""
    from ray.util import get_node_ip_address

    return str(get_node_ip_address()).startswith("127.")  # type: ignore[no-untyped-call]


def placed(step: Literal["generate", "train", "serve"]) -> dict[str, Any]:
    """Return Ray's option for where a step's workers may run: {"label_selector": ...}, {} where any node will do."""
    return {"label_selector": dict(_labels[step])} if _labels.get(step) else {}


def nodes(step: Literal["generate", "train", "serve"]) -> list[Mapping[str, Any]]:
    """Return the connected cluster's nodes that live and may run a step's workers, as `ray.nodes()` has them.

    A selector with an operator (`!a`, `in(a,b)`) is Ray's to judge; here it excludes nobody.
    """
    import ray

    wanted = _labels.get(step, {}).items()
    plain = {name: value for name, value in wanted if not value.startswith(("!", "in("))}.items()
    found: list[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in found if node["Alive"] and plain <= node["Labels"].items()]


def disconnect() -> None:
    """Leave Ray, and end it when it is embedded; nothing happens when there is no connection."""
    import ray

    _labels.clear()
    if ray.is_initialized():
        ray.shutdown()


@functools.cache
def commit() -> str:
    """Return the commit this code is.

    $RAYDISTILL_COMMIT (stamped at submit, .git is not shipped), else git's, "-dirty" when edited.

    "unknown" where there is neither.
    """
    stamped = os.environ.get("RAYDISTILL_COMMIT")
    if stamped:
        return stamped
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def reap() -> int:
    """Kill what drivers that were killed left behind in this user's Ray folder; return how many processes that were."""
    dead = 0
    for pid in left_behind():
        try:
            os.kill(pid, signal.SIGKILL)
            dead += 1
        except OSError:
            continue  # it ended meanwhile, or it is another user's
    if dead:
        log.info("ended %d processes that a killed driver had left behind", dead)
    return dead


def left_behind() -> list[int]:
    """Return the processes that ended drivers left in this user's Ray folder.

    After SIGKILL of a driver Ray's raylet ends by itself; RuntimeEnvAgent, DashboardAgent and HAProxy stay (seen). A
    process counts when it holds a file of a session open for writing whose driver, named in the folder, is gone; those
    of other containers never do, for there pids mean something else. Linux only; elsewhere there are none.
    """
    drivers = {int(process.name): _driver(process) for process in Path("/proc").glob("[0-9]*")}
    return [
        pid for pid, driver in drivers.items()
        if driver is not None and driver != pid and not _runs_since_before(driver, pid)
    ]  # fmt: skip


def _shipped() -> dict[str, object] | None:
    """Return the runtime environment that brings this code to the nodes.

    None in a submitted job, which has it already.
    """
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return (
        None
        if in_job
        else {"working_dir": str(ROOT), "excludes": [".git", ".venv", "runs"], "env_vars": shipped_variables()}
    )


def _driver(process: Path) -> int | None:
    """Return the pid of the driver whose Ray session this process writes to, None for every other process."""
    folder = f"{ray_folder().resolve()}/"
    try:
        if os.readlink(process / "ns" / "pid") != os.readlink("/proc/self/ns/pid"):
            return None
        links = [(link.name, os.readlink(link)) for link in (process / "fd").iterdir()]
    except OSError:
        return None
    for number, target in links:
        found = SESSION.search(target) if target.startswith(folder) else None
        if found and _writes(process / "fdinfo" / number):
            return int(found[1])
    return None


def _writes(info: Path) -> bool:
    try:
        flags = re.search(r"^flags:\s*([0-7]+)$", info.read_text(), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and int(flags[1], 8) & (os.O_WRONLY | os.O_RDWR) != 0


def _runs_since_before(driver: int, child: int) -> bool:
    """True when the driver lives; a process of that pid that started after its would-be child is another one."""
    started = _start_ticks(driver)
    return started is not None and started <= (_start_ticks(child) or 0)


def _start_ticks(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot), None when there is none or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
