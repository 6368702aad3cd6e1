"""Feature maps of student and teacher: adapters between them, and picture stages that resume bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from torch import nn

from cluster import schema
from cluster.errors import MismatchError, RecipeError
from cluster.recipe import EngineSection, Recipe, load
from jobs import tasks
from jobs.data.answers import Answerer, labels_of
from jobs.training import adapters, table
from jobs.training.loop import Job
from jobs.training.runner import run_local
from jobs.training.stages import check as stage_check

TINY = [
    "teacher.params={stem: 8, widths: [12, 16], depths: [1, 1]}",
    "student.params={stem: 4, widths: [8, 12], strides: [1, 2]}",
    "generate.views={count: 0}",
    "generate.samples=96",
    "distill.batch_size=32",
    "distill.stages.0.layers={map: explicit, pairs: [[1, 1], [2, 2]]}",
    "distill.stages.0.epochs=2",
    "distill.stages.1.epochs=1",
    "distill.stages.1.min_steps=0",
    "distill.engine.checkpoint_every=2",
]


class Killed(Exception):
    """What a killed worker looks like to this test."""


def test_a_map_is_lifted_by_a_1x1_convolution_and_pooled_to_the_teachers_cells() -> None:
    adapter = adapters.build([6, 8, 8], [10, 4, 4])
    x_BCHW = torch.randn(3, 6, 8, 8)
    out = adapter(x_BCHW)
    assert out.shape == (3, 10, 4, 4)
    convolution = next(module for module in adapter.modules() if isinstance(module, nn.Conv2d))
    assert convolution.kernel_size == (1, 1)
    pooled = x_BCHW.view(3, 6, 4, 2, 4, 2).mean((3, 5))  # pooling and a 1x1 convolution may change places
    torch.testing.assert_close(out, convolution(pooled))


def test_a_map_of_fewer_cells_than_the_teachers_is_repeated() -> None:
    adapter = adapters.build([6, 2, 2], [6, 4, 4])
    out = adapter(torch.randn(1, 6, 2, 2))
    assert out.shape == (1, 6, 4, 4)
    torch.testing.assert_close(out[..., ::2, ::2], out[..., 1::2, 1::2])


def test_a_map_and_a_vector_are_not_joined() -> None:
    with pytest.raises(MismatchError, match="no adapter"):
        adapters.build([6, 2, 2], [6])


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """The vision recipe with tiny networks and few pictures; its stages are checked."""
    own = load("vision", TINY)
    stage_check.check(own, "distill", own.distill)
    tasks.of(own).check()
    return own


@pytest.fixture(scope="module")
def make_student(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Job]:
    """A job that distils an untrained student from an untrained teacher."""
    task, folder = tasks.of(recipe), tmp_path_factory.mktemp("student")
    for name, section in (("teacher", recipe.teacher), ("initial", recipe.student)):
        task.save(task.build(section, 0), folder / name)
    answers = Answerer(str(folder / "teacher"), recipe.generate, str(folder / "tally"))(task.requests("train"))
    samples = schema.conform(answers.append_column("teacher", pa.array(["t"] * len(answers))), "samples")
    columns = task.pack(samples, labels_of(answers), true_labels=False)
    table.write(folder / "rows.arrow", columns)
    table.write(folder / "validation.arrow", task.validation_columns())
    own = recipe.distill
    values: dict[str, Any] = {"recipe": recipe, "arm": "distill", "initial": str(folder / "initial"),
                              "table": str(folder / "rows.arrow"), "validation": str(folder / "validation.arrow"),
                              "stages": own.active, "batch_size": own.batch_size, "engine": own.engine,
                              "teacher_hidden": 16, "teacher": str(folder / "teacher")}  # fmt: skip
    return lambda: Job(**values)


@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
def test_a_stage_of_feature_maps_resumes_with_the_running_means_of_an_uninterrupted_one(
    recipe: Recipe, make_student: Callable[[], Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_local(make_student(), tmp_path / "whole")
    stage = whole.progress["stages"][0]
    assert set(stage["shares"]) == {"forward_kl", "hidden_mse", "attention_transfer"}
    assert min(stage["shares"].values()) > 0.05
    task: Any = type(tasks.of(recipe))
    batch, calls = task.batch, []

    def dying(self: Any, *rest: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise Killed
        return batch(self, *rest)

    monkeypatch.setattr(task, "batch", dying)
    with pytest.raises(Killed):
        run_local(make_student(), tmp_path / "killed")
    resumed = run_local(make_student(), tmp_path / "killed")
    states = [tasks.of(recipe).load(str(one.weights)).state_dict() for one in (whole, resumed)]
    assert any("running_mean" in name for name in states[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any("adapter" in name for name in states[0])
    assert np.isfinite(resumed.progress["stages"][-1]["after"]["accuracy"])


def sloped(*overrides: str) -> Recipe:
    """The vision recipe whose first stage compares input gradients beside the soft labels."""
    losses = "distill.stages.0.losses=[{name: forward_kl}, {name: input_gradient}]"
    return load("vision", [*TINY, losses, "distill.stages.0.layers=null", "distill.stages.0.adapters=false",
                           "distill.stages.0.live_teacher=true", *overrides])  # fmt: skip


@pytest.mark.parametrize("engine", ["{}", "{micro_batch: 8}", "{zero_stage: 1}"])
@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
def test_a_student_learns_what_its_teachers_answers_depend_on(
    engine: str, make_student: Callable[[], Job], tmp_path: Path
) -> None:
    recipe = sloped()
    stage_check.check(recipe, "distill", recipe.distill)
    section = EngineSection.parse(yaml.safe_load(engine))
    (stage,) = recipe.distill.active[:1]
    trained = run_local(replace(make_student(), recipe=recipe, stages=(stage,), engine=section), tmp_path)
    shares = trained.progress["stages"][0]["shares"]
    assert min(shares.values()) > 0.05
    assert trained.progress["status"] == "done"


@pytest.mark.parametrize(
    ("override", "says"),
    [("distill.stages.0.live_teacher=false", "not cached"), ("distill.engine.zero_stage=3", "zero_stage 3")],
)
def test_input_gradients_that_cannot_be_had_are_refused(override: str, says: str) -> None:
    recipe = sloped(override)
    with pytest.raises(RecipeError, match=f"(?s)input_gradient.*{says}"):
        stage_check.check(recipe, "distill", recipe.distill)
