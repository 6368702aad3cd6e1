"""`python -m serving` as a user runs it."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.deploy import kuberay, needs
from cluster.errors import DataError, InputError
from cluster.recipe import Recipe, load
from cluster.registry import Registry
from cluster.store import Artifact, Store
from serving.commands import client
from serving.commands import up as up_command
from serving.deployment import promoted
from serving.deployment.served import Names, ServedArm
from serving.web import auth

ROOT = Path(__file__).resolve().parents[3]


def serving(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serving", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", ["status", "down"])
def test_asking_for_a_service_that_is_not_there_says_so(tmp_path: Path, command: str) -> None:
    ran = serving(command, "--store", str(tmp_path))
    assert ran.returncode == {"status": 1, "down": 2}[command]
    assert "nothing is served" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_recipe_that_was_never_promoted_cannot_be_served(
    exported: tuple[Recipe, Store, Artifact], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no version of visual is promoted"):
        promoted.find(exported[0], Store.open(tmp_path))


@pytest.fixture
def promoted_store(exported: tuple[Recipe, Store, Artifact], champion: Registry, tmp_path: Path) -> tuple[Path, Path]:
    """A recipe file and a store whose bundle is the champion."""
    recipe, store, _ = exported
    path = tmp_path / "visual.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path, store.workspace


def test_a_key_is_shown_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    drawn = json.loads(serving("key", "shop", "--file", str(file), "--per-minute", "60", "--json").stdout)
    assert (drawn["role"], drawn["key"] in file.read_text(), file.stat().st_mode & 0o777) == ("client", False, 0o600)
    caller = auth.Keys(auth.read(file)).caller(drawn["key"], "client")
    assert (caller.name, caller.per_minute) == ("shop", 60.0)
    again = serving("key", "shop", "--file", str(file), "--admin")
    assert (again.returncode, "already" in again.stderr) == (2, True)
    file.chmod(0o666)
    with pytest.raises(DataError, match="written by others"):
        auth.read(file)


def test_config_prints_what_serve_deploy_reads(promoted_store: tuple[Path, Path], serve_ready: None) -> None:
    from ray.serve.schema import ServeDeploySchema

    recipe, store = promoted_store
    arguments = ("config", str(recipe), "--store", str(store), "--set", "serving.mode=split")
    printed = serving(*arguments)
    document = ServeDeploySchema(**yaml.safe_load(printed.stdout))
    names = [one.name for one in document.applications]
    assert names[0] == "gateway" and names[-1] == "teacher" and names[1].startswith("arm-")
    assert document.http_options.host == "127.0.0.1"
    # What a RayService takes of it: the same applications, reachable from outside of the pod, so never without keys.
    options = needs.Options(store=str(store))
    with pytest.raises(InputError, match="may ask"):
        kuberay.rayservice("visual", load(str(recipe)), options, printed.stdout)
    keys = recipe.with_name("keys.json")
    auth.add(keys, auth.draw("shop", "client")[1])
    printed = serving(*arguments, "--set", f"serving.keys_file={keys}")
    document = ServeDeploySchema(**yaml.safe_load(printed.stdout))
    service = yaml.safe_load(kuberay.rayservice("visual", load(str(recipe)), options, printed.stdout))
    taken = ServeDeploySchema(**yaml.safe_load(service["spec"]["serveConfigV2"]))
    assert taken.applications == document.applications
    assert (taken.http_options.host, taken.http_options.port) == ("0.0.0.0", kuberay.HTTP_PORT)


@pytest.mark.parametrize(("url", "more", "direct"), [
    ("http://models.example:8000", {}, False), ("http://127.0.0.1:8000", {}, True), ("http://[::1]:8000", {}, True),
    ("http://10.0.0.7:8000", {"pid": 7}, True),
])  # fmt: skip
def test_a_service_elsewhere_is_asked_through_the_users_proxy_and_one_of_this_machine_is_not(
    monkeypatch: pytest.MonkeyPatch, url: str, more: dict[str, Any], direct: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    opener = client._opener({"url": url, "key": "k", **more})
    proxies = [one for one in opener.handlers if isinstance(one, urllib.request.ProxyHandler)]
    assert bool(proxies) is not direct


@pytest.mark.parametrize(("version", "share"), [("2", 0.5), ("3", 0.0)])
def test_a_challenger_takes_up_the_share_of_its_own_version_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, share: float
) -> None:
    catalog = promoted.Catalog(str(tmp_path), "m")
    catalog.decisions.parent.mkdir(parents=True)
    line = {"model": "m", "shares": {"challenger": 0.5}, "versions": {"champion": "1", "challenger": "2"}}
    catalog.decisions.write_text(json.dumps(line) + "\n")
    arm = ServedArm(name="challenger", model="m", version=version, bundle="/b", weight=0.0)
    monkeypatch.setattr(promoted.Catalog, "arm", lambda *_: arm)
    monkeypatch.setattr("serving.bundle.predict.verify", lambda folder: {})
    monkeypatch.setattr("serving.students.swap.fits", lambda *_: None)
    monkeypatch.setattr("serving.deployment.served.spec_of", lambda folder: {})
    found = promoted.Promoted(Path("/b"), Path("/t"), Names("m", "1"))
    assert [one.weight for one in up_command._challengers(catalog, found, "challenger")] == [share]


@pytest.fixture
def up(promoted_store: tuple[Path, Path]) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """`serving up` in the foreground of another process, and what it printed."""
    recipe, store = promoted_store
    command = [sys.executable, "-m", "serving", "up", str(recipe), "--store", str(store), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.mark.slow
def test_up_serves_the_champion_until_it_is_told_to_end(
    up: tuple["subprocess.Popen[str]", dict[str, Any]], promoted_store: tuple[Path, Path], questions: list[Any]
) -> None:
    process, said = up
    store = str(promoted_store[1])
    answered = httpx.post(f"{said['url']}/v1/predict", json=questions[0].body, timeout=30).json()
    assert (answered["model"], answered["version"]) == ("visual", "1")
    seen = json.loads(serving("status", "--store", store, "--json").stdout)
    assert (seen["url"], seen["ready"], [one["id"] for one in seen["models"]]) == (
        said["url"],
        True,
        ["visual", "teacher"],
    )
    assert "key" not in seen and "key" not in said
    again = serving("up", str(promoted_store[0]), "--store", store)
    assert again.returncode == 2
    assert "served already" in again.stderr
    below = children(process.pid)
    assert serving("down", "--store", store).returncode == 0
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert serving("status", "--store", store).returncode == 1
    assert [
        pid
        for pid in below
        if Path(f"/proc/{pid}/cmdline").exists() and b"haproxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ] == []


def children(pid: int) -> list[int]:
    """Return all processes below one."""
    direct = [int(below) for task in Path(f"/proc/{pid}/task").glob("*/children") for below in task.read_text().split()]
    return direct + [further for child in direct for further in children(child)]
