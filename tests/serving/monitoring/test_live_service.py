"""All of it over HTTP: a real gateway, a real arm beside it, a real teacher, the monitor's actor, Ray's metrics."""

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.recipe import DriftSection, ExperimentSection, TrafficSection
from cluster.recipe.serving import ServingSection
from cluster.store import Store
from serving.deployment import app
from serving.deployment.document import app_of
from serving.deployment.served import CHALLENGER, Names, ServedArm
from serving.monitoring import watcher
from serving.traffic import log as traffic
from serving.traffic import verdicts
from serving.web import auth

pytestmark = pytest.mark.slow
MODEL = "watched"


@pytest.fixture
def watched(serve_ready: None, bundle: Path, teacher: Path, store: Store) -> Iterator[httpx.Client]:
    """A service whose challenger is the champion's own bundle under another version, with a ramp of seconds."""
    experiment = ExperimentSection(
        ramp=[0.3, 0.6], step_units=5, step_s=0.0, shadow=1.0, guards=["errors"], promote="never"
    )
    settings = {
        "model": MODEL, "task": "visual_qa", "store": store.root, "references": {},
        "experiment": experiment.model_dump(mode="json"), "traffic": TrafficSection(file_s=1.0).model_dump(mode="json"),
        "drift": DriftSection(window=50).model_dump(mode="json"),
    }  # fmt: skip
    folder = str(bundle.resolve())
    arm = ServedArm(name=CHALLENGER, model=MODEL, version="2", bundle=folder, weight=0.0, app=app_of(folder))
    options = app.Options(arms=(arm,), observer={"open": watcher.OPEN, "args": settings})
    secret, key = auth.draw("shop", "client", per_minute=100_000)
    auth.add(store.workspace / "keys.json", key)
    section = ServingSection(student_ms=5000.0, total_ms=8000.0, keys_file=str(store.workspace / "keys.json"))
    running = app.start(bundle, teacher, section, names=Names(MODEL, "1", "t"), options=options)
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=running.url, timeout=30, trust_env=False, headers=headers) as client:
        yield client
    running.stop()


def await_state(
    client: httpx.Client, ask: Callable[[], None], done: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The page's state as soon as it is so, while requests go on; fails after 90 s with what it was last."""
    until, state = time.monotonic() + 90, {}
    while time.monotonic() < until:
        ask()
        answered = client.get("/ui/state")
        if answered.status_code == 200:
            state = answered.json()
            if done(state):
                return state
    raise AssertionError(state)


def test_a_challenger_climbs_its_ramp_while_requests_are_logged_judged_and_measured(
    watched: httpx.Client, questions: list[Any], store: Store
) -> None:
    asked: list[str] = []

    def ask() -> None:
        for _ in range(10):
            body = questions[len(asked) % len(questions)].body | {"unit": f"unit {len(asked)}"}
            answered = watched.post("/v1/predict", json=body)
            assert answered.status_code == 200, answered.text
            asked.append(answered.json()["request_id"])

    def climbed(state: dict[str, Any]) -> bool:
        shares = {arm["name"]: arm["share"] for arm in state["arms"]}
        judged = {arm["name"]: arm["agreement"]["judged"] for arm in state["arms"] if "agreement" in arm}
        noted = any(one["kind"] == "canary" for one in state["decisions"])  # after gateways have the share and say so
        return shares.get(CHALLENGER) == 0.6 and judged.get(CHALLENGER, 0) >= 10 and noted

    state = await_state(watched, ask, climbed)
    assert {arm["version"] for arm in state["arms"]} == {"1", "2"}
    assert state["cost"]["teacher"] > 0
    said = watched.post("/v1/feedback", json={"request_id": asked[0], "reward": 1.0, "label": "seven"})
    assert said.status_code in (200, 202)
    stranger = {"authorization": ""}
    assert watched.get("/ui", headers=stranger).status_code == 200  # the page itself, which asks for the key
    assert watched.get("/ui/state", headers=stranger).status_code == 401
    assert ("canary", "none") in {(one.kind, one.decision) for one in verdicts.read(store, MODEL)}
    await_metrics("latency_ms_bucket", "arm_requests_total", "shadows_total", "arm_share", "agreement_low",
                  "requests_total", "breaker_open")  # fmt: skip
    await_metrics(*(f'replica_memory_bytes{{[^}}]*kind="{kind}"' for kind in ("gateway", "student", "teacher")))
    time.sleep(3)  # the log writes a file each second
    rows = {row["request_id"]: row for row in traffic.read(store, MODEL).to_pylist()}
    assert set(asked) <= set(rows)
    assert {row["arm"] for row in rows.values()} == {"champion", CHALLENGER}
    assert all(row["images"] for row in rows.values())
    assert any(row["teacher_answer"] and row["judged"] is not None for row in rows.values())
    assert rows[asked[0]]["label"] == "seven"


def await_metrics(*names: str) -> None:
    """Until Ray's metrics port of this node says all of these (expressions; every process reports each few seconds of
    its own)."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    missing, until = list(names), time.monotonic() + 60
    while missing and time.monotonic() < until:
        with direct.open(url, timeout=10) as answered:
            text = answered.read().decode()
        missing = [name for name in names if not re.search(f"^ray_raydistill_{name}", text, re.MULTILINE)]
        time.sleep(0.5)
    assert missing == []
