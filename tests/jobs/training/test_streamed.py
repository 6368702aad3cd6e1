"""Rows that are streamed: any of them are found, and a training sees the batches of a memory-mapped table."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cluster.errors import RecipeError
from cluster.recipe import Recipe, ResourcesSection
from cluster.store import Store
from jobs import fit, tasks
from jobs.step import Work
from jobs.training import checks, rows, streamed, table
from jobs.training.loop import Job, train
from jobs.training.run import Arm, job_of, train_arm
from jobs.training.runner import LocalIo, Trained, run_local

MakeJob = Callable[..., Job]
MakeRecipe = Callable[..., Recipe]
SHORT = ["fit.stages.0.epochs=0.5", "fit.engine.checkpoint_every=2"]


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    """Hundred rows of every kind of number that is packed."""
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, 1000, (100, 7)).astype(np.int32),
        "logits": rng.normal(size=(100, 2, 5)).astype(np.float16),
        "pixels": rng.integers(0, 256, (100, 3, 3, 1)).astype(np.uint8),
        "length": np.arange(100, dtype=np.int32),
    }


def far(job: Job, folder: Path) -> Job:
    """The same job with its rows streamed from a file of `folder`."""
    uri = streamed.place(str(folder), "far", "rows.arrow")
    index = folder / "rows.index"
    table.write(index, streamed.write(uri, table.read(Path(job.table))))
    return replace(job, table=str(index), rows_at=uri)


def assert_same(one: Trained, other: Trained) -> None:
    assert one.progress["curve"] == other.progress["curve"]
    theirs = load_file(other.weights / "model.safetensors")
    for name, value in load_file(one.weights / "model.safetensors").items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 18])
def test_rows_come_in_the_order_they_are_asked_for_however_long_the_blocks(
    block_bytes: int, columns: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "BLOCK_BYTES", block_bytes)
    uri = streamed.place(str(tmp_path), "deep", "rows.arrow")
    index = streamed.write(uri, columns)
    assert list(index) == ["length"]
    asked = np.array([99, 3, 3, 0, 57, 56, 99])
    found = streamed.unpacked(streamed.fetch(asked, uri), streamed.shapes_of(uri))
    assert list(found) == ["ids", "logits", "pixels"]
    for name, values in found.items():
        assert values.dtype == columns[name].dtype
        np.testing.assert_array_equal(values, columns[name][asked], err_msg=name)
    streamed.remove(uri)
    assert not list(tmp_path.rglob("*.arrow"))


def test_some_rows_and_the_steps_of_a_plan_are_those_of_the_mapped_table(
    columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    table.write(tmp_path / "rows.arrow", columns)
    uri = streamed.place(str(tmp_path), "rows.far")
    table.write(tmp_path / "rows.index", streamed.write(uri, columns))
    near, away = rows.held(tmp_path / "rows.arrow", None, rows.here), rows.held(tmp_path / "rows.index", uri, rows.here)
    plan = np.random.default_rng(1).permutation(100)[:96].reshape(12, 8)
    shown = [near.some(plan[0]), *near.steps(plan)], [away.some(plan[0]), *away.steps(plan)]
    for (own, here), (other, there) in zip(*shown, strict=True):
        assert own.keys() == other.keys()
        for name in own:
            np.testing.assert_array_equal(own[name][here], other[name][there], err_msg=name)


def test_a_streamed_training_is_the_mapped_one_bit_for_bit_also_after_a_kill(
    tiny_digits: MakeRecipe, make_job: MakeJob, tmp_path: Path
) -> None:
    recipe = tiny_digits(*SHORT, "fit.engine.micro_batch=8")
    job = make_job(recipe, stages=tuple(recipe.fit.stages) * 2)
    whole = run_local(job, tmp_path / "mapped")
    away = far(job, tmp_path)

    class Killed(Exception):
        pass

    class Dying(LocalIo):
        def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
            super().report(metrics, folder)
            raise Killed

    with pytest.raises(Killed):
        train(Dying(tmp_path / "streamed"), away)  # in the middle of the first stage
    assert_same(run_local(away, tmp_path / "streamed"), whole)


def assert_read_ahead(uri: str, columns: dict[str, np.ndarray], name: str) -> None:
    plan = np.random.default_rng(1).integers(0, 100, (20, 6))
    shapes = streamed.shapes_of(uri)
    found = [streamed.unpacked(step, shapes)[name] for step in streamed.ahead(plan, uri)]
    np.testing.assert_array_equal(np.stack(found), columns[name][plan])


def test_ray_data_reads_ahead_in_the_order_of_the_plan_also_where_every_cpu_is_held(
    columns: dict[str, np.ndarray], tmp_path: Path, ray_cluster: ResourcesSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    class Holder:
        def here(self) -> bool:
            return True

    monkeypatch.setattr(streamed, "STEPS_OF_A_PIPELINE", 17)  # the plan takes two, the last task of each is short
    uri = streamed.place(str(tmp_path), "rows.arrow")
    streamed.write(uri, columns)
    holder = ray.remote(num_cpus=ray_cluster.cpus)(Holder).remote()
    try:
        assert ray.get(holder.here.remote(), timeout=120)
        assert_read_ahead(uri, columns, "ids")
    finally:
        ray.kill(holder)  # the tests after this one share the cluster


@pytest.mark.slow
def test_rows_of_a_bucket_are_read_by_tasks_on_any_node(
    columns: dict[str, np.ndarray], s3_uri: str, ray_cluster: ResourcesSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "BLOCK_BYTES", 1000)
    uri = streamed.place(s3_uri.replace("s3://", "s3://a:b@"), "rows.arrow")  # tasks have not this process's keys
    streamed.write(uri, columns)
    assert_read_ahead(uri, columns, "logits")
    streamed.remove(uri)


@pytest.mark.slow
def test_a_step_whose_rows_are_streamed_through_ray_makes_the_artifact_of_the_mapped_one(
    tiny_digits: MakeRecipe, tmp_path: Path, ray_cluster: ResourcesSection
) -> None:
    plain, away = tiny_digits(*SHORT), tiny_digits(*SHORT, f"fit.engine.stream_from={tmp_path / 'bucket'}")
    assert fit.STEP.id(plain) == fit.STEP.id(away)
    store = Store.open(tmp_path / "store")
    with store.draft("teacher", "0" * 16, section={}, parents={}, step_version=1) as draft:
        task = tasks.of(plain)
        (draft.scratch / "initial").mkdir()
        task.save(task.build(plain.teacher, 0), draft.scratch / "initial")
        arms = [Arm("fit", draft.scratch / "initial", task.fit_columns(), recipe.fit, tuple(recipe.fit.stages))
                for recipe in (plain, away)]  # fmt: skip
        mapped = run_local(job_of(Work(plain, store, {}, draft), arms[0]), tmp_path / "mapped")
        found = train_arm(Work(away, store, {}, draft), arms[1])
        assert_same(found, mapped)
        assert (draft.scratch / "fit.progress").is_file(), "jobs.progress looks for it"
        assert not list((tmp_path / "bucket").rglob("*.arrow")), "what is done is removed"
        again = job_of(Work(away, store, {}, draft), arms[1])  # killed before it was committed
        assert run_local(again, tmp_path / "again").progress["curve"] == mapped.progress["curve"]


def test_rows_lie_below_their_place_whatever_it_is(tmp_path: Path) -> None:
    assert streamed.place(str(tmp_path / "a"), "b", "c") == str(tmp_path / "a" / "b" / "c")
    assert streamed.place("s3://bucket/rows/", "b", "c") == "s3://bucket/rows/b/c"
    assert streamed.place("s3://bucket?region=r&scheme=http", "b") == "s3://bucket/b?region=r&scheme=http"


def test_a_place_that_is_none_is_refused_before_anything_starts(tiny_digits: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match=r"distill\.engine\.stream_from: no such place"):
        checks.check(tiny_digits("distill.engine.stream_from=ftp://somewhere/rows"))
