"""Ten trainings, each with a worker or the driver killed at a random moment: all end, within the noise of the seed.

`CHAOS_SEED` draws other moments, `CHAOS_ROUNDS` more or fewer of them.
"""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import session
from cluster.recipe import Recipe, load
from jobs import tasks
from jobs.training import table
from jobs.training.loop import Job
from jobs.training.runner import run_local

DRIVER = """
import json, pickle, sys
from pathlib import Path
from cluster import session
from cluster.recipe import ResourcesSection
session.connect(ResourcesSection(cpus=1))
from jobs.training.runner import run_ray
trained = run_ray(pickle.loads(Path(sys.argv[1]).read_bytes()), "fit", sys.argv[2])
Path(sys.argv[3]).write_text(json.dumps(dict(trained.progress)))
"""
ROUNDS, SEEDS = int(os.environ.get("CHAOS_ROUNDS", "10")), 3
PATIENCE_S = 300
SMALL = ["teacher.params={layers: 1, hidden_size: 32, heads: 2, kv_heads: 2, head_dim: 16, expert_size: 16, "
         "vision_layers: 1, vision_size: 16, vision_heads: 2}", "data.params={validation: 120, test: 30}",
         "fit.samples=4096", "fit.batch_size=32", "fit.stages.0.curriculum=[]", "fit.stages.0.learning_rate=0.003",
         "fit.engine={workers: 1, checkpoint_every: 20, max_failures: 3}"]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A small network that learns to name digits and to compare them: 128 steps."""
    return made(load("digits", SMALL), tmp_path)


def made(recipe: Recipe, folder: Path) -> Job:
    task = tasks.of(recipe)
    (folder / "initial").mkdir()
    task.save(task.build(recipe.teacher, recipe.seed), folder / "initial")
    for name, columns in (("table", task.fit_columns()), ("validation", task.validation_columns())):
        table.write(folder / f"{name}.arrow", columns)
    places = {name: str(folder / f"{name}.arrow") for name in ("table", "validation")}
    return Job(recipe=recipe, arm="fit", initial=str(folder / "initial"), **places, stages=tuple(recipe.fit.stages),
               batch_size=recipe.fit.batch_size, engine=recipe.fit.engine)  # fmt: skip


def metric(progress: dict[str, object]) -> float:
    stages = progress["stages"]
    assert isinstance(stages, list)
    return float(next(iter(stages[-1]["after"].values())))


def worker_of(rows: Path) -> int | None:
    """The process that has a table mapped: the worker that trains on it."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and str(rows) in (process / "maps").read_text():
                return int(process.name)
        except OSError:
            continue
    return None


def wait_for_worker(rows: Path, driver: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and driver.poll() is None:
        pid = worker_of(rows)
        if pid is not None:
            return pid
        time.sleep(0.02)
    pytest.fail(f"no worker trains: {driver.communicate()[1][-3000:] if driver.poll() is not None else 'none came'}")


def test_runs_whose_worker_or_driver_is_killed_at_random_moments_all_end_within_the_seed_noise(
    job: Job, tmp_path: Path, start_python: Callable[..., "subprocess.Popen[str]"], record: Callable[..., None]
) -> None:
    draw = random.Random(int(os.environ.get("CHAOS_SEED", "11")))
    began = time.monotonic()
    whole = run_local(job, tmp_path / "whole")
    seconds = time.monotonic() - began
    others = []
    for seed in range(1, SEEDS):
        recipe = job.recipe.model_copy(update={"seed": job.recipe.seed + seed})
        others.append(metric(dict(run_local(replace(job, recipe=recipe), tmp_path / f"seed-{seed}").progress)))
    metrics = [metric(dict(whole.progress)), *others]
    noise = max(metrics) - min(metrics)
    ends = []
    for number in range(ROUNDS):
        folder = tmp_path / f"round-{number}"
        folder.mkdir()
        rows = folder / "table.arrow"
        shutil.copyfile(job.table, rows)
        (folder / "job").write_bytes(pickle.dumps(replace(job, table=str(rows))))
        given = (DRIVER, folder / "job", folder / "ray", folder / "end.json")
        driver, kind = start_python(*given), ("worker", "driver")[number % 2]
        pid = wait_for_worker(rows, driver)
        time.sleep(draw.uniform(0, seconds))
        victim = driver.pid if kind == "driver" else worker_of(rows) or pid
        if driver.poll() is None and Path(f"/proc/{victim}").exists():
            os.kill(victim, signal.SIGKILL)
        driver.communicate(timeout=PATIENCE_S)
        session.reap()
        if not (folder / "end.json").is_file():
            assert kind == "driver", "a killed worker ended the run"
            again = start_python(*given)
            _, err = again.communicate(timeout=PATIENCE_S)
            assert again.returncode == 0, err[-3000:]
        progress = json.loads((folder / "end.json").read_text())
        ends.append(metric(progress))
        assert progress["status"] == "done" and abs(ends[-1] - metrics[0]) <= noise + 1e-9, (kind, ends, metrics)
        # Stronger than the noise: a resumed run is the uninterrupted one.
        assert [point["loss"] for point in progress["curve"]] == [point["loss"] for point in whole.progress["curve"]]
    record(
        "chaos_training_kills", "trainings killed at a random moment, worker and driver in turn: largest distance of "
        "the final metric from the uninterrupted run's", max(abs(end - metrics[0]) for end in ends), "share",
        bar=f"<= {noise:.3g}, the noise of {SEEDS} seeds", passed=True, rounds=ROUNDS, ends=ends, uninterrupted=metrics,
    )  # fmt: skip
