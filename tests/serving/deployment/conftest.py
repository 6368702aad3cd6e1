"""The service as a user runs it, in processes of its own, and clients that ask it without pause."""

import importlib.util
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from tokenizers import Tokenizer

from cluster.canonical import file_digest
from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.store import Artifact, Store
from jobs.data import vocabulary
from serving.bundle import files
from serving.models import decoder, decoder_graph

ROOT = Path(__file__).resolve().parents[3]
TEXTS = ["the cat sat", "a dog ran by the sea", "one bird", "the cat sat on a mat and the dog ran"]
SIZES = {"layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "inner_size": 48}
MEASURED = "RAYDISTILL_RECORD" in os.environ  # set by `make chaos`, which has the machine to itself

_SPEC = importlib.util.spec_from_file_location("benchmarks_conftest", ROOT / "tests" / "benchmarks" / "conftest.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_BENCHMARKS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_BENCHMARKS)
record = _BENCHMARKS.record


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record` of the benchmarks where RAYDISTILL_RECORD is set, else nothing: beside others' work it says nothing."""
    if not MEASURED:
        return lambda *_, **__: None
    write: Callable[..., None] = request.getfixturevalue("record")
    return write


def command(*arguments: str) -> dict[str, Any]:
    """Run `python -m serving ... --json` and return what it said."""
    whole = [sys.executable, "-m", "serving", *arguments, "--json"]
    ran = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return dict(json.loads(ran.stdout))


def below(pid: int) -> set[int]:
    """All processes below one."""
    direct = [int(one) for task in Path(f"/proc/{pid}/task").glob("*/children") for one in task.read_text().split()]
    return {*direct, *(further for child in direct for further in below(child))}


class Live:
    """A service that runs: its URL, and its processes by what they do."""

    def __init__(self, store: str, said: dict[str, Any]) -> None:
        self.store, self.url, self.pid = store, str(said["url"]), int(said["pid"])

    def serving(self, *arguments: str) -> dict[str, Any]:
        """A command about it."""
        return command(*arguments, "--store", self.store)

    def admin(self) -> httpx.Client:
        """A client with the operator's key."""
        known = json.loads((Path(self.store) / "serving" / "address.json").read_text())
        return httpx.Client(base_url=self.url, timeout=90, headers={"authorization": f"Bearer {known['key']}"})

    def processes(self, title: bytes) -> list[int]:
        """Those of its processes whose command line begins so."""
        found = []
        for pid in below(self.pid):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(title):
                found.append(pid)
        return sorted(found)

    @contextmanager
    def down(self, *titles: bytes) -> Iterator[None]:
        """Ray starts processes that were killed again, so those of these titles are killed until the end."""
        over = threading.Event()

        def kill() -> None:
            while not over.is_set():
                for pid in (pid for title in titles for pid in self.processes(title)):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            time.sleep(1)
            yield
        finally:
            over.set()
            killer.join()


class Load:
    """Clients that ask without pause: answers by status, latencies of the good ones (ms), and what went wrong.

    `answers`: when each prediction was asked and answered (seconds of time.perf_counter), and by which version.
    """

    def __init__(
        self, url: str, bodies: list[dict[str, Any]], clients: int, pause_s: float = 0.01,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.seen: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.ms: list[float] = []
        self.wrong: list[str] = []
        self.answers: list[tuple[float, float, str]] = []
        self._url, self._bodies, self._pause_s, self._headers = url, bodies, pause_s, headers or {}
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
                    answered = client.post(path, json=body, headers={**self._headers, "x-request-id": uuid.uuid4().hex})
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
                    self.answers.append((began, time.perf_counter(), answered.json()["version"]))
                time.sleep(self._pause_s)


@pytest.fixture(scope="session")
def load() -> type[Load]:
    """`load(url, bodies, clients, pause_s, headers)`."""
    return Load


@pytest.fixture(scope="session")
def crowd() -> Callable[..., Any]:
    """`with crowd(url, bodies, clients) as seen`: predictions without a pause; `seen` is filled at the end."""

    @contextmanager
    def asked(url: str, bodies: list[dict[str, Any]], clients: int) -> Iterator[Counter[str]]:
        port = httpx.URL(url).port
        command = [sys.executable, str(Path(__file__).with_name("crowd.py")), str(port), str(clients)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(bodies) + "\n")
            process.stdin.flush()
            seen = Counter[str]()
            yield seen
            said, _ = process.communicate(timeout=60)
            seen.update(json.loads(said))

    return asked


@pytest.fixture(scope="session")
def serving(
    exported: tuple[Recipe, Store, Artifact], champion: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`with serving("replicas=2", "experiment.units=0.5", ...) as live` serves the champion with these knobs; those
    without a section are of `serving`."""
    recipe = tmp_path_factory.mktemp("live") / "visual.yaml"
    recipe.write_text(yaml.safe_dump(exported[0].model_dump(mode="json")))
    store = str(exported[1].workspace)

    @contextmanager
    def serve(*knobs: str) -> Iterator[Live]:
        whole = [knob if "." in knob.partition("=")[0] else f"serving.{knob}" for knob in knobs]
        changes = [part for knob in whole for part in ("--set", knob)]
        said = command("up", str(recipe), "--store", store, "--detach", *changes)
        assert "key" not in said
        try:
            yield Live(store, said)
        finally:
            command("down", "--store", store)

    return serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small language model with random weights."""
    folder = tmp_path_factory.mktemp("bundle")
    words = vocabulary.learned(TEXTS, 270)
    model = decoder.build(SIZES, words.size, 64, words.ends, 0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    spec = {
        "task": "text_generation", "continues": True, "tokens": words.ends, "max_tokens": 32, "max_new_tokens": 24,
        "temperature": 0.0, "seed": 0, "threads": 1, "engine": {"name": "onnxruntime"}, "scheme": "float32",
        "batch_invariant": False,
    }  # fmt: skip
    spec |= decoder_graph.export(model, folder)
    Tokenizer.from_str(words.tokenizer.to_str()).save(str(folder / "tokenizer.json"))
    listed = {
        path.name: {"sha256": file_digest(path), "bytes": path.stat().st_size, "encrypted": False}
        for path in folder.iterdir()
    }
    (folder / "bundle.json").write_bytes(files.written({**spec, "files": listed}))
    return folder
