"""The session: the variables Ray starts with, what reap ends and what it leaves alone, and one real embedded Ray."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster import environment, session
from cluster.environment import prepare_environment, ray_folder
from cluster.errors import InputError, RayNotStarted

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty process environment, so that nothing that a test sets outlives it."""
    values: dict[str, str] = {"PATH": os.environ["PATH"]}
    monkeypatch.setattr(os, "environ", values)
    monkeypatch.setattr(environment, "_default_folder", lambda: f"/tmp/rd-test-{os.getpid()}")
    return values


@pytest.fixture(autouse=True)
def no_folder_left() -> Iterator[None]:
    yield
    folder = Path(f"/tmp/rd-test-{os.getpid()}")
    if folder.exists():
        folder.rmdir()


def test_an_embedded_ray_is_quiet_alone_on_loopback_and_at_normal_priority(environ: dict[str, str]) -> None:
    assert prepare_environment("embedded").items() <= environ.items()
    wanted = {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    assert wanted.items() <= environ.items()
    assert "HF_HUB_OFFLINE" not in environ


def test_what_the_user_set_stands(environ: dict[str, str]) -> None:
    environ.update(OMP_NUM_THREADS="4", RAY_AUTH_MODE="token")
    prepare_environment("embedded")
    assert (environ["OMP_NUM_THREADS"], environ["RAY_AUTH_MODE"]) == ("4", "token")


def test_a_running_cluster_is_asked_with_a_token_and_keeps_its_own_addresses(environ: dict[str, str]) -> None:
    prepare_environment("embedded", address="10.0.0.1:6379")
    assert environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in environ
    assert "RAY_TMPDIR" not in environ
    assert "GLOO_SOCKET_IFNAME" not in environ
    assert "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER" not in environ


def test_serving_lets_the_memory_monitor_wait_longer(environ: dict[str, str]) -> None:
    prepare_environment("embedded")
    assert "RAY_memory_usage_threshold" not in environ
    prepare_environment("serving")
    assert environ["RAY_memory_usage_threshold"] == "0.98"


def test_a_folder_too_deep_for_sockets_is_refused_before_ray_starts(environ: dict[str, str], tmp_path: Path) -> None:
    environ["RAY_TMPDIR"] = str(tmp_path / ("deep" * 20))
    with pytest.raises(InputError, match="sockets do not fit") as error:
        prepare_environment("embedded")
    assert "export RAY_TMPDIR=" in str(error.value)


def test_the_deepest_folder_allowed_holds_rays_longest_socket() -> None:
    longest = "/ray/session_2026-11-21_23-53-26_730106_4194304/sockets/plasma_store"
    assert environment.SOCKET_BYTES - environment.SESSION_BYTES + len(longest) <= 107


@pytest.mark.usefixtures("environ")
def test_variables_set_after_the_import_of_ray_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())
    with caplog.at_level(logging.WARNING):
        prepare_environment("embedded")
        prepare_environment("embedded")
    assert [record.message for record in caplog.records if "RAY_worker_niceness" in record.message] == [
        record.message for record in caplog.records
    ]
    assert len(caplog.records) == 1


def test_the_commit_is_the_stamp_else_gits_else_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session.commit.cache_clear()
    monkeypatch.setenv("RAYDISTILL_COMMIT", "c0ffee")
    assert session.commit() == "c0ffee"
    session.commit.cache_clear()
    monkeypatch.delenv("RAYDISTILL_COMMIT")
    monkeypatch.setattr(session, "ROOT", tmp_path)
    assert session.commit() == "unknown"
    session.commit.cache_clear()


HOLDER = "import sys, time; held = open(sys.argv[1], sys.argv[2]); print('up', flush=True); time.sleep(60)"


def hold(start_python: Start, driver: int, mode: str) -> "subprocess.Popen[str]":
    log = ray_folder() / f"session_2026-11-21_23-53-26_730106_{driver}" / "logs" / "agent.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.touch()
    process = start_python(HOLDER, log, mode)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="reap reads /proc")
def test_reap_ends_the_leftovers_of_dead_drivers_and_nothing_else(
    start_python: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    driver = start_python("pass")
    driver.communicate()
    leftover = hold(start_python, driver.pid, "a")
    reader = hold(start_python, driver.pid, "r")
    alive = hold(start_python, os.getpid(), "a")
    try:
        assert session.reap() == 1
        assert leftover.wait(timeout=5) == -9
        assert (reader.poll(), alive.poll()) == (None, None)
        assert session.reap() == 0
    finally:
        for process in (leftover, reader, alive):
            process.kill()
            process.communicate()


REAL = """
import os, sys, time, warnings
warnings.simplefilter("error")
from cluster.errors import MismatchError
from cluster.recipe import ResourcesSection
from cluster.session import connect, disconnect, placed
wanted = ResourcesSection(cpus=1, labels={"train": {"role": "gpu"}})
connect(wanted)
connect(wanted)
assert placed("train") == {}, "one node takes every step"
import ray
print(ray.get_runtime_context().gcs_address, int(ray.cluster_resources()["CPU"]), flush=True)

def fail():
    from cluster.errors import MismatchError
    raise MismatchError("vocabularies differ", got=77, expected=10)

try:
    ray.get(ray.remote(fail).remote())
except MismatchError as error:
    print(error.got, error.exit_code, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
disconnect()
disconnect()
"""


def listening(port: int) -> set[str]:
    """Return the local addresses (hex, as the kernel writes them) that listen on a TCP port."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    sockets = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {address for address, number in sockets if int(number, 16) == port}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_real_embedded_ray_listens_on_loopback_carries_errors_and_is_cleared_after_kill_9(
    start_python: Start,
) -> None:
    folder = f"/tmp/rd-real-{os.getpid()}"
    process = start_python(REAL, "killed", RAY_TMPDIR=folder)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -9, err
    address, cpus, got, code = out.split()
    assert address.startswith("127.0.0.1:")
    assert (cpus, got, code) == ("1", "77", "2")
    assert "ray_error" not in err
    assert err.count("resources.labels: this embedded Ray is one node") == 1
    script = "from cluster.session import reap; print(reap())"
    deadline, ended = time.monotonic() + 20, 0
    while ended == 0 and time.monotonic() < deadline:
        ended = int(start_python(script, RAY_TMPDIR=folder).communicate()[0])
    assert ended > 0
    assert listening(int(address.rpartition(":")[2])) == set()
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.mark.parametrize("kind", [Exception, RuntimeError, TimeoutError])
def test_a_ray_that_does_not_come_up_is_one_error_that_says_what_to_do(kind: type[Exception]) -> None:
    with pytest.raises(RayNotStarted, match="Ray did not start") as failed, session.starting():
        raise kind("The current node timed out during startup.\nmore")
    assert (failed.value.got, failed.value.exit_code) == ("The current node timed out during startup.", 1)
    assert str(ray_folder()) in failed.value.hint and "quieter" in failed.value.hint


@pytest.mark.parametrize("error", [ValueError("bad port"), InputError("not this"), KeyError("address")])
def test_what_is_no_start_that_failed_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as seen, session.starting():
        raise error
    assert seen.value is error


@pytest.mark.slow
def test_a_real_ray_whose_first_process_dies_ends_the_command_without_a_traceback(
    start_python: Start, tmp_path: Path
) -> None:
    """Half a minute, asleep: as long as Ray waits for the file that its GCS would write."""
    place = f"/tmp/rd-dead-{os.getpid()}"
    dead = {"RAY_gcs_storage": "nonsense", "RAY_TMPDIR": place, "RAYDISTILL_LOCAL": str(tmp_path / "none")}
    code = f"from cluster.__main__ import app; app(['doctor', '--json', '--store', '{tmp_path}'])"
    process = start_python(code, **dead)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, json.loads(out)["error"]) == (1, "RayNotStarted"), err
    assert err.startswith("error: Ray did not start\n  got: Timed out waiting for file") and "Traceback" not in err
    subprocess.run(["rm", "-rf", place], check=True)
