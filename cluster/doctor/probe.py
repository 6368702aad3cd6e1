"""What one node sees of itself, of the store and of the other nodes; runs there as a Ray task and judges nothing."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import pins
from cluster.errors import RaydistillError

SAMPLE_BYTES = 8 << 20
PORT_S, GPU_S = 3.0, 10.0
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Question:
    """What every node is asked: the store, a file that the driver left in its workspace, and ports ("host:port")."""

    store: str
    marker: str
    ports: tuple[str, ...]


@dataclass(frozen=True)
class NodeReport:
    """One node: names, versions, room (bytes), GPUs, the store's speed (MB/s), and what it cannot reach.

    `store` is the error's text where the store does not answer; `shared` tells whether the driver's file in the store's
    workspace is seen; `skew_s` the node's clock against the driver's (s), known to +- `skew_within_s`.
    """

    node: str
    host: str
    labels: dict[str, str]
    resources: dict[str, float]
    versions: dict[str, str]
    disk_free: int
    disk_used_share: float
    shm_bytes: int | None
    gpus: tuple[str, ...]
    torch_sees_gpu: bool | None
    tensorrt: str | None
    store: str | None
    write_mb_s: float | None
    read_mb_s: float | None
    shared: bool
    unreachable: tuple[str, ...]
    loopback_name: str | None
    auth_mode: str
    skew_s: float = 0.0
    skew_within_s: float = 0.0


def look(question: Question, node: str, labels: dict[str, str], resources: dict[str, float]) -> NodeReport:
    """Look around on this node."""
    disk = shutil.disk_usage(os.environ.get("RAY_TMPDIR") or "/tmp")
    gpus = _gpus()
    store, write, read, shared = _store(question)
    return NodeReport(
        node=node, host=socket.gethostname(), labels=labels, resources=resources, versions=pins.here(),
        disk_free=disk.free, disk_used_share=round(disk.used / disk.total, 3),
        shm_bytes=shutil.disk_usage(SHM).total if SHM.is_dir() else None,
        gpus=gpus, torch_sees_gpu=_torch_sees_gpu() if gpus else None, tensorrt=_version("tensorrt"),
        store=store, write_mb_s=write, read_mb_s=read, shared=shared,
        unreachable=tuple(port for port in question.ports if not answers(port)),
        loopback_name=_loopback_name(), auth_mode=os.environ.get("RAY_AUTH_MODE", ""),
    )  # fmt: skip


def now() -> float:
    """Return this node's clock (seconds since 1970)."""
    return time.time()


def answers(port: str) -> bool:
    """Tell whether something accepts connections at "host:port"."""
    host, _, number = port.rpartition(":")
    try:
        with socket.create_connection((host, int(number)), PORT_S):
            return True
    except OSError:
        return False


def _store(question: Question) -> tuple[str | None, float | None, float | None, bool]:
    """Write and read one object: what went wrong or None, write and read speed (MB/s), and is the workspace shared."""
    from cluster.store.filesystem import open_files

    key = f"doctor/{uuid.uuid4().hex}"
    data = os.urandom(SAMPLE_BYTES)
    try:
        files = open_files(question.store)
        shared = (files.workspace / question.marker).is_file()
        started = time.perf_counter()
        files.write(key, data)
        written = time.perf_counter()
        right = files.read(key) == data
        ended = time.perf_counter()
        files.remove(key)
    except (OSError, RaydistillError) as error:
        return f"{type(error).__name__}: {error}"[:300], None, None, False
    if not right:
        return "what was read is not what was written", None, None, shared
    megabytes = SAMPLE_BYTES / 1e6
    return None, round(megabytes / (written - started), 1), round(megabytes / (ended - written), 1), shared


def _gpus() -> tuple[str, ...]:
    """Return "name, memory, driver" for every GPU that the NVIDIA driver knows; () where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GPU_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def _torch_sees_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _loopback_name() -> str | None:
    """Return the loopback address that this host's own name means (Debian: 127.0.1.1), None where it means none."""
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
    return address if address.startswith("127.") else None


def ports_of(nodes: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the ports that nodes need of each other: raylet and object manager of every node that lives."""
    named = ("NodeManagerPort", "ObjectManagerPort")
    return tuple(f"{node['NodeManagerAddress']}:{node[port]}" for node in nodes if node["Alive"] for port in named)
