"""The process behind `python -m cluster up`: it starts the nodes, answers for them, and ends them on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from dataclasses import asdict
from typing import Any

from cluster import local, session
from cluster.errors import RaydistillError

LOOPBACK = "127.0.0.1"


def main(shape: local.Shape) -> None:
    """Run a cluster of this shape until SIGTERM or SIGINT.

    Nodes are started in this process and not by `ray start`: that refuses a second node where
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 keeps every port on loopback.
    """
    local.prepare()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: ended.set())
    with local.claimed() as publish:
        session.reap()
        with session.starting():
            cluster = _start(shape)
        try:
            token = local.folder() / local.TOKEN
            running = local.Running(
                pid=os.getpid(), address=cluster.address, dashboard=f"http://{cluster.webui_url}",
                nodes=shape.workers + 1, token_path=str(token) if token.is_file() else None,
            )  # fmt: skip
            publish(asdict(running))
            while not ended.wait(1.0):
                pass
        finally:
            cluster.shutdown()


def _start(shape: local.Shape) -> Any:
    """Return the running nodes: labels `role=head` and `role=worker`, in the order they joined."""
    from ray.cluster_utils import Cluster

    common: dict[str, Any] = {
        "num_cpus": shape.cpus,
        "object_store_memory": shape.object_store_bytes,
        "node_ip_address": LOOPBACK,
    }
    dashboard = {"include_dashboard": True, "dashboard_host": LOOPBACK, "dashboard_port": _free_port()}
    # Else 52365, and where another cluster of this machine has it, no agent takes jobs.
    head = {**common, **dashboard, "dashboard_agent_listen_port": _free_port()}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "labels": {"role": "head"}})
    for _ in range(shape.workers):
        cluster.add_node(**common, labels={"role": "worker"})
    return cluster


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    try:
        main(local.Shape(**json.loads(sys.argv[1])))
    except RaydistillError as error:
        sys.exit(str(error))
