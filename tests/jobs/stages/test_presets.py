"""Every preset in `jobs/recipes` passes its checks as it stands, and without any one of its stages."""

from pathlib import Path

import pytest

from cluster.recipe import load
from cluster.recipe.training import Ramp
from jobs.training.stages.check import check

TEXTS = ("text", "task_late", "layered")
OWN = (*TEXTS, "progressive", "plain_kd")


@pytest.mark.parametrize("name", OWN)
def test_the_stages_of_a_preset_can_work(name: str) -> None:
    recipe = load(name)
    for where, section in (("fit", recipe.fit), ("distill", recipe.distill)):
        check(recipe, where, section)
    assert recipe.name == name and recipe.promote.model_name == name


@pytest.mark.parametrize(
    ("name", "stage", "count"),
    [*(("text", at, 2) for at in (0, 1)), *((name, at, 3) for name in ("layered", "progressive") for at in (0, 1, 2))],
)
def test_any_stage_of_a_preset_can_be_left_out_by_one_flag(name: str, stage: int, count: int) -> None:
    recipe = load(name, [f"distill.stages.{stage}.enabled=false"])
    check(recipe, "distill", recipe.distill)
    assert len(recipe.distill.active) == count - 1


def test_the_presets_say_what_their_names_promise() -> None:
    first, second, third = load("progressive").distill.stages
    assert first.losses[0].params == {"temperature": 4.0} and first.learning_rate == 1e-4 and first.epochs == 5
    assert [term.weight for term in second.losses] == [0.7, 0.3] and second.adapters and second.epochs == 10
    assert second.freeze == ["lm_head"] and 0 < second.thaw_share < 1
    assert third.kv_heads == 2 and third.epochs == 15
    assert {t.params["temperature"] for s in load("text").distill.stages for t in s.losses if t.params} == {6.0}
    weight = load("task_late").distill.stages[0].losses[0].weight
    assert isinstance(weight, Ramp) and weight.ends == (0.7, 0.4)
    assert [stage.name for stage in load("layered").distill.stages] == ["syntax", "semantics", "domain"]
    assert len(load("plain_kd").distill.stages) == 1


def test_layers_of_a_preset_are_those_that_are_kept(tmp_path: Path) -> None:
    recipe = load("layered", ["distill.stages.1.layers={map: between, between: [3, 6]}"])
    check(recipe, "distill", recipe.distill)
