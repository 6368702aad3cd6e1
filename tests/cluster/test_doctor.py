"""The doctor: what it sees on a real Ray, and what it says of nodes that are not fit."""

import dataclasses
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import pins
from cluster.doctor import checks, examine, probe

GOOD = probe.NodeReport(
    node="10.0.0.1 aaaa", host="one", labels={"role": "head"},
    resources={"CPU": 4.0, "memory": 8e9, "object_store_memory": 1e9}, versions=pins.here(), disk_free=100 << 30,
    disk_used_share=0.2, shm_bytes=2 << 30, gpus=(), torch_sees_gpu=None, tensorrt=None, store=None, write_mb_s=200.0,
    read_mb_s=200.0, shared=True, unreachable=(), loopback_name=None, auth_mode="token",
)  # fmt: skip


def judged(*reports: probe.NodeReport, **cluster: Any) -> dict[str, str]:
    """Name -> worst status of what is found on these nodes of a cluster beyond this machine."""
    facts = {"here": pins.here(), "dead": 0, "loopback": False, **cluster}
    worst: dict[str, str] = {}
    for check in checks.judge(checks.Cluster(reports=reports or (GOOD,), **facts)):
        assert check.status == "ok" or check.todo, check
        if worst.get(check.name, "ok") == "ok" or check.status == "block":
            worst[check.name] = check.status
    return worst


def test_a_good_cluster_is_fine_in_every_respect() -> None:
    assert set(judged().values()) == {"ok"}
    assert {"resources", "authentication", "versions", "store", "ports", "clock", "disk"} <= set(judged())


GPU = ("NVIDIA H100, 81559 MiB, 580.95",)
ON_GPU = {**GOOD.resources, "GPU": 1.0}
BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("versions", "block", {"versions": {**pins.here(), "ray": "2.59.0"}}),
    ("versions", "block", {"versions": {"python": "3.12", "ray": "2.60.0"}}),
    ("store", "block", {"store": "OSError: no such bucket", "write_mb_s": None, "read_mb_s": None}),
    ("store", "warn", {"write_mb_s": 3.0}),
    ("ports", "block", {"unreachable": ("10.0.0.2:8076",)}),
    ("host name", "warn", {"loopback_name": "127.0.1.1"}),
    ("clock", "block", {"skew_s": -40.0, "skew_within_s": 0.1}),
    ("clock", "warn", {"skew_s": 3.0, "skew_within_s": 0.1}),
    ("clock", "ok", {"skew_s": 3.0, "skew_within_s": 2.5}),  # a slow network, not a wrong clock
    ("disk", "block", {"disk_free": 1 << 30}),
    ("disk", "warn", {"disk_used_share": 0.97}),
    ("shared memory", "warn", {"shm_bytes": 64 << 20}),
    ("resources", "block", {"resources": {"CPU": 0.0, "memory": 8e9}}),
    ("resources", "warn", {"resources": {"CPU": 1.0, "memory": 1e9}}),
    ("authentication", "block", {"auth_mode": "disabled"}),
    ("gpu", "ok", {"gpus": GPU, "torch_sees_gpu": True, "resources": ON_GPU, "tensorrt": "10.13"}),
    ("gpu", "warn", {"gpus": GPU, "torch_sees_gpu": False, "resources": ON_GPU}),
    ("gpu", "warn", {"gpus": GPU, "torch_sees_gpu": True}),
    ("gpu", "block", {"resources": ON_GPU}),
]


@pytest.mark.parametrize(("name", "status", "change"), BAD, ids=[f"{name}-{status}" for name, status, _ in BAD])
def test_what_is_not_fit_is_named_with_what_to_do(name: str, status: str, change: dict[str, Any]) -> None:
    found = judged(dataclasses.replace(GOOD, **change))
    assert found[name] == status
    assert {key: value for key, value in found.items() if key != name and value != "ok"} == {}


def test_nodes_that_do_not_share_the_stores_workspace_block_but_one_node_needs_nobody() -> None:
    alone = dataclasses.replace(GOOD, shared=False)
    assert judged(alone)["store"] == "ok"
    assert judged(GOOD, dataclasses.replace(alone, node="10.0.0.2 bbbb"))["store"] == "block"


def test_a_door_that_was_found_open_blocks_except_on_this_machine_alone() -> None:
    assert judged(open_door=True)["authentication"] == "block"
    assert judged(dataclasses.replace(GOOD, auth_mode="disabled"), loopback=True)["authentication"] == "ok"
    assert judged(dead=1)["nodes"] == "warn"


class Door(http.server.BaseHTTPRequestHandler):
    """Lists jobs to everybody below /open, to nobody elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path.startswith("/open") else 401)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_door_is_tried_without_a_token(url: str) -> None:
    assert examine.is_open(f"{url}/open")
    assert not examine.is_open(url)
    assert not examine.is_open("http://127.0.0.1:9")


@pytest.mark.usefixtures("ray_cluster")
def test_a_real_ray_is_looked_at_and_nothing_is_left_in_the_store(tmp_path: Path) -> None:
    document = examine.connected(str(tmp_path))
    (node,) = document["nodes"]
    assert (document["blocked"], document["loopback"], document["dead"]) == (False, True, 0)
    assert (node["versions"], node["shared"], node["store"], node["unreachable"]) == (pins.here(), True, None, ())
    assert min(node["write_mb_s"], node["read_mb_s"], node["disk_free"]) > 0
    assert abs(node["skew_s"]) < 1 + node["skew_within_s"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "fit to run on" in examine.told(document)


def test_a_store_that_cannot_be_written_blocks(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")
    question = probe.Question(str(tmp_path / "runs" / "below"), "marker", ())
    report = probe.look(question, "here", {}, {})
    assert report.store is not None
    found = checks.judge(checks.Cluster(pins.here(), [report], 0, True))
    assert checks.blocked(found)
