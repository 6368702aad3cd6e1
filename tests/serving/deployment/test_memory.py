"""What a replica holds is measured when its model is loaded, and what is over the alert's limit is said at once."""

import logging
import time

import pytest

from serving.seams import memory
from serving.seams.memory import Report, resident_bytes


def test_a_process_knows_what_it_holds() -> None:
    before = resident_bytes()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert 60 << 20 < resident_bytes() - before < 90 << 20


def test_a_replica_over_the_limit_is_said_at_load_and_one_below_it_is_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Report("student", "m").loaded().end()
    assert caplog.records == []
    monkeypatch.setattr(memory, "LIMIT", 1 << 20)
    with caplog.at_level(logging.WARNING):
        Report("teacher", "m").loaded().end()
    assert "a teacher of m holds" in caplog.text


def test_it_is_told_again_and_again_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(memory, "REPORT_S", 0.01)
    monkeypatch.setattr(Report, "tell", lambda report: told.append(report) or 1)
    report = Report("student", "m").loaded()
    until = time.monotonic() + 10
    while len(told) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    report.end()
    time.sleep(0.05)
    end = len(told)
    time.sleep(0.1)
    assert 4 <= end == len(told)
