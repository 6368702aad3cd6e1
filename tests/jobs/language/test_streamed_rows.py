"""Token labels and a student's own texts are the same from streamed rows: the random streams follow the row."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster.recipe import Recipe
from jobs.training import streamed, table
from jobs.training.loop import Job
from jobs.training.runner import run_local


def test_sampled_labels_and_on_policy_steps_give_the_losses_of_the_mapped_table(
    language: Callable[..., Recipe], distilling: Callable[[Recipe], Job], tmp_path: Path
) -> None:
    job = distilling(language(**{"distill.stages.0.on_policy": {"share": 0.5, "max_new_tokens": 5}}))
    uri = streamed.place(str(tmp_path), "far.arrow")
    table.write(tmp_path / "rows.index", streamed.write(uri, table.read(Path(job.table))))
    mapped = run_local(job, tmp_path / "mapped")
    away = run_local(replace(job, table=str(tmp_path / "rows.index"), rows_at=uri), tmp_path / "streamed")
    assert away.progress["curve"] == mapped.progress["curve"]
    file = "model.safetensors"
    assert (away.weights / file).read_bytes() == (mapped.weights / file).read_bytes()
