"""What it costs to stream a training's rows through Ray Data instead of mapping them into memory: one stage each, under
Ray Train with one worker. Both see the same batches, which is asserted; the first of both is warm-up."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.recipe import ResourcesSection, load
from jobs import tasks
from jobs.training import streamed, table
from jobs.training.loop import Job
from jobs.training.runner import run_ray

ROUNDS = 3
SETTINGS = ["fit.samples=8192", "fit.batch_size=64", "fit.stages.0.curriculum=[]",
            "fit.engine={workers: 1, checkpoint_every: 1000000}"]  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """An epoch of the digits recipe's student on 8,192 labelled rows."""
    recipe = load("digits", SETTINGS)
    task = tasks.of(recipe)
    (tmp_path / "initial").mkdir()
    task.save(task.build(recipe.student, 0), tmp_path / "initial")
    table.write(tmp_path / "table.arrow", task.fit_columns())
    table.write(tmp_path / "validation.arrow", {name: own[:8] for name, own in task.validation_columns().items()})
    stage = recipe.fit.stages[0].model_copy(update={"epochs": 1.0, "min_steps": 0})
    paths = {name: str(tmp_path / f"{name}.arrow") for name in ("table", "validation")}
    return Job(recipe=recipe, arm="fit", initial=str(tmp_path / "initial"), **paths, stages=(stage,),
               batch_size=recipe.fit.batch_size, engine=recipe.fit.engine)  # fmt: skip


def test_an_epoch_of_streamed_rows_beside_one_of_mapped_rows(
    job: Job, tmp_path: Path, ray_cluster: ResourcesSection, record: Callable[..., None]
) -> None:
    uri = streamed.place(str(tmp_path), "far.arrow")
    table.write(tmp_path / "rows.index", streamed.write(uri, table.read(Path(job.table))))
    jobs = {"mapped": job, "streamed": replace(job, table=str(tmp_path / "rows.index"), rows_at=uri)}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(ROUNDS + 1):
        curves = []
        for name, own in jobs.items():
            progress = run_ray(own, f"{name}-{number}", str(tmp_path / "ray")).progress
            seconds[name].append(progress["stages"][0]["seconds"])
            curves.append(progress["curve"])
        assert curves[0] == curves[1]
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    record(
        "speed.streamed_epoch", "an epoch of 128 steps, rows streamed by Ray Data from a folder (digits)",
        round(medians["streamed"], 3), "s", peer="rows mapped into memory", peer_value=round(medians["mapped"], 3),
        each=seconds, index_bytes=(tmp_path / "rows.index").stat().st_size,
        table_bytes=(tmp_path / "table.arrow").stat().st_size,
    )  # fmt: skip
