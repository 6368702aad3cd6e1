"""Fixtures that every folder's tests share: a small valid recipe, an empty store, and a fresh Python process."""

import copy
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import session, tracing
from cluster.recipe import Recipe, ResourcesSection
from cluster.store import Artifact, Store

ROOT = Path(__file__).resolve().parents[1]

SMALL_RECIPE: dict[str, Any] = {
    "name": "small",
    "task": "text_classification",
    "data": {"source": "table", "train": "train.parquet", "test": "test.parquet"},
    "teacher": {"architecture": "encoder"},
    "student": {"architecture": "encoder", "params": {"layers": 2}},
    "distill": {
        "stages": [
            {"name": "soft_labels", "epochs": 2, "learning_rate": 0.003, "losses": [{"name": "kl"}]},
            {"name": "hidden_states", "epochs": 1, "learning_rate": 0.001, "losses": [{"name": "kl"}, {"name": "mse"}]},
        ]
    },
    "promote": {"model_name": "small"},
}


def pytest_configure() -> None:
    """Ray reads its variables when it is first imported, and some tests import it before there is a cluster."""
    session.prepare_environment("embedded")


@pytest.fixture
def recipe_values() -> dict[str, Any]:
    """The smallest recipe that loads, as plain values that a test may change."""
    return copy.deepcopy(SMALL_RECIPE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder of its own."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def start_python() -> Callable[..., "subprocess.Popen[str]"]:
    """Start `python -c CODE ARGUMENTS` from the repository root with pipes for stdout and stderr."""

    def start(code: str, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *map(str, arguments)]
        inherited = {**os.environ, **environment}
        return subprocess.Popen(
            command, cwd=ROOT, text=True, env=inherited, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """What headless Chromium makes of a page: `browse(url, width, *options)` returns its stdout."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Debian's package chromium")

    def shown(url: str, width: int, *options: str) -> str:
        given = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path}/profile", f"--window-size={width},2600", "--virtual-time-budget=4000",
        ]  # fmt: skip
        command = [chromium, *given, *options, url]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    return shown


@pytest.fixture
def spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], dict[str, dict[str, object]]]]:
    """Tracing into a file; call it for the spans written so far, by name."""
    path = tmp_path / "spans.jsonl"
    monkeypatch.setenv(tracing.VARIABLE, str(path))
    monkeypatch.delenv(tracing.PARENT, raising=False)

    def read() -> dict[str, dict[str, object]]:
        tracing.flush()
        return {one["name"]: one for one in map(json.loads, path.read_text().splitlines())}

    yield read
    tracing._provider(str(path)).shutdown()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[ResourcesSection]:
    """The one embedded Ray cluster of a test run: a cold start costs ten seconds, so all tests share it."""
    resources = ResourcesSection(cpus=2)
    session.connect(resources)
    yield resources
    session.disconnect()


@pytest.fixture(scope="session")
def in_process() -> Callable[[], AbstractContextManager[None]]:
    """`with in_process():` steps work in this process: the same bodies and the same loop, without Ray's start."""

    @contextmanager
    def patched() -> Iterator[None]:
        from jobs import generate
        from jobs.data.answers import Answerer
        from jobs.training import run as training
        from jobs.training.runner import run_local

        def answer(requests: Path, model: Path, section: Any, scratch: Path, opening: Any) -> None:
            answerer = Answerer(str(model), section, str(scratch / generate.TALLY), opening)
            generate.answer_here(requests, section, scratch, lambda: answerer)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generate, "answer_all", answer)
            patch.setattr(training, "run_ray", lambda job, name, storage: run_local(job, Path(storage) / name))
            patch.setattr(session, "connect", lambda resources: None)
            yield

    return patched


@pytest.fixture
def without_ray(in_process: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Every step of the test in this process."""
    with in_process():
        yield


class Quiet:
    """A watcher of `jobs.pipeline` that says nothing, and knows which steps were begun."""

    def __init__(self) -> None:
        self.verbs: list[str] = []

    def started(self, verb: str, scratch: list[str]) -> None:
        self.verbs.append(verb)

    def finished(self, verb: str, artifacts: list[Artifact], seconds: float, reused: bool) -> None:
        pass


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()


S3_KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
S3_START_S = 60


def moto_server() -> str:
    """An S3 server from a virtual environment of its own: `pip install 'moto[s3]' flask flask-cors`. It is named by
    $RAYDISTILL_MOTO, or lies in `.venv/s3`, where `.ci/run` installs it, or beside this Python. Skips where there is
    none."""
    named = os.environ.get("RAYDISTILL_MOTO")
    own = [Path(sys.prefix) / "s3" / "bin" / "moto_server", Path(sys.executable).parent / "moto_server"]
    there = [str(path) for path in own if path.is_file()]  # another one on the PATH may be too old to answer
    found = named or next(iter(there), None)
    if not found:
        pytest.skip("no moto_server (an S3 server): see moto_server in tests/conftest.py")
    return found


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """host:port of a running S3 server with the bucket "bucket"."""
    command = moto_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [command, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + S3_START_S
    while True:
        try:
            direct.open(f"http://127.0.0.1:{port}/moto-api/", timeout=2).close()
            break
        except OSError:
            assert time.monotonic() < until and server.poll() is None
            time.sleep(0.1)
    direct.open(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT"), timeout=10).close()
    yield f"127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.fixture
def s3_uri(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A place of this test's own in the bucket; its keys are in the environment."""
    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{abs(hash(request.node.name))}?endpoint_override={s3_endpoint}&scheme=http&region=us-east-1"


VISUAL_RECIPE: dict[str, Any] = {
    "name": "visual",
    "task": "visual_qa",
    "data": {"source": "digits", "params": {"validation": 72, "test": 40}},
    "teacher": {"architecture": "omni_moe", "params": {"layers": 2, "hidden_size": 48, "vision_layers": 2}},
    "student": {"architecture": "omni_moe", "params": {"layers": 2, "hidden_size": 32, "heads": 2, "kv_heads": 2}},
    "distill": {"stages": [{"name": "one", "epochs": 1, "learning_rate": 0.001, "losses": [{"name": "forward_kl"}]}]},
    "export": {"scheme": "exact"},
    "promote": {"model_name": "visual"},
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Store, Artifact]:
    """The bundle that `jobs export` makes of an untrained student and teacher: random weights, everything else real."""
    import torch

    from jobs import distill, export, fit, tasks

    recipe, store = Recipe.parse(VISUAL_RECIPE), Store.open(tmp_path_factory.mktemp("exported"))
    task = tasks.of(recipe)
    for seed, (step, section) in enumerate(((fit.STEP, recipe.teacher), (distill.STEP, recipe.student))):
        inputs = step.section(recipe)
        with store.draft(step.kind, step.id(recipe), section=inputs, parents={}, step_version=step.version) as draft:
            network = task.build(section, seed)
            for parameter in network.parameters():
                if parameter.ndim > 1:  # wide enough that answers differ from question to question
                    torch.nn.init.normal_(parameter, std=0.15, generator=torch.Generator().manual_seed(seed))
            (draft.path / "hf").mkdir()
            task.save(network, draft.path / "hf")
    return recipe, store, export.STEP.run(recipe, store)
