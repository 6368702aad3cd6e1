"""A run as a user starts it: from nothing to answers over HTTP, then again for nothing, with one document each time."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import session
from cluster.recipe import Recipe
from cluster.store import Store
from jobs import fit, step

ROOT = Path(__file__).resolve().parents[2]
RUN_TIMEOUT_S = 600


def started(store: Path, overrides: list[str], *arguments: str) -> "subprocess.Popen[str]":
    sets = [word for one in overrides for word in ("--set", one)]
    command = [sys.executable, "-m", "jobs", *arguments, "--store", str(store), "--json", *sets]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=pipe, stderr=pipe, start_new_session=True)


def answered(store: Path, overrides: list[str], *arguments: str) -> dict[str, Any]:
    """The one document that a command prints; it must end with 0."""
    process = started(store, overrides, *arguments)
    out, err = process.communicate(timeout=RUN_TIMEOUT_S)
    assert process.returncode == 0, err[-3000:]
    document: dict[str, Any] = json.loads(out)
    return document


def running(process: "subprocess.Popen[str]", step: str) -> None:
    """Return when the step was announced on stderr."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.split() == [step, "..."]:
            return
    process.communicate()
    pytest.fail(f"{step} never began:\n{''.join(seen[-30:])}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_answers_over_http_and_is_reused_whole(
    tmp_path: Path, tiny_overrides: list[str], tiny_digits: Callable[..., Recipe]
) -> None:
    store, name = tmp_path / "store", step.run_name(tiny_digits())
    first = answered(store, tiny_overrides, "run", "digits")
    assert first["run"] == name
    assert set(first["artifacts"]) >= {"teacher", "student", "control", "bundle", "report", "promotion"}
    assert len(first["demo"]["answers"]) == 20
    assert first["demo"]["fallback"]["reason"] in ("hedge", "timeout")
    again = answered(store, tiny_overrides, "run", "digits", "--until", "promote")
    assert again["artifacts"] == first["artifacts"]
    report = answered(store, [], "report", name)
    assert (report["run"], report["artifacts"]["report"]) == (name, first["artifacts"]["report"])
    plan = answered(store, tiny_overrides, "plan", "digits")
    assert [row["done"] for row in plan["steps"]] == [True] * len(plan["steps"])
    kept = Store.open(store)
    assert {kept.get(kind, aid).manifest.executions for kind, aid in first["artifacts"].items()} == {1}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_interrupted_step_leaves_no_process_and_is_finished_by_the_same_command(
    tmp_path: Path, tiny_overrides: list[str], tiny_digits: Callable[..., Recipe]
) -> None:
    store = tmp_path / "store"
    for number in (signal.SIGINT, signal.SIGTERM):
        interrupted = started(store, tiny_overrides, "fit", "digits")
        running(interrupted, "fit")
        time.sleep(8)
        sent = time.monotonic()
        interrupted.send_signal(number)
        out, _ = interrupted.communicate(timeout=60)
        assert interrupted.returncode == 128 + number
        assert json.loads(out)["exit_code"] == 128 + number
        assert time.monotonic() - sent < 30
        deadline = time.monotonic() + 20
        while session.left_behind() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert session.left_behind() == []
    assert answered(store, tiny_overrides, "fit", "digits")["artifacts"] == {"teacher": fit.STEP.id(tiny_digits())}
