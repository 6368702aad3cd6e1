"""What a replica holds is measured when its model is loaded, and what is over the alert's limit is said at once."""

import asyncio
import gc
import logging
import time
from pathlib import Path

import pytest

from cluster.recipe.serving import ServingSection
from serving.deployment import control, gateway
from serving.deployment.served import GatewayPlan, Served, ServedArm
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
    Report("student", "m").loaded()
    assert caplog.records == []
    monkeypatch.setattr(memory, "LIMIT", 1 << 20)
    with caplog.at_level(logging.WARNING):
        Report("teacher", "m").loaded()
    assert "a teacher of m holds" in caplog.text


def test_it_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(memory, "REPORT_S", 0.01)
    monkeypatch.setattr(Report, "tell", lambda report: told.append(report) or 1)
    Report("student", "m").loaded()
    until = time.monotonic() + 10
    while len(told) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(told) >= 4


def test_a_gateway_tells_what_it_holds_whoever_watches_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(Report, "loaded", lambda report: told.append(report._tags))
    monkeypatch.setattr(gateway, "keep_replica_home", lambda: None)  # this is no replica of Ray Serve
    monkeypatch.setattr(control, "join", lambda: None)
    monkeypatch.delattr(gateway.Gateway, "__del__")  # Serve's, which awaits it

    async def loaded() -> None:
        replica = gateway.Gateway(GatewayPlan(section=ServingSection()).model_dump(mode="json"))
        served = Served(arms=[ServedArm(name="champion", model="writer", version="7", bundle=str(folder))])
        for sequence in range(2):
            await replica.reconfigure({**served.model_dump(mode="json"), "sequence": sequence})
        replica.shelf.close()

    asyncio.run(loaded())
    gc.collect()
    assert [(one["kind"], one["model"]) for one in told] == [("gateway", "writer")]
