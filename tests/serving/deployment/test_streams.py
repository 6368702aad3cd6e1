"""A student that writes, behind HAProxy and Ray Serve: its text streams from the gateway's own process, from a
challenger's application, and in `split` mode."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.recipe import DriftSection, ExperimentSection, TrafficSection
from cluster.recipe.serving import ServingSection
from cluster.store import Store
from serving.bundle import predict
from serving.deployment import app
from serving.deployment.app import Running
from serving.deployment.document import app_of
from serving.deployment.served import CHALLENGER, Names, ServedArm
from serving.monitoring import watcher

pytestmark = pytest.mark.slow
SAID = "a dog ran by the sea"


@pytest.fixture
def start(serve_ready: None, folder: Path, store: Store) -> Iterator[Callable[[str], Running]]:
    """`start(mode)` serves the bundle as champion, and again as a challenger with half of the units."""
    experiment = ExperimentSection(ramp=[0.5], promote="never", guards=[])
    settings = {
        "model": "writer", "task": "text_generation", "store": store.root, "references": {},
        "experiment": experiment.model_dump(mode="json"), "traffic": TrafficSection().model_dump(mode="json"),
        "drift": DriftSection().model_dump(mode="json"),
    }  # fmt: skip
    begun: list[Running] = []

    def start(mode: Any) -> Running:
        at = str(folder.resolve())
        arm = ServedArm(name=CHALLENGER, model="writer", version="2", bundle=at, weight=0.5, app=app_of(at))
        options = app.Options(arms=(arm,), observer={"open": watcher.OPEN, "args": settings})
        section = ServingSection(mode=mode, student_ms=8000.0, total_ms=12000.0)
        begun.append(app.start(folder, None, section, names=Names("writer", "1"), options=options))
        return begun[-1]

    yield start
    for one in begun:
        one.stop()


def streamed(client: httpx.Client, user: str) -> tuple[list[str], str]:
    """Pieces of the answer to SAID, and the arm that wrote them."""
    body = {"model": "w", "messages": [{"role": "user", "content": SAID}], "stream": True, "user": user}
    pieces, arm = [], ""
    with client.stream("POST", "/v1/chat/completions", json=body) as answered:
        assert answered.status_code == 200, answered.read()
        for line in answered.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            pieces += [one["delta"]["content"] for one in event["choices"] if "content" in one["delta"]]
            arm = event["raydistill"]["arm"] if "raydistill" in event else arm
    return pieces, arm


@pytest.mark.parametrize("mode", ["fused", "split"])
def test_a_text_streams_from_the_champion_and_from_a_challenger(
    start: Callable[[str], Running], folder: Path, mode: str
) -> None:
    (expected,) = predict.load(folder).predict([{"text": SAID}])
    with httpx.Client(base_url=start(mode).url, timeout=60, trust_env=False) as client:
        arms = set()
        for number in range(20):
            pieces, arm = streamed(client, f"user {number}")
            assert ("".join(pieces), len(pieces) > 2) == (expected.text, True), (arm, pieces)
            arms.add(arm)
        assert arms == {"champion", CHALLENGER}
        # Who leaves early ends the work there: the next one is answered whole.
        body = {"model": "w", "messages": [{"role": "user", "content": SAID}], "stream": True}
        for number in range(8):
            with client.stream("POST", "/v1/chat/completions", json=body | {"user": f"user {number}"}) as answered:
                next(answered.iter_lines())
        assert "".join(streamed(client, "user 0")[0]) == expected.text
        refused = client.post("/v1/chat/completions", json=body | {"messages": [{"role": "user", "content": ""}]})
        assert refused.status_code in (400, 422)
