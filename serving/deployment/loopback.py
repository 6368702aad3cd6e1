"""Ports of an embedded service: free ones, and on loopback also those that Ray Serve opens on all interfaces."""

from __future__ import annotations

import contextlib
import logging
import random
import socket

from cluster.session import on_loopback

log = logging.getLogger(__name__)

# Above the ports of Ray's workers, below those of Serve's replicas and of outgoing connections (Linux: 32768 and more).
QUIET, TRIES = range(20_000, 30_000), 20


def free_port(host: str) -> int:
    """A TCP port that was free a moment ago, of those that nothing is given by chance where one of them is: it is bound
    seconds later, and on a busy machine an outgoing connection had taken it by then."""
    for port in random.SystemRandom().sample(QUIET, TRIES):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((host, port))
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def keep_replica_home() -> None:
    """In a replica of a loopback cluster: bind its port for other replicas to loopback too; call it in the constructor.

    Ray Serve 2.60 hard-codes "[::]:0" there, and what comes in is unpickled: nobody outside may reach it.
    """
    from ray.serve._private import replica

    if not on_loopback():
        return
    if not hasattr(replica, "add_port_to_grpc_server"):
        log.error("this Ray Serve opens the replica's port elsewhere: it may listen on all interfaces")
        return
    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))
