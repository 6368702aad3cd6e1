"""What the gateway costs over the raw model, beside a bare FastAPI and (where they are installed) LitServe and BentoML.

The same bundle, thread count and requests, asked in turns in one run, so that neighbours disturb all of them alike.
$RAYDISTILL_SERVING_PEERS names the Python of a virtual environment with litserve, bentoml, onnxruntime, numpy,
tokenizers and pillow.
"""

import contextlib
import importlib
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.recipe import Recipe, ResourcesSection
from cluster.recipe.serving import ServingSection
from cluster.store import Artifact, Store
from serving.bundle import predict
from serving.deployment.loopback import free_port
from serving.deployment.served import spec_of
from serving.web.examples import predict_body

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROUNDS, ASKED = 8, 150
ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("bare_server.py")


@pytest.fixture(scope="module")
def bundle(exported: tuple[Recipe, Store, Artifact]) -> Path:
    return exported[2].path()


@pytest.fixture(scope="module")
def gateway(ray_cluster: ResourcesSection, bundle: Path) -> Iterator[str]:
    from serving.deployment import app

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray.serve's own modules warn of pydantic's deprecations
        importlib.import_module("ray.serve")
    section = ServingSection(student_ms=5000.0, total_ms=20000.0, queue_ms=60000.0, queue_max=512)
    running = app.start(bundle, None, section)
    yield running.url
    running.stop()


@pytest.fixture(scope="module")
def fastapi(bundle: Path) -> Iterator[str]:
    yield from server(sys.executable, "fastapi", bundle)


@pytest.fixture(params=["litserve", "bentoml"])
def peer(request: pytest.FixtureRequest, bundle: Path) -> Iterator[tuple[str, str]]:
    """Another server's name and URL."""
    python = os.environ.get("RAYDISTILL_SERVING_PEERS")
    if python is None:
        pytest.skip("needs a virtual environment with LitServe and BentoML, named by $RAYDISTILL_SERVING_PEERS")
    for url in server(python, request.param, bundle):
        yield request.param, url


def server(python: str, kind: str, bundle: Path) -> Iterator[str]:
    port = free_port("127.0.0.1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, str(SERVER), kind, str(bundle), str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while time.monotonic() < until:
            try:
                if httpx.get(url, timeout=1).status_code < 500:  # also "not found": it answers
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers behind


def p50_ms(ask: Callable[[], Any]) -> float:
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        ask()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def poster(client: httpx.Client, body: dict[str, Any]) -> Callable[[], Any]:
    return lambda: client.post("/v1/predict", json=body).raise_for_status()


def test_one_client(gateway: str, fastapi: str, bundle: Path, record: Callable[..., None]) -> None:
    body, model = predict_body(spec_of(bundle)), predict.load(bundle)
    item = {"text": body["text"], "images": [predict_bytes(image) for image in body["images"]]}
    rounds: dict[str, list[float]] = {"raw": [], "fastapi": [], "gateway": []}
    with httpx.Client(base_url=gateway) as ours, httpx.Client(base_url=fastapi) as bare:
        asks = {"raw": lambda: model.predict([item]), "fastapi": poster(bare, body), "gateway": poster(ours, body)}
        for ask in asks.values():
            p50_ms(ask)
        for _ in range(ROUNDS):
            for name, ask in asks.items():
                rounds[name].append(p50_ms(ask))
    best = {name: min(values) for name, values in rounds.items()}
    over = best["gateway"] - best["raw"]
    what = "p50 of POST /v1/predict over the raw in-process model, one client, fused, best of interleaved rounds"
    record("serving.overhead", what, over, "ms", peer="raw model", bar="< 1.5", passed=over < 1.5, rounds=rounds)
    what = "p50 of POST /v1/predict, one client, fused, against bare FastAPI + the same engine in a thread"
    ratio = best["gateway"] / best["fastapi"]
    record("serving.fastapi", what, best["gateway"], "ms", peer="uvicorn + FastAPI", peer_value=best["fastapi"],
           bar="< 2x", passed=ratio < 2, rounds=rounds)  # fmt: skip


def predict_bytes(image: str) -> bytes:
    import base64

    return base64.b64decode(image)


def answers_per_s(url: str, body: dict[str, Any], clients: int = 32, seconds: float = 6.0) -> float:
    counts, over = [0] * clients, threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not over.is_set():
                client.post("/v1/predict", json=body).raise_for_status()
                counts[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    time.sleep(seconds)
    over.set()
    took = time.perf_counter() - began
    for thread in threads:
        thread.join()
    return sum(counts) / took


def test_thirty_two_clients(gateway: str, peer: tuple[str, str], bundle: Path, record: Callable[..., None]) -> None:
    name, url = peer
    body = predict_body(spec_of(bundle))
    other = {"rows": [body]} if name == "bentoml" else body
    rounds = [(answers_per_s(gateway, body), answers_per_s(url, other)) for _ in range(3)]
    ours, theirs = (max(values) for values in zip(*rounds, strict=True))
    what = "answers a second at 32 clients, best of 3 interleaved rounds, same bundle and threads"
    record(f"serving.throughput.{name}", what, ours, "1/s", peer={"litserve": "LitServe", "bentoml": "BentoML"}[name],
           peer_value=theirs, bar=">= 1x", passed=ours >= theirs, rounds=rounds)  # fmt: skip
