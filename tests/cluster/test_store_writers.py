"""Writers of one artifact: killed, two at once, forked, and leases in a bucket."""

import json
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.store import Artifact, Store, artifact_id, lock

Start = Callable[..., "subprocess.Popen[str]"]

SECTION = {"epochs": 2}
AID = artifact_id("student", SECTION, {"samples": "0" * 16}, 1)


def draft(store: Store) -> Any:
    return store.draft("student", AID, section=SECTION, parents={"samples": "0" * 16}, step_version=1, commit="c0ffee")


def make(store: Store) -> Artifact:
    with draft(store) as one:
        (one.path / "weights.bin").write_text("w")
    artifact: Artifact = one.artifact
    return artifact


WRITER = """
import os, sys, time
from pathlib import Path
from cluster.store import Store, artifact_id
store, section, parents = Store.open(sys.argv[1]), {"epochs": 2}, {"samples": "0" * 16}
aid = artifact_id("student", section, parents, 1)
with store.draft("student", aid, section=section, parents=parents, step_version=1) as draft:
    was_done = draft.done
    if not was_done:
        (draft.path / "weights.bin").write_text(str(os.getpid()))
        (draft.scratch / "step").write_text("7")
        print("writing", flush=True)
        time.sleep(float(sys.argv[2]))
print(was_done, draft.artifact.manifest.directory, draft.artifact.path(), flush=True)
"""


def test_after_kill_9_of_a_writer_the_next_attempt_finishes_and_both_are_counted(
    store: Store, start_python: Start
) -> None:
    writer = start_python(WRITER, store.root, 60)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert store.find("student", AID) is None
    with draft(store) as one:
        assert not one.done
        assert (one.scratch / "step").read_text() == "7"
        (one.path / "weights.bin").write_text("again")
    assert (one.artifact.manifest.attempts, one.artifact.manifest.executions) == (2, 1)
    assert one.artifact.id == AID


def test_two_processes_at_once_get_the_same_artifact_from_one_execution(store: Store, start_python: Start) -> None:
    writers = [start_python(WRITER, store.root, 0.5) for _ in range(2)]
    answers = [writer.communicate(timeout=30) for writer in writers]
    last = [out.splitlines()[-1].split() for out, _ in answers]
    assert sorted(answer[0] for answer in last) == ["False", "True"], answers
    assert last[0][1:] == last[1][1:]
    manifest = store.get("student", AID).manifest
    assert (manifest.attempts, manifest.executions) == (1, 1)
    assert store.attempts("student", AID) == 1


def test_who_waits_is_told_whom_for(store: Store, start_python: Start, caplog: pytest.LogCaptureFixture) -> None:
    writer = start_python(WRITER, store.root, 0.7)
    assert writer.stdout is not None
    writer.stdout.readline()
    with caplog.at_level(logging.WARNING, logger="cluster.store.lock"), draft(store) as one:
        assert one.done
    writer.communicate()
    assert f'"pid": {writer.pid}' in caplog.text


def test_two_threads_of_one_process_take_turns(store: Store) -> None:
    seen: list[bool] = []

    def work() -> None:
        with draft(store) as one:
            seen.append(one.done)
            if not one.done:
                time.sleep(0.2)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [False, True, True]


def test_a_forked_child_does_not_keep_the_lock(store: Store) -> None:
    with pytest.raises(RuntimeError, match="stop"), draft(store):
        child = os.fork()
        if child == 0:
            time.sleep(5)
            os._exit(0)
        raise RuntimeError("stop")
    started = time.monotonic()
    make(store)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert time.monotonic() - started < 2


def test_in_a_bucket_a_lease_that_has_run_out_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    store = Store.open("mock:///bucket", cache=tmp_path)
    gone = {"owner": "gone", "expires": time.time() + 0.3, "who": "a dead host"}
    store._files.write(f"student/{AID}/lease.json", json.dumps(gone).encode())
    started = time.monotonic()
    make(store)
    assert 0.2 < time.monotonic() - started < 5
    assert store._files.read(f"student/{AID}/lease.json") is None


def test_in_a_bucket_the_heart_beats_while_the_writer_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    monkeypatch.setattr(lock, "LEASE_S", 0.3)
    store = Store.open("mock:///bucket", cache=tmp_path)
    with draft(store):
        time.sleep(0.5)
        lease = json.loads(store._files.read(f"student/{AID}/lease.json") or b"{}")
        assert lease["expires"] > time.time()


def test_of_two_writers_that_both_think_they_hold_a_lease_the_first_manifest_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    store = Store.open("mock:///bucket", cache=tmp_path / "one")
    rival = Store.open("mock:///bucket", cache=tmp_path / "two")
    rival._files.system = store._files.system  # type: ignore[attr-defined]
    with draft(store) as slow:
        (slow.path / "weights.bin").write_text("slow")
        store._files.remove(f"student/{AID}/lease.json")
        first = make(rival)
    assert slow.artifact.manifest == first.manifest
    assert (slow.artifact.path() / "weights.bin").read_text() == "w"
