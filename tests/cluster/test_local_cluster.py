"""A real cluster of several processes: up, a job submitted, followed, stopped and resumed, the doctor, down."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import session
from cluster.session import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FOLDER = f"/tmp/rdl-{os.getpid()}"
SECRET = "sup3rs3cret"

DRIVER = """
import os, ray
from cluster import session
from cluster.recipe import ResourcesSection
session.connect(ResourcesSection())

def there():
    from cluster import session
    return "MY_KEY" in os.environ, len(os.environ["MY_KEY"]), session.commit(), os.getcwd()

known, length, commit, folder = ray.get(ray.remote(there).remote())
print("worker", known, length, commit, folder, flush=True)
print("driver", len(os.environ["MY_KEY"]), os.environ["OMP_NUM_THREADS"], os.path.exists("tests"), flush=True)
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "RAYDISTILL_LOCAL": FOLDER, "MY_KEY": SECRET, **more}


@pytest.fixture(scope="module")
def run() -> Run:
    """Run `python -m cluster ...` for the cluster of this test."""

    def run(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cluster", *words]
        there = {"cwd": ROOT, "env": environment(**more)}
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **there)

    return run


@pytest.fixture(scope="module")
def cluster(run: Run) -> Iterator[dict[str, Any]]:
    """One head and one worker, with a token."""
    done = run("up", "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)
    run("down")
    shutil.rmtree(FOLDER, ignore_errors=True)


def listeners() -> set[tuple[str, int]]:
    """The addresses (hex) and ports that processes of this cluster listen on."""
    inodes: dict[str, tuple[str, int]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                address, port = fields[1].split(":")
                inodes[fields[9]] = (address, int(port, 16))
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if FOLDER not in (process / "environ").read_text():
                continue
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        for link in links:
            inode = re.fullmatch(r"socket:\[(\d+)\]", link)
            if inode and inode[1] in inodes:
                found.add(inodes[inode[1]])
    return found


LOOPBACK = {"0100007F", "0" * 24 + "01000000", "0000000000000000FFFF00000100007F"}


def test_all_of_it_listens_on_loopback_only_and_its_files_are_this_users(cluster: dict[str, Any]) -> None:
    found = listeners()
    assert int(cluster["address"].rpartition(":")[2]) in {port for _, port in found}
    assert {address for address, _ in found} <= LOOPBACK
    assert Path(FOLDER).stat().st_mode & 0o077 == 0
    assert Path(cluster["token_path"]).stat().st_mode & 0o777 == 0o600


def test_without_its_token_nobody_submits_or_lists(cluster: dict[str, Any], run: Run) -> None:
    request = urllib.request.Request(f"{cluster['dashboard']}/api/jobs/", b'{"entrypoint": "id"}', method="POST")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as refused:
        direct.open(request, timeout=10)
    refused.value.close()
    assert refused.value.code == 401
    nobody = {"RAYDISTILL_LOCAL": "/nonexistent", "HOME": "/nonexistent"}
    command = ("submit", "--address", cluster["dashboard"], "--", "id")
    done = run(*command, **nobody)
    assert (done.returncode, "no token was sent" in done.stderr) == (2, True), done.stderr
    done = run(*command, **nobody, RAY_AUTH_TOKEN="guessed")
    assert (done.returncode, "another token" in done.stderr) == (2, True), done.stderr
    assert json.loads(run("jobs", "--json").stdout) == {"jobs": []}
    assert run("up").returncode == 2  # there is one already


@pytest.mark.usefixtures("cluster")
def test_a_job_runs_the_shipped_code_with_its_secret_and_is_followed_to_its_end(run: Run) -> None:
    done = run("submit", "--follow", "--secret", "MY_KEY", "--", "python", "-c", DRIVER)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"driver {len(SECRET)} 1 False" in done.stdout
    worker = next(line for line in done.stdout.splitlines() if line.startswith("worker"))
    assert worker.startswith(f"worker True {len(SECRET)} {session.commit()} {FOLDER}/ray/")
    job = json.loads(run("jobs", "--json").stdout)["jobs"][0]
    assert (job["status"], job["exit_code"], job["commit"]) == ("SUCCEEDED", 0, session.commit())
    everything = b"".join(path.read_bytes() for path in Path(FOLDER, "ray").rglob("*.log"))
    assert len(everything) > 1000
    assert SECRET.encode() not in everything


@pytest.mark.usefixtures("cluster")
def test_a_jobs_exit_code_is_the_commands_own_and_a_stopped_one_is_resumed_under_its_run(
    run: Run, tmp_path: Path
) -> None:
    sleeper = tmp_path / "once"
    code = f"import os, time, sys; again = os.path.exists({str(sleeper)!r}); open({str(sleeper)!r}, 'w')\n" \
           "print('begun', flush=True)\nif not again: time.sleep(100)\nsys.exit(3)"  # fmt: skip
    submitted = json.loads(run("submit", "--json", "--", "python", "-c", code).stdout)
    while not sleeper.exists() or "begun" not in run("logs", submitted["job"]).stdout:
        pass
    assert run("resume", submitted["job"]).returncode == 2  # it still runs
    assert json.loads(run("stop", "--json").stdout) == {"job": submitted["job"], "status": "STOPPED"}
    resumed = run("resume", submitted["job"], "--follow")
    assert resumed.returncode == 3, resumed.stderr
    newest = json.loads(run("jobs", "--json").stdout)["jobs"][0]
    assert (newest["resumes"], newest["command"]) == (submitted["job"], submitted["command"])
    assert (newest["status"], newest["exit_code"]) == ("FAILED", 3)


@pytest.mark.usefixtures("cluster")
def test_the_doctor_looks_at_every_node_from_outside(run: Run, tmp_path: Path) -> None:
    done = run("doctor", "--json", "--store", str(tmp_path))
    document = json.loads(done.stdout)
    assert (done.returncode, document["blocked"], len(document["nodes"])) == (0, False, 2), done.stdout
    assert {node["labels"]["role"] for node in document["nodes"]} == {"head", "worker"}
    assert [check["status"] for check in document["checks"] if check["name"] == "authentication"] == ["ok"]
    assert list(tmp_path.rglob("*.*")) == []  # nothing is left in the store


@pytest.mark.usefixtures("cluster")
def test_down_leaves_no_process(run: Run) -> None:
    assert run("down").returncode == 0
    assert listeners() == set()
    assert run("down").returncode == 2
