"""A service as a document: `serving config` writes it, Ray's own `serve deploy` runs it on a cluster that was there
before, and shares, promotion and rollback work there as they do after `serving up`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.store import Artifact, Store
from serving.deployment.haproxy import haproxy_environment
from serving.deployment.loopback import free_port

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
FOLDER = f"/tmp/rds-{os.getpid()}"
UP_S = 120.0
CONTROL, GATEWAY = b"ray::Control", b"ray::ServeReplica:gateway:gateway"


def run(*words: str, **more: str) -> str:
    """Run a command of this Python from the repository's root, as somebody who is at this test's cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "RAYDISTILL_LOCAL": FOLDER, "PYTHONPATH": str(ROOT), **more}
    ran = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert ran.returncode == 0, (words, ran.stdout[-2000:], ran.stderr[-4000:])
    return ran.stdout


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, Any]]:
    """A cluster of this machine, with a token."""
    yield json.loads(run("-m", "cluster", "up", "--json"))
    run("-m", "cluster", "down")
    shutil.rmtree(FOLDER, ignore_errors=True)


class Declared:
    """A deployed document and how to ask its service."""

    def __init__(self, cluster: dict[str, Any], document: dict[str, Any], file: Path, key: str) -> None:
        self.cluster, self.document, self.file, self.key = cluster, document, file, key
        self.url = f"http://127.0.0.1:{document['http_options']['port']}"

    def deploy(self) -> None:
        """`serve deploy`, and wait until it answers."""
        self.file.write_text(yaml.safe_dump(self.document))
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.cluster["token_path"])}
        serve = str(Path(sys.executable).parent / "serve")
        run(serve, "deploy", str(self.file), "--address", self.cluster["dashboard"], **token)
        until = time.monotonic() + UP_S
        with httpx.Client(base_url=self.url, timeout=5, trust_env=False) as client:
            while time.monotonic() < until:
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                time.sleep(0.5)
        raise AssertionError(f"{self.url} does not answer")

    def serving(self, *words: str) -> dict[str, Any]:
        """`python -m serving ...`, told where the service is."""
        where = {"RAYDISTILL_SERVING_URL": self.url, "RAYDISTILL_SERVING_KEY": self.key}
        return dict(json.loads(run("-m", "serving", *words, "--json", **where)))


@pytest.fixture(scope="module")
def declared(
    cluster: dict[str, Any], exported: tuple[Recipe, Store, Artifact], champion: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Declared:  # fmt: skip
    """The document of the recipe's champion on a port of its own, with an admin's key, deployed."""
    place = tmp_path_factory.mktemp("declared")
    recipe, keys, store = place / "visual.yaml", place / "keys.json", str(exported[1].workspace)
    recipe.write_text(yaml.safe_dump(exported[0].model_dump(mode="json")))
    for alias in ("challenger", "previous"):  # other files of the session promote too
        now = champion.alias("visual", alias)
        champion.set_alias("visual", alias, None, expect=None if now is None else now.version)
    key = run("-m", "serving", "key", "operations", "--admin", "--file", str(keys)).strip()
    knobs = (f"serving.keys_file={keys}", f"serving.port={free_port('127.0.0.1')}", "serving.replicas=2",
             "serving.student_ms=2000.0", "serving.total_ms=8000.0", "experiment.promote=never")  # fmt: skip
    changes = [part for knob in knobs for part in ("--set", knob)]
    document = yaml.safe_load(run("-m", "serving", "config", str(recipe), "--store", store, *changes))
    # Files and ports of HAProxy that no other service of this machine has.
    variables = haproxy_environment("127.0.0.1", Path(FOLDER) / "hap")
    document["controller_options"] = {"runtime_env": {"env_vars": variables}}
    found = Declared(cluster, document, place / "service.yaml", key)
    found.deploy()
    return found


def shares(state: dict[str, Any]) -> dict[str, tuple[str, float]]:
    return {arm["name"]: (arm["version"], arm["weight"]) for arm in state["arms"]}


def test_a_service_of_serve_deploy_has_its_control_and_changes_fail_no_request(
    declared: Declared, challenge: Callable[..., int], load: Any, questions: list[Any]
) -> None:
    assert declared.serving("status")["ready"]
    version = str(challenge("9" * 16))
    key = {"authorization": f"Bearer {declared.key}"}
    with load(declared.url, [one.body for one in questions], clients=3, pause_s=0.03, headers=key) as asked:
        state = declared.serving("split", "challenger=0.3")
        assert shares(state) == {"champion": ("1", 0.7), "challenger": (version, 0.3)}
        assert shares(declared.serving("kill", "challenger"))["challenger"] == (version, 0.0)
        assert shares(declared.serving("promote")) == {"champion": (version, 1.0)}
        assert shares(declared.serving("rollback")) == {"champion": ("1", 1.0)}
    assert asked.wrong == []
    assert set(asked.seen) <= {200, 202}


def processes(title: bytes) -> list[int]:
    """Processes of this cluster whose command line begins so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line, place = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if line.startswith(title) and FOLDER.encode() in place:
            found.append(int(process.name))
    return found


def test_a_killed_control_is_back_and_knows_what_is_served(
    declared: Declared, challenge: Callable[..., int], champion: Registry
) -> None:
    version = str(challenge("8" * 16))
    assert shares(declared.serving("split", "challenger=0.2"))["challenger"] == (version, 0.2)
    (control,) = processes(CONTROL)
    os.kill(control, signal.SIGKILL)
    until, seen = time.monotonic() + 60, {}
    with httpx.Client(base_url=declared.url, timeout=30, trust_env=False) as client:
        while not seen and time.monotonic() < until:
            answered = client.get("/v1/admin/state", headers={"authorization": f"Bearer {declared.key}"})
            seen = shares(answered.json()) if answered.status_code == 200 else {}
            time.sleep(0.5)
    assert seen == {"champion": ("1", 0.8), "challenger": (version, 0.2)}
    assert shares(declared.serving("split", "challenger=0.0"))["champion"] == ("1", 1.0)


def test_a_document_that_is_deployed_anew_holds_whatever_was_changed_and_fails_no_request(
    declared: Declared, load: Any, questions: list[Any]
) -> None:
    """A rolling update: other `args` make new replicas, with other limits, while users ask on."""
    before, changed = processes(GATEWAY), declared.serving("status")["replicas"]
    gateway = declared.document["applications"][0]
    gateway["args"]["plan"]["section"]["per_minute"] = 1e6
    key = {"authorization": f"Bearer {declared.key}"}
    with load(declared.url, [one.body for one in questions], clients=3, pause_s=0.03, headers=key) as asked:
        declared.deploy()
        until = time.monotonic() + UP_S
        while time.monotonic() < until:
            after = processes(GATEWAY)
            if len(after) == 2 and not set(before) & set(after):
                break
            time.sleep(0.5)
        time.sleep(3)
    assert asked.wrong == []
    assert set(asked.seen) <= {200, 202}
    assert len(before) == len(after) == 2 and not set(before) & set(after)
    assert all(one["served"]["sequence"] > 0 for one in changed)
    assert [one["served"]["sequence"] for one in declared.serving("status")["replicas"]] == [0, 0]
    assert shares(declared.serving("split", "champion=1.0")) == {"champion": ("1", 1.0)}
