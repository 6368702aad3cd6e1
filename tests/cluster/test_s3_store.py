"""The store in a bucket, against a real S3 server (`s3_uri` in tests/conftest.py): whole artifacts, one writer, resume
after a kill, honest errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.errors import ArtifactCorrupt, ArtifactMissing
from cluster.store import Store

pytestmark = pytest.mark.slow

# Writes one artifact; told to, it dies in the middle. argv: store, cache, what to write, "die" or "live".
WRITER = """
import os, sys, time
from pathlib import Path
from cluster.store import Store
store = Store.open(sys.argv[1], cache=Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
with store.draft("thing", "one", section={"a": 1}, parents={}, step_version=1) as draft:
    if not draft.done:
        (draft.scratch / "progress").write_text(sys.argv[3])
        print("writing", flush=True)
        if sys.argv[4] == "die":
            time.sleep(100)
        time.sleep(0.5)
        (draft.path / "who").write_text(sys.argv[3])
print("artifact", (store.get("thing", "one").path() / "who").read_text(), flush=True)
"""


def open_store(uri: str, cache: Path) -> Store:
    return Store.open(uri, cache=cache)


def write(store: Store, text: str) -> None:
    with store.draft("thing", "one", section={"a": 1}, parents={}, step_version=1) as draft:
        (draft.path / "folder").mkdir()
        (draft.path / "folder" / "big").write_bytes(b"x" * 3_000_000)
        (draft.path / "who").write_text(text)
        draft.note(rows=3)


def test_what_one_machine_writes_another_reads_whole(s3_uri: str, tmp_path: Path) -> None:
    here, there = open_store(s3_uri, tmp_path / "here"), open_store(s3_uri, tmp_path / "there")
    with pytest.raises(ArtifactMissing):
        there.get("thing", "one")
    write(here, "here")
    found = there.get("thing", "one")
    assert (found.manifest.facts["rows"], (found.path() / "who").read_text()) == (3, "here")
    assert (found.path() / "folder" / "big").stat().st_size == 3_000_000
    assert [one.id for one in there.list("thing")] == ["one"]
    assert str(found.path()).startswith(str(tmp_path / "there"))
    here.write_record("runs/a", {"b": 1})
    assert (there.read_record("runs/a"), there.records("runs/")) == ({"b": 1}, ["runs/a"])


def test_a_failed_attempt_leaves_no_artifact_and_the_next_one_keeps_its_scratch(s3_uri: str, tmp_path: Path) -> None:
    store = open_store(s3_uri, tmp_path)
    with (
        pytest.raises(ZeroDivisionError),
        store.draft("thing", "one", section={}, parents={}, step_version=1) as draft,
    ):
        (draft.path / "who").write_text("half")
        (draft.scratch / "progress").write_text("7")
        raise ZeroDivisionError
    assert store.find("thing", "one") is None
    with store.draft("thing", "one", section={}, parents={}, step_version=1) as draft:
        assert (draft.scratch / "progress").read_text() == "7"
        (draft.path / "who").write_text("whole")
    assert (store.get("thing", "one").manifest.attempts, store.attempts("thing", "one")) == (2, 2)


def test_an_object_that_was_changed_behind_its_manifest_is_refused(s3_uri: str, tmp_path: Path) -> None:
    store = open_store(s3_uri, tmp_path / "here")
    write(store, "right")
    folder = store.get("thing", "one").manifest.directory
    store._files.write(f"thing/one/{folder}/who", b"wrong")
    with pytest.raises(ArtifactCorrupt, match="who"):
        open_store(s3_uri, tmp_path / "there").get("thing", "one").path()


def begin(uri: str, cache: Path, text: str, how: str) -> "subprocess.Popen[str]":
    """A writer in a process of its own, started and told to go."""
    command = [sys.executable, "-c", WRITER, uri, str(cache), text, how]
    there = {"cwd": Path(__file__).resolve().parents[2], "env": dict(os.environ)}
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **there)


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_two_writers_on_two_machines_make_one_artifact_that_both_read(s3_uri: str, tmp_path: Path) -> None:
    both = [begin(s3_uri, tmp_path / name, name, "live") for name in ("a", "b")]
    assert [said(process) for process in both] == ["ready", "ready"]
    for process in both:
        go(process)
    texts = [process.communicate(timeout=100)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    winners = {text.splitlines()[-1] for text in texts}
    store = open_store(s3_uri, tmp_path / "third")
    assert winners == {f"artifact {(store.get('thing', 'one').path() / 'who').read_text()}"}
    manifests = [name for name in store._files.names("thing") if name.endswith("manifest.json")]
    assert manifests == ["one/manifest.json"]


def test_a_killed_writers_lease_runs_out_and_its_scratch_is_taken_up(s3_uri: str, tmp_path: Path) -> None:
    killed = begin(s3_uri, tmp_path, "killed", "die")
    go(killed)
    assert [said(killed) for _ in range(2)] == ["ready", "writing"]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    store = open_store(s3_uri, tmp_path)
    lease = json.loads(store._files.read("thing/one/lease.json") or b"{}")
    assert lease["expires"] > time.time()
    # Thirty seconds are not waited for: the lease is made to end in one.
    store._files.write("thing/one/lease.json", json.dumps({**lease, "expires": time.time() + 1}).encode())
    started = time.monotonic()
    with store.draft("thing", "one", section={"a": 1}, parents={}, step_version=1) as draft:
        assert time.monotonic() - started >= 0.9
        assert (draft.scratch / "progress").read_text() == "killed"
        (draft.path / "who").write_text("next")
    assert store.get("thing", "one").manifest.attempts == 2
