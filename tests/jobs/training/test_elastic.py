"""A training that goes on with another number of workers: the same losses, whatever came and went."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.recipe import EngineSection, Recipe
from jobs.training import streamed, table
from jobs.training.engine import zero_stage
from jobs.training.loop import Job

ROOT = Path(__file__).resolve().parents[3]
RANK = Path(__file__).with_name("elastic_rank.py")


def group(job: Path, storage: Path, world: int, reports: int, attempt: int) -> None:
    """Train with `world` processes until the n-th report (0: to the end)."""
    storage.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": str(world), "GLOO_SOCKET_IFNAME": "lo"}
    given = [str(job), str(storage)]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANK), *given, str(rank), str(world), str(reports), str(attempt)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    for process in ranks:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out[-3000:]


def losses(storage: Path) -> tuple[np.ndarray, list[int]]:
    state = json.loads((Path(json.loads((storage / "latest.json").read_text())) / "state.json").read_text())
    assert state["status"] == "done"
    return np.array([point["loss"] for point in state["curve"]]), [point["step"] for point in state["curve"]]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero", [0, pytest.param(2, id="2-streamed")])
def test_two_workers_then_one_then_two_again_go_on_with_the_same_losses(
    tiny_digits: Callable[..., Recipe], make_job: Callable[..., Job], tmp_path: Path, zero: int
) -> None:
    recipe = tiny_digits(
        f"fit.engine={{workers: 2, min_workers: 1, zero_stage: {zero}, checkpoint_every: 2}}",
        "fit.samples=64",
        "fit.stages.0.epochs=2.0",
        "fit.stages.0.learning_rate=0.001",
    )
    job, away, made = tmp_path / "job", tmp_path / "away", make_job(recipe)
    index, uri = tmp_path / "rows.index", streamed.place(str(tmp_path), "far.arrow")
    table.write(index, streamed.write(uri, table.read(Path(made.table))))
    job.write_bytes(pickle.dumps(made))
    away.write_bytes(pickle.dumps(replace(made, table=str(index), rows_at=uri) if zero else made))
    group(job, tmp_path / "whole", 2, 0, 0)
    for attempt, world in enumerate((2, 1)):
        group(away, tmp_path / "cut", world, 1, attempt)  # each leaves after its first checkpoint
    group(away, tmp_path / "cut", 2, 0, 2)
    whole, steps = losses(tmp_path / "whole")
    cut, cut_steps = losses(tmp_path / "cut")
    assert cut_steps == steps == list(range(8))
    np.testing.assert_allclose(cut, whole, rtol=0, atol=1e-6)


def test_the_zero_stage_follows_what_was_asked_for_and_not_the_workers_that_are_there() -> None:
    assert zero_stage(EngineSection(workers=2, min_workers=1)) == 1
    assert zero_stage(EngineSection(workers=1)) == 0
    assert zero_stage(EngineSection(workers=1, precision="bf16")) == 1
    assert zero_stage(EngineSection(workers=1, offload_optimizer=True)) == 1


def test_training_asks_for_gpus_only_where_its_own_nodes_have_one_for_every_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cluster import session
    from jobs.training import runner

    serving: dict[str, Any] = {"Alive": True, "Labels": {"role": "serve"}, "Resources": {"CPU": 8.0, "GPU": 4.0}}
    trainer = {"Alive": True, "Labels": {"role": "train"}, "Resources": {"CPU": 8.0, "GPU": 1.0, "trainer": 2.0}}
    two, placed = EngineSection(workers=2), EngineSection(workers=2, placed_on="trainer")
    monkeypatch.setattr("ray.nodes", lambda: [serving, trainer, {**trainer, "Alive": False}])
    assert runner._on_gpus(two) and not runner._on_gpus(placed)
    assert runner._on_gpus(placed.model_copy(update={"workers": 1}))
    monkeypatch.setattr(session, "_labels", {"train": {"role": "train"}})
    assert not runner._on_gpus(two) and runner._on_gpus(EngineSection(workers=1))


def test_how_few_workers_may_go_on_and_on_what_reaches_ray_train() -> None:
    from jobs.training import runner

    elastic = runner._scaling(EngineSection(workers=3, min_workers=1, placed_on="trainer"), gpus=False)
    assert elastic.num_workers == (1, 3) and elastic.resources_per_worker == {"CPU": 1.0, "trainer": 1.0}
    fixed = runner._scaling(EngineSection(workers=2), gpus=True)
    assert fixed.num_workers == 2 and fixed.resources_per_worker == {"CPU": 1.0, "GPU": 1.0}
