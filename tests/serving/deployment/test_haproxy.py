"""HAProxy with Serve's own configuration behind our wrapper: what dies with a request is not seen by who asked."""

import contextlib
import http.client
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.deployment.haproxy import WRAPPER, haproxy_environment
from serving.deployment.loopback import free_port

BUFFER_BYTES = 131_072
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Gateway:
    """Answers over kept connections; one that `dies` hears so many POSTs, and ends at the last without a word."""

    def __init__(self, dies: int | None = None) -> None:
        self.listens = socket.create_server(("127.0.0.1", 0))
        self.port, self.dies, self.heard = self.listens.getsockname()[1], dies, 0
        self.threads = [threading.Thread(target=self._accept)]
        self.connections: list[socket.socket] = []
        self.threads[0].start()

    def end(self) -> None:
        """As the kernel does it for a process that is killed."""
        for one in (self.listens, *self.connections):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(self.listens.accept()[0])
                self.threads.append(threading.Thread(target=self._serve, args=(self.connections[-1],)))
                self.threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while line := stream.readline():
                headers = [line]
                while headers[-1].strip():
                    headers.append(stream.readline())
                lengths = [int(one.split(b":")[1]) for one in headers if one.lower().startswith(b"content-length")]
                stream.read(sum(lengths))
                self.heard += line.startswith(b"POST")
                if self.heard == self.dies:
                    self.end()
                    break
                connection.sendall(ANSWER)


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Any]:
    """`haproxy(*gateways)` runs it before them and returns its port."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray.serve's own modules warn of pydantic's deprecations
        serve: Any = importlib.import_module("ray.serve._private.haproxy")
    variables = haproxy_environment("127.0.0.1", tmp_path / "hap")
    running: list[subprocess.Popen[bytes]] = []
    behind: list[Gateway] = []

    def run(*gateways: Gateway) -> int:
        behind.extend(gateways)
        port, path = free_port("127.0.0.1"), variables["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]
        config = serve.HAProxyConfig(
            socket_path=variables["RAY_SERVE_HAPROXY_SOCKET_PATH"], metrics_enabled=False,
            metrics_port=int(variables["RAY_SERVE_HAPROXY_METRICS_PORT"]), is_head=True, has_received_routes=True,
        )  # fmt: skip
        config.http_options.host, config.http_options.port = "127.0.0.1", port
        servers = [serve.ServerConfig(f"s{one.port}", "127.0.0.1", one.port) for one in gateways]
        backend = serve.BackendConfig("gateway", "/", servers=servers, app_name="gateway")
        serve.HAProxyApi(config, {"gateway": backend}, path)._generate_config_file_internal()
        binary = variables["RAY_SERVE_HAPROXY_BINARY_PATH"]
        running.append(subprocess.Popen([binary, "-db", "-f", path], env={**os.environ, **variables}))
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return port
            time.sleep(0.02)
        raise AssertionError("HAProxy does not answer")

    yield run
    for process in running:
        process.kill()
        process.wait()
    for gateway in behind:
        gateway.end()
        for thread in gateway.threads:
            thread.join(5)


def statuses(port: int, requests: int, bytes_: int) -> list[int]:
    """Ask over one kept connection; headers go first and the body later, as most clients send them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    found = []
    for _ in range(requests):
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("content-length", str(bytes_))
        connection.endheaders()
        time.sleep(0.01)
        connection.send(b"x" * bytes_)
        answered = connection.getresponse()
        answered.read()
        found.append(answered.status)
    connection.close()
    return found


@pytest.mark.parametrize("bytes_", [10, 60_000])
def test_a_gateway_that_dies_while_it_answers_costs_no_request_and_no_connection(haproxy: Any, bytes_: int) -> None:
    dying, other = Gateway(dies=4), Gateway()
    assert statuses(haproxy(dying, other), 20, bytes_) == [200] * 20
    assert (dying.heard, other.heard) == (4, 17)  # the last one that died was asked again of the other


def test_a_body_beyond_the_buffer_still_arrives_whole(haproxy: Any) -> None:
    gateway = Gateway()
    assert statuses(haproxy(gateway), 2, 3 * BUFFER_BYTES) == [200, 200]


def test_the_wrapper_that_nodes_name_finds_haproxy_binds_loopback_and_may_run_twice(
    haproxy: Any, tmp_path: Path
) -> None:
    haproxy(Gateway())  # as an embedded service runs it: a copy of the same file
    path = tmp_path / "hap" / "haproxy.cfg"
    once = path.read_text()
    assert once.count("option http-buffer-request") == 1
    assert f"tune.bufsize {BUFFER_BYTES}\n" in once
    binds = [line.split()[1] for line in once.splitlines() if line.strip().startswith("bind ")]
    assert binds and all(one.startswith("127.0.0.1:") for one in binds), binds
    folder = str(Path(sys.executable).parent)  # a node has our `python` on its path, and names the wrapper for Ray
    node = {"PATH": f"{folder}:{os.environ['PATH']}", "RAY_SERVE_HAPROXY_BINARY_PATH": str(WRAPPER)}
    path.write_text(once.replace("    option http-buffer-request\n", "").replace("bind 127.0.0.1:", "bind *:"))
    for _ in range(2):
        subprocess.run([WRAPPER, "-c", "-f", path], check=True, capture_output=True, env=node)
        assert path.read_text() == once
