"""A bucket whose answers break off: it is asked again, and only what stays broken is an error."""

import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from cluster.store import filesystem, lock
from cluster.store.filesystem import RemoteFiles

BROKEN = "AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush response stream (eof: 0, bad: 1)"


class Unsteady:
    """A real file system of pyarrow of which the next `failures` requests fail."""

    def __init__(self, folder: Path, failures: int) -> None:
        self.real = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
        self.failures = failures
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] += 1
        if self.failures:
            self.failures -= 1
            raise OSError(BROKEN)
        return getattr(self.real, name)


def unsteady(tmp_path: Path, failures: int, monkeypatch: pytest.MonkeyPatch) -> tuple[RemoteFiles, Unsteady]:
    monkeypatch.setattr(filesystem, "PAUSES_S", (0.0, 0.0, 0.0))
    (tmp_path / "bucket").mkdir()
    system = Unsteady(tmp_path / "bucket", failures)
    return RemoteFiles(system, "root", tmp_path / "workspace"), system


def test_answers_that_break_off_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, system = unsteady(tmp_path, 0, monkeypatch)
    here = tmp_path / "workspace" / "thing" / "one"
    here.mkdir(parents=True)
    (here / "big").write_bytes(b"x" * 2_500_000)

    def again() -> None:
        assert system.failures == 0
        system.failures = len(filesystem.PAUSES_S)

    again()
    files.write("note", b"a")
    again()
    assert files.read("note") == b"a"
    again()
    files.publish("thing")
    again()
    (here / "big").unlink()
    files.fetch("thing/one/big", lambda path: path.is_file())
    assert (here / "big").stat().st_size == 2_500_000
    again()
    assert files.names("thing") == ["one/big"]
    again()
    files.remove("thing")
    assert files.names("thing") == []


def test_one_that_stays_broken_is_an_error_with_the_stores_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files, _ = unsteady(tmp_path, len(filesystem.PAUSES_S) + 1, monkeypatch)
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="flush response stream"):
        files.read("note")
    assert len(caplog.messages) == len(filesystem.PAUSES_S)
    assert "asking again" in caplog.messages[0]


def test_a_missing_object_is_an_answer_and_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, system = unsteady(tmp_path, 0, monkeypatch)
    assert files.read("nothing") is None
    assert system.asked["open_input_stream"] == 1


def test_a_lease_that_could_not_be_renewed_is_renewed_with_the_next_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lock, "LEASE_S", 1.5)
    monkeypatch.setattr(lock, "SETTLE_S", 0.0)
    files, system = unsteady(tmp_path, 0, monkeypatch)
    with caplog.at_level(logging.WARNING), lock.hold(files, "thing/one"):
        taken = json.loads(files.read("thing/one/lease.json") or b"{}")["expires"]
        system.failures = len(filesystem.PAUSES_S) + 1  # the first beat fails to its end, the second is written
        until = time.monotonic() + 30
        while True:
            lease = json.loads((tmp_path / "bucket" / "root/thing/one/lease.json").read_bytes() or b"{}")
            if lease.get("expires", 0) > taken:
                break
            assert time.monotonic() < until
            time.sleep(0.05)
    assert any("could not renew" in message for message in caplog.messages)
    assert files.read("thing/one/lease.json") is None
