"""A run on three hosts while hosts die, a link is cut and the head restarts: the same ids, and no row lost.

Hosts are network, process and mount namespaces of this machine (`netcluster.sh`): it needs root and Linux, and it loads
two cores for some ten minutes. What happened is left in .chaos/hosts.json.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cluster.recipe import Gates, Recipe, load
from cluster.session import ROOT
from cluster.store import Store
from jobs import pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="namespaces need root on Linux"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("ip", "tc", "nsenter", "unshare"))), reason="needs iproute2, util-linux"
    ),
]

FOLDER = ROOT / ".chaos"  # hosts share the root file system, but each has a /tmp of its own
URL = "http://10.77.0.1:8265"
PATIENCE_S = 600
# Silent hosts are noticed in seconds and not in a minute (findings/cluster.md 2); the head's restart is waited for.
TUNED = {
    "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3", "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000", "RAY_gcs_rpc_server_reconnect_timeout_s": "180",
    "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
}  # fmt: skip
SHAPE = (
    "{layers: 1, hidden_size: 32, heads: 2, kv_heads: 2, head_dim: 16, expert_size: 16, "
    "vision_layers: 1, vision_size: 16, vision_heads: 2}"
)
SMALL = [
    f"teacher.params={SHAPE}", f"student.params={SHAPE.replace('hidden_size: 32', 'hidden_size: 24')}",
    "data.params={validation: 24, test: 60}", "fit.samples=2048", "fit.batch_size=16", "fit.engine.workers=1",
    "fit.engine.checkpoint_every=20", "generate.samples=1500", "generate.batch_size=8", "generate.blocks=12",
    "generate.concurrency=1", "curate.filters=[{name: duplicate}]", "distill.batch_size=16", "distill.control=false",
    "distill.stages.2.kv_heads=1", "distill.engine.checkpoint_every=20", "distill.engine.max_failures=6",
    "fit.engine.max_failures=6", "serving.demo_requests=0", "evaluate.bootstrap=200",
    # Work goes to w2, the driver to w1: both can be killed apart.
    "resources.labels={generate: {chaos-host: w2}, train: {chaos-host: w2}}",
    *(f"evaluate.gates.{name}=null" for name in Gates.model_fields),
]  # fmt: skip


class Hosts:
    """The machines: head, w1, w2 and cli, and what was done to them."""

    def __init__(self) -> None:
        variables = " ".join(f"{name}={value}" for name, value in TUNED.items())
        self._env = {
            **os.environ, "CHAOS_STATE": str(FOLDER / "net"), "CHAOS_VENV": str(ROOT / ".venv"), "CHAOS_ENV": variables,
            "CHAOS_GCS": "rocksdb", "CHAOS_HEAD_CPUS": "0", "CHAOS_CPUS": "2", "CHAOS_TTL": "2000",
        }  # fmt: skip
        self.events: list[dict[str, Any]] = []
        self._began = time.monotonic()

    def __call__(self, *words: str, timeout: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        command = ["bash", str(ROOT / "tests" / "chaos" / "netcluster.sh"), *words]
        return subprocess.run(
            command, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def cluster(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """`python -m cluster ...` on the client's host, which has no Ray of its own."""
        return self("exec", "cli", "python", "-m", "cluster", *words, "--address", URL)

    def follow(self, job: str) -> "subprocess.Popen[bytes]":
        """Follow a job's log into followed.log until it ends, or the head goes away."""
        command = ["bash", str(ROOT / "tests" / "chaos" / "netcluster.sh"), "exec", "cli", "python", "-m", "cluster"]
        with (FOLDER / "followed.log").open("wb") as sink:
            words = [*command, "logs", "-f", job, "--address", URL]
            return subprocess.Popen(words, cwd=ROOT, env=self._env, stdout=sink, stderr=sink)

    def note(self, what: str, **more: Any) -> None:
        """Remember what happened, with the seconds since the beginning."""
        self.events.append({"at_s": round(time.monotonic() - self._began, 1), "what": what, **more})

    def does(self, *words: str) -> None:
        """Do something to a host; a failure ends the test."""
        done = self(*words)
        self.note(" ".join(words), rc=done.returncode)
        assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Three hosts with Ray and one without."""
    shutil.rmtree(FOLDER / "store", ignore_errors=True)
    FOLDER.mkdir(exist_ok=True)
    made = Hosts()
    up = made("up")
    assert up.returncode == 0, up.stdout + up.stderr
    made.note("up", said=up.stdout.strip())
    yield made
    made("down")
    (FOLDER / "hosts.json").write_text(json.dumps(made.events, indent=1))


def newest_job(hosts: Hosts) -> dict[str, Any]:
    """The newest job; asked again while the head is away."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        done = hosts.cluster("jobs", "--json")
        if done.returncode == 0:
            return dict(json.loads(done.stdout)["jobs"][0])
        time.sleep(2)
    pytest.fail(f"the Jobs API does not come back: {done.stdout} {done.stderr}")


class Run:
    """The job under fire: what its store says of the step it is at, resumed whenever it has failed."""

    def __init__(self, hosts: Hosts, recipe: Recipe, store: Store) -> None:
        self._hosts, self._recipe, self._store = hosts, recipe, store
        self.resumed = 0

    def submit(self) -> str:
        sets = [word for one in SMALL for word in ("--set", one)]
        command = ("python", "-m", "jobs", "run", "digits", *sets, "--store", str(FOLDER / "store"))
        done = self._hosts("exec", "cli", "python", "-m", "cluster", "submit", "--json", "--address", URL,
                           "--driver", "chaos-host=w1", "--", *command)  # fmt: skip
        assert done.returncode == 0, done.stderr
        self._hosts.note("submitted")
        return str(json.loads(done.stdout)["job"])

    def inside(self, verb: str, ready: Callable[[Path], bool] = lambda scratch: True) -> bool:
        """Wait until the step is under way (and `ready` of its scratch folder); False when it was done before."""
        step = pipeline.VERBS[verb][0]
        folder = self._store.workspace / step.kind / step.id(self._recipe)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            if (folder / "manifest.json").is_file():
                self._hosts.note(f"{verb} was done before the fault")
                return False
            if (folder / "journal.jsonl").is_file() and ready(folder / "scratch"):
                return True
            if not (folder / "journal.jsonl").is_file():
                self.mend()
            time.sleep(0.1)
        pytest.fail(f"{verb} is not reached: {self._hosts.cluster('logs').stdout[-3000:]}")

    def mend(self) -> None:
        """Resume the job when it has failed, at most now and then: each look costs a second."""
        if time.monotonic() - getattr(self, "_looked", 0.0) < 10:
            return
        job = newest_job(self._hosts)
        self._looked = time.monotonic()
        if job["status"] == "FAILED":
            done = self._hosts.cluster("resume", "--json")
            assert done.returncode == 0, done.stderr
            self.resumed += 1
            self._hosts.note("resumed", after=job["job"])

    def finish(self) -> None:
        """Wait for the end, resuming where it failed."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            job = newest_job(self._hosts)
            if job["status"] == "SUCCEEDED":
                return
            self.mend()
            time.sleep(2)
        pytest.fail(f"it does not end: {self._hosts.cluster('logs').stdout[-3000:]}")


def answered(scratch: Path) -> bool:
    return any(scratch.glob("*/answers/*.parquet"))


def trains(scratch: Path) -> bool:
    """A training has passed its first checkpoints."""
    for path in scratch.glob("*.progress"):
        try:
            if json.loads(path.read_text())["step"] >= 25:
                return True
        except (OSError, ValueError):
            continue
    return False


def test_hosts_die_a_link_is_cut_and_the_head_restarts_and_no_id_or_row_differs(
    hosts: Hosts, record: Callable[..., None]
) -> None:
    recipe, store = load("digits", SMALL), Store.open(FOLDER / "store")
    expected = {row["kind"]: row["id"] for row in pipeline.plan(recipe, store)}
    run = Run(hosts, recipe, store)
    first = run.submit()
    follower = hosts.follow(first)
    if run.inside("fit", trains):
        hosts.does("kill", "w2")
        hosts.does("start", "w2")
    if run.inside("generate", answered):
        hosts.does("kill", "w2")
        hosts.does("start", "w2")
    if run.inside("distill", trains):
        hosts.does("kill", "w2")
        hosts.does("start", "w2")
        if run.inside("distill", trains):
            hosts.does("cut", "w2", "10")
    if run.inside("export"):
        hosts.does("kill", "w1")  # the driver's own host
        hosts.does("start", "w1")
    if run.inside("evaluate"):
        hosts.does("restarthead")
    run.finish()
    hosts.note("finished", resumed=run.resumed)
    plan = pipeline.plan(recipe, store)
    assert {row["kind"]: row["id"] for row in plan} == expected
    assert all(row["done"] for row in plan)
    samples = pq.read_table(store.get("samples", expected["samples"]).path() / "samples.parquet", columns=["sample_id"])
    dead = store.get("samples", expected["samples"]).manifest.facts["dead_letters"]
    rows, distinct = len(samples), pc.count_distinct(samples["sample_id"]).as_py()
    hosts.note("rows", rows=rows, distinct=distinct, dead_letters=dead)
    assert rows == distinct == recipe.generate.samples - sum(dead.values())
    follower.kill()
    assert "fit" in (FOLDER / "followed.log").read_text()
    what = "three hosts: rows lost of a run whose hosts die in each step, a link is cut for 10 s, the head restarts"
    record("chaos_hosts", what, recipe.generate.samples - rows, "rows", bar=0, passed=True, events=hosts.events)
