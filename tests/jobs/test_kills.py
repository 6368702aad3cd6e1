"""`kill -9` of the driver inside every step, then the same command again: it finishes, and nothing is done twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import session
from cluster.recipe import Recipe
from cluster.store import Store
from jobs import pipeline

ROOT = Path(__file__).resolve().parents[2]
STEP_TIMEOUT_S = 240
# How long after a step's start the kill comes, at most (s): inside the step for most draws, past its end for a few.
WINDOW_S = {"fit": 25, "generate": 12, "curate": 0.3, "distill": 30, "export": 3, "evaluate": 3, "promote": 1}


class Driver:
    """`python -m jobs run digits` as a user would start it, all its steps, on a store of its own."""

    def __init__(self, store: Path, overrides: list[str]) -> None:
        sets = [word for one in overrides for word in ("--set", one)]
        command = [sys.executable, "-m", "jobs", "run", "digits", "--until", "promote", "--store", str(store), *sets]
        self.log = store.parent / "driver.log"
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL of the driver alone, as an out-of-memory killer would do it; what Ray leaves is reaped."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        session.reap()


def wait_for(journal: Path, driver: Driver) -> bool:
    """True when the step has started; False when the driver ended before (the step was done already)."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while time.monotonic() < deadline:
        if journal.is_file():
            return True
        if driver.process.poll() is not None:
            return False
        time.sleep(0.05)
    driver.kill()
    pytest.fail(f"{journal} did not appear within {STEP_TIMEOUT_S} s:\n{driver.log.read_text()[-3000:]}")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_driver_killed_inside_every_step_finishes_with_the_same_ids_and_no_step_done_twice(
    tmp_path: Path, tiny_digits: Callable[..., Recipe], tiny_overrides: list[str]
) -> None:
    seed = int(os.environ.get("KILL_SEED", "7"))
    draw = random.Random(seed)
    often = ["fit.engine.checkpoint_every=2", "distill.engine.checkpoint_every=2"]
    overrides = [*tiny_overrides, *often]
    recipe, store = tiny_digits(*often), Store.open(tmp_path / "store")
    for verb, steps in pipeline.VERBS.items():
        step = steps[0]
        driver = Driver(tmp_path / "store", overrides)
        if wait_for(store.workspace / step.kind / step.id(recipe) / "journal.jsonl", driver):
            time.sleep(draw.uniform(0, WINDOW_S[verb]))
        driver.kill()
    last = Driver(tmp_path / "store", overrides)
    code = last.process.wait(timeout=STEP_TIMEOUT_S * 2)
    assert code == 0, last.log.read_text()[-3000:]
    plan = pipeline.plan(recipe, store)
    assert all(row["done"] for row in plan)
    manifests = [store.get(row["kind"], row["id"]).manifest for row in plan]
    assert [manifest.executions for manifest in manifests] == [1] * len(plan)
    assert sum(manifest.attempts for manifest in manifests) > len(plan), "no kill hit the inside of a step"
