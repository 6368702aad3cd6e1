"""Stages that look where they are going: early stop, undo, thaw, left out, weights that follow validation, INT8."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from jobs.training.loop import Job, train
from jobs.training.runner import LocalIo, Trained, run_local
from jobs.training.schedules import value_at
from jobs.training.stages.check import check

MakeRecipe = Callable[..., Recipe]
Distilling = Callable[..., Job]
KL = [{"name": "forward_kl", "params": {"temperature": 2.0}}]


class Killed(BaseException):
    """Stands in for a kill: nothing after it runs."""


class DyingIo(LocalIo):
    """Dies right after its n-th checkpoint is in place."""

    def __init__(self, root: Path, reports: int) -> None:
        super().__init__(root)
        self.left = reports

    def report(self, metrics: Mapping[str, Any], folder: Path) -> None:
        super().report(metrics, folder)
        self.left -= 1
        if not self.left:
            raise Killed


def weights_of(trained: Trained) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(trained.weights / "model.safetensors")


def initial(job: Job) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(job.initial) / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in a if torch.equal(a[name], b[name])]


def test_a_stage_that_gains_nothing_stops_early_and_hands_on_its_best_weights(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    stage = {"epochs": 5, "losses": KL, "evaluate_every": 3, "early_stop": {"patience": 2, "min_delta": 0.5}}
    job = distilling(make_recipe(stage))
    stopped = run_local(job, tmp_path / "run").progress["stages"][0]
    assert stopped["stopped"] and stopped["steps"] == 9  # the first measurement is the best, two are no better
    short = job.stages[0].model_copy(update={"early_stop": None})
    cut = run_local(Job(**{**job.__dict__, "stages": (short,)}), tmp_path / "whole").progress["stages"][0]
    assert not cut["stopped"] and cut["steps"] > 25


def test_an_early_stopping_run_that_is_killed_ends_as_if_it_had_not_been(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    stage = {"epochs": 9, "losses": KL, "evaluate_every": 4, "early_stop": {"patience": 3}, "min_gain": -1.0}
    job = distilling(make_recipe(stage, {"epochs": 1}))
    job = Job(**{**job.__dict__, "engine": job.engine.model_copy(update={"checkpoint_every": 5})})
    whole = run_local(job, tmp_path / "whole")
    with pytest.raises(Killed):
        train(DyingIo(tmp_path / "cut", 2), job)
    resumed = run_local(job, tmp_path / "cut")
    assert [p["loss"] for p in resumed.progress["curve"]] == [p["loss"] for p in whole.progress["curve"]]
    assert len(same(weights_of(resumed), weights_of(whole))) == len(weights_of(whole))
    assert resumed.progress["stages"][0]["steps"] == whole.progress["stages"][0]["steps"]


def test_a_stage_that_does_not_help_is_undone_and_says_so(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    job = distilling(make_recipe({"epochs": 1, "losses": KL, "min_gain": 2.0}))
    trained = run_local(job, tmp_path / "run")
    assert not trained.progress["stages"][0]["kept"]
    assert len(same(weights_of(trained), initial(job))) == len(initial(job))


def test_what_is_frozen_stands_still_until_it_thaws_and_then_learns(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    frozen = {"epochs": 1, "losses": KL, "freeze": ["head"]}
    job = distilling(make_recipe(frozen))
    stages = {share: job.stages[0].model_copy(update={"thaw_share": share}) for share in (1.0, 0.999, 0.5)}
    ends = {
        share: weights_of(run_local(Job(**{**job.__dict__, "stages": (stage,)}), tmp_path / str(share)))
        for share, stage in stages.items()
    }
    start = initial(job)
    for share in (1.0, 0.999):  # in the optimizer from the start, at rate 0
        assert set(same(ends[share], start)) & {"head.weight", "head.bias"} == {"head.weight", "head.bias"}
    assert not torch.equal(ends[0.5]["head.weight"], start["head.weight"])
    words = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(ends[0.999][words], start[words])


def test_a_stage_that_is_off_is_left_out_and_not_checked(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"name": "a"}, {"name": "b", "enabled": False, "losses": [{"name": "input_gradient"}]})
    assert [stage.name for stage in recipe.distill.active] == ["a"]
    check(recipe, "distill", recipe.distill)
    off = make_recipe({"enabled": False})
    with pytest.raises(RecipeError, match="every stage has enabled: false"):
        check(off, "distill", off.distill)


def test_a_weight_may_follow_the_validation_metric_and_the_shares_show_it(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    weights = [{"kind": "validation", "from": 1.0, "to": 0.0}, {"kind": "validation", "from": 0.0, "to": 1.0}]
    losses = [{**KL[0], "weight": weights[0]}, {"name": "cross_entropy", "weight": weights[1]}]
    job = distilling(make_recipe({"epochs": 8, "losses": losses, "evaluate_every": 5}))
    trained = run_local(job, tmp_path / "run")
    first = next(iter(trained.progress["stages"][0]["before"].values()))
    assert value_at(job.stages[0].losses[1].weight, 0, 10, first) == pytest.approx(first)
    assert trained.progress["curve"][0]["shares"][1] < 0.9 and trained.progress["stages"][0]["shares"]["forward_kl"] > 0
    with pytest.raises(RecipeError, match="evaluate_every above 0"):
        make_recipe({"losses": losses})


def test_the_control_arm_keeps_the_rule_and_loses_the_teacher(make_recipe: MakeRecipe, control_stages: Any) -> None:
    stage = {"evaluate_every": 5, "early_stop": {"patience": 2}, "layers": {"map": "uniform"}, "live_teacher": True,
             "losses": [{"name": "hidden_mse"}], "adapters": True}  # fmt: skip
    own = control_stages(make_recipe(stage).distill.active, 2.0)[0]
    assert own.early_stop is not None and own.epochs == 4 and own.losses[0].name == "cross_entropy"
    assert own.layers is None and not own.live_teacher and not own.adapters


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"early_stop": {}}, "evaluate_every above 0"),
        ({"thaw_share": 0.5}, "freeze with the names"),
        ({"layers": {"map": "between"}}, "map: between together with"),
        ({"layers": {"map": "explicit"}}, "map: explicit together with"),
        ({"rows": {"confidence": [0.9, 0.1]}}, "least not above most"),
    ],
)
def test_knobs_that_do_not_fit_each_other_are_refused_when_the_recipe_is_read(
    make_recipe: MakeRecipe, stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        make_recipe(stage)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"layers": {"map": "uniform"}, "losses": [{"name": "hidden_gram"}]}, "no teacher layers to meet"),
        ({"losses": [{"name": "relation_transfer"}]}, "the stage has no layers"),
        ({"layers": {"map": "uniform"}, "losses": [{"name": "relation_transfer"}]}, "attention is not cached"),
        ({"losses": [{"name": "input_gradient"}]}, "share no input that takes gradients"),
    ],
)
def test_stages_that_cannot_work_are_refused_before_anything_starts(
    make_recipe: MakeRecipe, stage: dict[str, Any], message: str
) -> None:
    recipe = make_recipe(stage)
    with pytest.raises(RecipeError, match=message):
        check(recipe, "distill", recipe.distill)


def test_a_teachers_fit_has_no_teacher_beside_it(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe({"live_teacher": True})
    with pytest.raises(RecipeError, match=r"fit.stages.0.live_teacher: a teacher's fit has no teacher"):
        check(recipe, "fit", recipe.distill)


def test_a_stage_that_trains_for_int8_hands_on_the_float_weights_of_a_plain_network(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    from jobs import tasks
    from jobs.quantize import aware

    recipe = make_recipe({"losses": KL, "epochs": 2, "quantize": True}, export={"scheme": "fast"})
    check(recipe, "distill", recipe.distill)
    job = distilling(recipe)
    trained = run_local(job, tmp_path / "run")
    task: Any = tasks.of(recipe)
    network = task.load(str(trained.weights))
    assert not [module for module in network.modules() if "FakeQuantized" in type(module).__name__]
    assert set(weights_of(trained)) == set(initial(job))
    batch = task.batch(task.validation_columns(), np.arange(4))
    with torch.no_grad():
        plain, _ = task.scored(network, batch)
        with aware.quantized(network, recipe.export):
            rounded, _ = task.scored(network, batch)
    assert 0 < (plain - rounded).abs().max() < 0.1 * plain.abs().max()
    off = make_recipe({"losses": KL, "quantize": True}, export={"scheme": "static"})
    with pytest.raises(RecipeError, match=r"stages.0.quantize: this export.scheme cannot be trained for"):
        check(off, "distill", off.distill)
