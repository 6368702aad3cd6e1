"""The service as a user runs it, two gateways, under load: changes, a killed replica and overload fail no request."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.store import Artifact, Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]


def serving(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a command and return what it said as JSON."""
    command = [sys.executable, "-m", "serving", *arguments, "--json"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == code, ran.stderr
    return dict(json.loads(ran.stdout))


@pytest.fixture(scope="module")
def store(exported: tuple[Recipe, Store, Artifact], champion: Registry) -> str:
    """The store whose champion is served."""
    return str(exported[1].workspace)


@pytest.fixture(scope="module")
def live(
    exported: tuple[Recipe, Store, Artifact], store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of the service with two gateways, in processes of its own."""
    recipe = tmp_path_factory.mktemp("live") / "visual.yaml"
    recipe.write_text(yaml.safe_dump(exported[0].model_dump(mode="json")))
    knobs = [f"serving.{knob}" for knob in ("replicas=2", "student_ms=2000.0", "total_ms=8000.0", "queue_ms=150.0")]
    changes = [part for knob in knobs for part in ("--set", knob)]
    said = serving("up", str(recipe), "--store", store, "--detach", *changes)
    assert "key" not in said
    yield str(said["url"])
    serving("down", "--store", store)


class Load:
    """Clients that ask without pause: answers by status, latencies of the good ones (ms), and what went wrong."""

    def __init__(self, url: str, bodies: list[dict[str, Any]], clients: int, pause_s: float = 0.01) -> None:
        self.seen: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.ms: list[float] = []
        self.wrong: list[str] = []
        self._url, self._bodies, self._pause_s = url, bodies, pause_s
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._over.is_set():
                number += 1
                path, body = "/v1/predict", self._bodies[number % len(self._bodies)]
                if number % 5 == 0:
                    path, body = "/v1/feedback", {"request_id": f"r{number}", "reward": 1.0}
                began = time.perf_counter()
                try:
                    answered = client.post(path, json=body, headers={"x-request-id": uuid.uuid4().hex})
                except httpx.HTTPError as error:
                    self.seen[-1] += 1
                    self.wrong.append(repr(error))
                    continue
                self.seen[answered.status_code] += 1
                if answered.status_code >= 500:
                    self.wrong.append(answered.text[:300])
                elif answered.status_code == 429:
                    assert int(answered.headers["retry-after"]) >= 1
                elif path == "/v1/predict":
                    self.ms.append((time.perf_counter() - began) * 1000)
                    self.versions[answered.json()["version"]] += 1
                time.sleep(self._pause_s)


def replicas() -> list[int]:
    """Processes of gateway replicas on this machine, those of other services too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::ServeReplica:gateway:gateway"):
            found.append(int(process.name))
    return found


def below(pid: int) -> set[int]:
    """All processes below one."""
    direct = [int(one) for task in Path(f"/proc/{pid}/task").glob("*/children") for one in task.read_text().split()]
    return {*direct, *(further for child in direct for further in below(child))}


def test_shares_promotion_and_rollback_fail_no_request(
    live: str, store: str, questions: list[Any], challenge: Callable[..., int]
) -> None:
    version = str(challenge("f" * 16))
    bodies = [question.body for question in questions]
    with Load(live, bodies, clients=4, pause_s=0.03) as load:
        assert [arm["weight"] for arm in serving("split", "challenger=0.3", "--store", store)["arms"]] == [0.7, 0.3]
        assert serving("promote", "--store", store)["arms"][0]["version"] == version
        assert serving("rollback", "--store", store)["arms"][0]["version"] == "1"
    assert load.wrong == []
    assert set(load.seen) <= {200, 202}
    assert set(load.versions) == {"1", version}
    state = serving("status", "--store", store)
    assert [one["served"]["arms"][0]["version"] for one in state["replicas"]] == ["1", "1"]


def test_a_killed_gateway_fails_no_request(live: str, store: str, questions: list[Any]) -> None:
    service = json.loads((Path(store) / "serving" / "address.json").read_text())["pid"]
    gateways = [pid for pid in replicas() if pid in below(service)]
    assert len(gateways) == 2
    with Load(live, [question.body for question in questions], clients=4) as load:
        time.sleep(2)
        os.kill(gateways[0], signal.SIGKILL)
        time.sleep(12)
    assert load.wrong == []
    assert set(load.seen) <= {200, 202}
    assert float(np.percentile(load.ms, 95)) < 2000


def test_overload_is_refused_in_words_and_what_is_accepted_is_answered_in_time(live: str, questions: list[Any]) -> None:
    bodies = [question.body for question in questions]
    with Load(live, bodies, clients=1, pause_s=0.0) as alone:
        time.sleep(3)
    with Load(live, bodies, clients=48, pause_s=0.0) as crowd:
        time.sleep(20)
    assert crowd.wrong == []
    assert set(crowd.seen) <= {200, 202, 429}
    assert crowd.seen[200] > alone.seen[200]
    assert float(np.percentile(crowd.ms, 95)) < 4000, (alone.seen, crowd.seen)
