"""A cluster of several node processes on this machine: started, found again and ended; it listens on loopback only.

`python -m cluster.keeper` owns its processes and claims the folder that says where they are (`cluster.claim`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster import claim, credentials
from cluster.environment import prepare_environment
from cluster.errors import InputError, StepFailed

ROOT = Path(__file__).resolve().parents[1]
TOKEN, LOG = "token", "keeper.log"
START_S, STOP_S, POLL_S = 180.0, 60.0, 0.1
LAST_LINES = 4  # of the log, where the keeper ends: one error of ours
OBJECT_STORE_BYTES = 200_000_000  # a node's; what does not fit is spilled to disk


@dataclass(frozen=True)
class Running:
    """A local cluster: its keeper's pid, the address for drivers, the dashboard's URL, nodes (count), token file."""

    pid: int
    address: str
    dashboard: str
    nodes: int
    token_path: str | None


@dataclass(frozen=True)
class Shape:
    """What is started: one head and `workers` more nodes (count), each planning with `cpus` (count)."""

    workers: int = 1
    cpus: int = 1
    object_store_bytes: int = OBJECT_STORE_BYTES


def folder() -> Path:
    """Return where this user's local cluster keeps its address, token, log and Ray's own files."""
    return Path(os.environ.get("RAYDISTILL_LOCAL") or f"/tmp/raydistill-{os.getuid()}/cluster")


def read() -> Running | None:
    """Return the local cluster that runs; None when none does, or it is still starting."""
    found = claim.read(folder())
    return Running(**found) if found else None


def up(shape: Shape, *, authenticate: bool = True) -> Running:
    """Start the cluster in the background and return it when its nodes are there and its Jobs API answers.

    authenticate: ask for a token, which lies in a file that only this user can read. Raises InputError when one runs
    already, StepFailed when it does not come up.
    """
    if (running := read()) is not None:
        hint = "python -m cluster down ends it"
        raise InputError("a local cluster runs already", got=f"{running.nodes} nodes at {running.dashboard}", hint=hint)
    place = folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = place / TOKEN
    token.unlink(missing_ok=True)
    if authenticate:
        credentials.make_token(token)
    with (place / LOG).open("wb") as log:
        command = [sys.executable, "-m", "cluster.keeper", json.dumps(asdict(shape))]
        keeper = subprocess.Popen(command, cwd=ROOT, env=_environment(authenticate), stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, start_new_session=True)  # fmt: skip
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if (running := read()) is not None:
            return running
        if keeper.poll() is not None:
            raise StepFailed("up", _last_lines(place / LOG), hint=f"all of it: {place / LOG}")
        time.sleep(POLL_S)
    keeper.terminate()
    raise StepFailed("up", f"no cluster after {START_S:.0f} s", hint=f"see {place / LOG}")


def down() -> Running:
    """End the local cluster and return what it was; raises InputError when none runs, StepFailed when it stays."""
    running = read()
    if running is None:
        raise InputError("no local cluster runs", got=str(folder()), hint="python -m cluster up starts one")
    os.kill(running.pid, signal.SIGTERM)
    until = time.monotonic() + STOP_S
    while read() is not None:
        if time.monotonic() > until:
            raise StepFailed("down", f"process {running.pid} has not ended after {STOP_S:.0f} s", hint="kill -9 it")
        time.sleep(POLL_S)
    return running


def claimed() -> AbstractContextManager[Callable[[Mapping[str, Any]], None]]:
    """Hold this user's place while the cluster lives (`cluster.claim.held`).

    Raises InputError when another keeper holds it.
    """
    return claim.held(folder(), lambda: InputError("a local cluster runs already, or is starting", got=str(folder())))


def _environment(authenticate: bool) -> dict[str, str]:
    """The keeper's environment: our Ray variables, a Ray folder of its own, and `python` as this one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "__RAY"))}
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder() / TOKEN)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
    ours = {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(ROOT / "serving/deployment/haproxy.sh"),
        "PATH": path,
        "RAY_TMPDIR": str(folder()),
        "RAYDISTILL_LOCAL": str(folder()),
    }
    return {**inherited, **ours, **(auth if authenticate else {"RAY_AUTH_MODE": "disabled"})}


def prepare() -> None:
    """In the keeper: set the variables of Ray before it is imported."""
    prepare_environment("embedded")


def _last_lines(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-LAST_LINES:]) or "it ended without a word"
