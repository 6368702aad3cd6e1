"""The environment variables of Ray, DeepSpeed and thread pools, set in one place before the first `import ray`."""

import logging
import os
import sys
from pathlib import Path
from typing import Literal

from cluster.errors import InputError

log = logging.getLogger(__name__)

Role = Literal["embedded", "serving"]

# Unix sockets take 107 bytes; Ray puts "/ray/session_2026-11-21_23-53-26_730106_4194304/sockets/plasma_store" below
# its folder.
SOCKET_BYTES = 107
SESSION_BYTES = 75

_EVERYWHERE = {
    "OMP_NUM_THREADS": "1",  # else every worker takes all cores; steps that want more say so in the recipe (threads)
    "RAY_worker_niceness": "0",  # at Ray's nice 15 workers lose to everything else (findings/serving.md 10)
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # progress is ours to show, on stderr
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray warns it will become anyway
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # train.report() waits for this poll: 2 s each by default
    "RAY_SERVE_ENABLE_HA_PROXY": "1",  # 10x the requests of the Python proxy, and no freeze when a host goes silent
    # Replicas never block their event loop (students and teachers have threads of their own), so a second loop in a
    # second thread only takes a tenth of a small student's request.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # A killed router then costs no request; allowed because inference is idempotent.
    "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
    # The dead one has the fewest connections, so it is picked again until three errors take it out: with the default
    # of 3 a request could run out of tries before that.
    "RAY_SERVE_HAPROXY_RETRIES": "10",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # else every stop takes 30 s
    "TOKENIZERS_PARALLELISM": "false",
}

_LOOPBACK_INTERFACE = "lo" if sys.platform == "linux" else "lo0"

# Read by drivers, workers, replicas and trials, not by raylet and GCS: these travel with a job.
_OF_JOBS = ("OMP_NUM_THREADS", "RAY_DATA_DISABLE_PROGRESS_BARS", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "TOKENIZERS_PARALLELISM")  # fmt: skip

# Read by the Ray processes of a node when they start: these are in every deployment file.
_OF_NODES = ("OMP_NUM_THREADS", "RAY_worker_niceness", "RAY_USAGE_STATS_ENABLED", "RAY_SERVE_ENABLE_HA_PROXY",
             "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "RAY_SERVE_HAPROXY_RETRY_ON",
             "RAY_SERVE_HAPROXY_RETRIES")  # fmt: skip


def prepare_environment(role: Role, *, address: str | None = None) -> dict[str, str]:
    """Set what is not set yet (the user's own values win) and return all names with the values now in force.

    role "serving" differs in the memory monitor: at Ray's 95 % of the node it kills controller, proxy and replica
    together (findings/serving.md 11). address: of a running cluster, or None for an embedded one, which listens on
    loopback only and needs no token. Raises InputError when Ray's folder ($RAY_TMPDIR) is too deep for its sockets.
    """
    wanted = {**_EVERYWHERE, **(_embedded() if address is None else {"RAY_AUTH_MODE": "token"})}
    if role == "serving":
        wanted["RAY_memory_usage_threshold"] = "0.98"
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        wanted["DS_ACCELERATOR"] = "cpu"  # DeepSpeed would try to find out by importing every vendor's package
    late = [name for name, value in wanted.items() if name.startswith("RAY_") and name not in os.environ]
    if late and "ray" in sys.modules:
        log.warning("ray was imported before its variables were set; these may not hold: %s", ", ".join(late))
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    if address is None:
        _check_folder(Path(os.environ["RAY_TMPDIR"]))
    return {name: os.environ[name] for name in wanted}


def shipped_variables() -> dict[str, str]:
    """Return what the processes of a submitted job need on every node; the submitter's own values win.

    What the nodes' own Ray processes read (niceness, memory threshold, authentication) is theirs to set.
    """
    return {name: os.environ.get(name) or value for name, value in _EVERYWHERE.items() if name in _OF_JOBS}


def node_variables() -> dict[str, str]:
    """Return what the Ray processes of a deployed node start with, beside its authentication."""
    return {name: _EVERYWHERE[name] for name in _OF_NODES}


def ray_folder() -> Path:
    """Return the folder that this user's embedded Ray sessions lie in."""
    return Path(os.environ.get("RAY_TMPDIR") or _default_folder()) / "ray"


def _default_folder() -> str:
    return f"/tmp/raydistill-{os.getuid()}"  # not $TMPDIR: it is often too deep, and never another user's folder


def _embedded() -> dict[str, str]:
    folder = os.environ.get("RAY_TMPDIR") or _default_folder()
    return {
        "RAY_TMPDIR": folder,
        # Unset, Ray 2.60 turns token mode on for good and leaves a world-readable ~/.ray/auth_token
        # (findings/cluster.md 4).
        "RAY_AUTH_MODE": "disabled",
        # The only switch that keeps every port of an embedded Ray on 127.0.0.1: _node_ip_address="127.0.0.1" alone is
        # replaced by the machine's outer address, and GCS and raylet then listen on all interfaces (seen in
        # /proc/net/tcp).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Else ranks of a training listen on the address that the host's name resolves to.
        "GLOO_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
        "NCCL_SOCKET_IFNAME": _LOOPBACK_INTERFACE,
        # It asks whether a cloud takes a node back, which this one is not; a process of 1.5 s of CPU for each training.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    }


def _check_folder(folder: Path) -> None:
    room = SOCKET_BYTES - SESSION_BYTES
    if not folder.is_absolute() or len(os.fsencode(folder)) > room:
        raise InputError(
            "Ray's sockets do not fit below RAY_TMPDIR",
            got=f"{folder} ({len(os.fsencode(folder))} bytes)",
            expected=f"an absolute path of at most {room} bytes",
            hint=f"export RAY_TMPDIR={_default_folder()}",
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
