"""What the quality benchmarks of several networks share: cells that are made once, and a network trained in one.

A cell is a JSON file under RAYDISTILL_CELLS with a folder beside it; a training that was killed goes on in its folder.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cluster.recipe import Recipe
from jobs.training import table
from jobs.training.loop import Job
from jobs.training.runner import run_local


def cell(base: Path, name: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `make` found, made once; its folder is kept while it works and until somebody removes it."""
    done = base / f"{name}.json"
    if not done.is_file():
        folder = base / name
        folder.mkdir(parents=True, exist_ok=True)
        aside = done.with_suffix(".new")
        aside.write_text(json.dumps(make(folder), indent=1))
        aside.replace(done)
    found: dict[str, Any] = json.loads(done.read_text())
    return found


def job_of(folder: Path, recipe: Recipe, arm: str) -> Job:
    """A job whose files are in `folder`."""
    section = recipe.fit if arm == "fit" else recipe.distill
    return Job(recipe=recipe, arm=arm, initial=str(folder / "initial"), table=str(folder / "table.arrow"),
               validation=str(folder / "validation.arrow"), stages=section.active, batch_size=section.batch_size,
               engine=section.engine)  # fmt: skip


def train(folder: Path, job: Job, columns: Callable[[], Mapping[str, np.ndarray]], task: Any) -> dict[str, Any]:
    """Train in `folder` from where a killed run stopped and leave `hf/`; returns seconds and validation figures."""
    for path, make in ((job.table, columns), (job.validation, task.validation_columns)):
        if not Path(path).is_file():
            table.write(Path(path).with_suffix(".new"), make())
            Path(path).with_suffix(".new").replace(path)
    initial = Path(job.initial)
    if not (initial / "task.json").is_file():
        initial.mkdir(exist_ok=True)
        section = job.recipe.teacher if job.arm == "fit" else job.recipe.student
        task.save(task.build(section, job.recipe.seed), initial)
    trained = run_local(job, folder / "run")
    shutil.copytree(trained.weights, folder / "hf", dirs_exist_ok=True)
    Path(job.table).unlink()
    stages = trained.progress["stages"]
    return {"seconds": float(sum(one["seconds"] for one in stages)), "validation": stages[-1]["after"]}
