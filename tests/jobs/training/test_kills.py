"""One kill of each kind under Ray Train: the driver, then a worker; the run ends as one that nobody touched."""

import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster import session
from cluster.recipe import Recipe, ResourcesSection
from jobs.training.loop import Job
from jobs.training.runner import Trained, run_local, run_ray

DRIVER = """
import pickle, sys
from pathlib import Path
from cluster import session
from cluster.recipe import ResourcesSection
session.connect(ResourcesSection(cpus=1))
from jobs.training.runner import run_ray
run_ray(pickle.loads(Path(sys.argv[1]).read_bytes()), "fit", sys.argv[2])
"""
PATIENCE_S = 240


def worker_of(table: Path) -> int | None:
    """The process that trains on a table: it has it mapped; None before it does."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and str(table) in (process / "maps").read_text():
                return int(process.name)
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return None


def checkpoints(storage: Path) -> int:
    return len(list((storage / "fit").glob("checkpoint_*/state.json")))


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_S} s"
        time.sleep(0.01)


def losses(trained: Trained) -> list[tuple[int, float]]:
    return [(point["step"], point["loss"]) for point in trained.progress["curve"]]


@pytest.mark.timeout(900)
def test_a_run_whose_driver_and_then_a_worker_is_killed_ends_with_the_losses_and_weights_of_an_untouched_one(
    tiny_digits: Callable[..., Recipe],
    make_job: Callable[..., Job],
    tmp_path: Path,
    start_python: Callable[..., subprocess.Popen[str]],
    ray_cluster: ResourcesSection,
) -> None:
    job = make_job(tiny_digits("fit.engine.checkpoint_every=6", "fit.stages.0.epochs=12.0"))
    whole = run_local(job, tmp_path / "whole")
    storage, given = tmp_path / "killed", tmp_path / "job"
    given.write_bytes(pickle.dumps(job))

    driver = start_python(DRIVER, given, storage)
    try:
        wait_until(lambda: checkpoints(storage), "a first checkpoint")
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.communicate()
        session.reap()
    wait_until(lambda: worker_of(Path(job.table)) is None, "the end of the killed driver's worker")

    killed: list[int] = []

    def kill_a_worker() -> None:
        wait_until(lambda: worker_of(Path(job.table)), "a worker")
        pid = worker_of(Path(job.table))
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    trained = run_ray(job, "fit", str(storage))
    killer.join()
    assert killed and losses(trained) == losses(whole)
    for name, value in load_file(whole.weights / "model.safetensors").items():
        assert torch.equal(load_file(trained.weights / "model.safetensors")[name], value), name
