"""What the gateway costs over the raw model, beside a bare FastAPI and (where they are installed) LitServe and BentoML.

The same bundle, thread count and requests, asked in turns in one run, so that neighbours disturb all of them alike. A
peer is stopped (SIGSTOP) while it is not asked: LitServe's idle processes poll, and take a whole core from whoever is.
$RAYDISTILL_SERVING_PEERS names the Python of a virtual environment with litserve, bentoml, onnxruntime, numpy,
tokenizers and pillow. The client is wrk (apt install wrk): a client in Python takes as much CPU as the servers.
"""

import base64
import contextlib
import importlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
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

pytestmark = [
    pytest.mark.slow, pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk, a load generator (apt install wrk)"),
]  # fmt: skip
ROUNDS, SECONDS, ASKED, CLIENTS = 7, 4, 150, 32
ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("bare_server.py")


@pytest.fixture(scope="module")
def bundle(exported: tuple[Recipe, Store, Artifact]) -> Path:
    return exported[2].path()


@pytest.fixture(scope="module")
def gateway(request: pytest.FixtureRequest, ray_cluster: ResourcesSection, bundle: Path) -> Iterator[str]:
    """As many replicas of it as the test's parameter says, or one."""
    from serving.deployment import app

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray.serve's own modules warn of pydantic's deprecations
        importlib.import_module("ray.serve")
    replicas = getattr(request, "param", 1)
    section = ServingSection(student_ms=5000.0, total_ms=20000.0, queue_ms=60000.0, queue_max=512, replicas=replicas)
    running = app.start(bundle, None, section)
    yield running.url
    running.stop()


@dataclass(frozen=True)
class Peer:
    """Another server: its name, its URL, and its processes' group."""

    name: str
    url: str
    group: int

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """None of its processes runs meanwhile."""
        os.killpg(self.group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.group, signal.SIGCONT)


@pytest.fixture(scope="module")
def fastapi(bundle: Path) -> Iterator[str]:
    for one in server(sys.executable, "fastapi", bundle):
        yield one.url


@pytest.fixture
def peer(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Peer]:
    """A server that is no part of ours."""
    python = os.environ.get("RAYDISTILL_SERVING_PEERS")
    if python is None:
        pytest.skip("needs a virtual environment with LitServe and BentoML, named by $RAYDISTILL_SERVING_PEERS")
    yield from server(python, request.param, bundle)


def server(python: str, kind: str, bundle: Path) -> Iterator[Peer]:
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
        yield Peer(kind, url, process.pid)
    finally:
        process.terminate()
        process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe leaves its workers behind


@dataclass(frozen=True)
class Load:
    """What wrk saw: median latency (ms), answers a second, and answers that were no 2xx (count)."""

    p50: float
    per_s: float
    wrong: int


SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = %s
function done(summary, latency)
  io.write(string.format("\\nRESULT %%f %%f %%d\\n", latency:percentile(50) / 1e3,
    summary.requests / summary.duration * 1e6, summary.errors.status + summary.errors.timeout + summary.errors.read))
end
"""


def loaded(url: str, body: dict[str, Any], clients: int, folder: Path) -> Load:
    """Ask a server for SECONDS from `clients` connections."""
    script = folder / "post.lua"
    script.write_text(SCRIPT % f"[==[{json.dumps(body)}]==]")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{SECONDS}s", "--timeout", "60s", "-s", str(script)]
    said = subprocess.run([*command, f"{url}/v1/predict"], capture_output=True, text=True, check=True).stdout
    p50, per_s, wrong = said.rpartition("RESULT ")[2].split()
    return Load(float(p50), float(per_s), int(wrong))


def raw_ms(model: predict.Answerer, item: dict[str, Any]) -> float:
    """Median of the model in this process (ms)."""
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        model.predict([item])
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took)


def test_one_client(gateway: str, fastapi: str, bundle: Path, tmp_path: Path, record: Callable[..., None]) -> None:
    body, model = predict_body(spec_of(bundle)), predict.load(bundle)
    item = {"text": body["text"], "images": [base64.b64decode(image) for image in body["images"]]}
    rounds: dict[str, list[float]] = {"raw": [], "fastapi": [], "gateway": []}
    servers = {"fastapi": fastapi, "gateway": gateway}
    for number in range(ROUNDS + 1):  # the first one warms up
        seen = {name: loaded(url, body, 1, tmp_path) for name, url in servers.items()}
        assert not any(load.wrong for load in seen.values()), seen
        if number:
            rounds["raw"].append(raw_ms(model, item))
            for name, load in seen.items():
                rounds[name].append(load.p50)
    median = {name: statistics.median(values) for name, values in rounds.items()}
    over = median["gateway"] - median["raw"]
    what = "p50 of POST /v1/predict over the raw in-process model, one client (wrk), fused, median of rounds"
    record("serving.overhead", what, over, "ms", peer="bare uvicorn + FastAPI, over the same raw model",
           peer_value=median["fastapi"] - median["raw"], bar="< 1.5", passed=over < 1.5, rounds=rounds)  # fmt: skip
    what = "p50 of POST /v1/predict, one client (wrk), fused, against bare FastAPI + the same engine in a thread"
    ratio = median["gateway"] / median["fastapi"]
    record("serving.fastapi", what, median["gateway"], "ms", peer="uvicorn + FastAPI", peer_value=median["fastapi"],
           bar="< 2x", passed=ratio < 2, rounds=rounds)  # fmt: skip


# LitServe is two processes, one for HTTP and one for the model; a gateway is one, so two of them stand beside it too.
@pytest.mark.parametrize(
    ("gateway", "peer", "row"),
    [(1, "litserve", "litserve"), (1, "bentoml", "bentoml"), (2, "litserve", "litserve.two_gateways")],
    indirect=["gateway", "peer"],
)
def test_thirty_two_clients(
    gateway: str, peer: Peer, row: str, bundle: Path, tmp_path: Path, record: Callable[..., None]
) -> None:
    name, body = peer.name, predict_body(spec_of(bundle))
    other = {"rows": [body]} if name == "bentoml" else body
    loaded(peer.url, other, CLIENTS, tmp_path)  # warms it up
    rounds = []
    for _ in range(ROUNDS):
        with peer.asleep():
            ours = loaded(gateway, body, CLIENTS, tmp_path)
        rounds.append((ours, loaded(peer.url, other, CLIENTS, tmp_path)))
    assert not any(load.wrong for pair in rounds for load in pair), rounds
    our_s, their_s = (statistics.median(load.per_s for load in loads) for loads in zip(*rounds, strict=True))
    what = "answers a second at 32 clients (wrk), median of interleaved rounds, same bundle, a model thread a process"
    if row.endswith("two_gateways"):
        what = f"{what}; two gateways beside LitServe's two processes"
    record(f"serving.throughput.{row}", what, our_s, "1/s", peer={"litserve": "LitServe", "bentoml": "BentoML"}[name],
           peer_value=their_s, bar=">= 1x", passed=our_s >= their_s,
           rounds=[[asdict(load) for load in pair] for pair in rounds])  # fmt: skip
