"""Which changes of a recipe are another student, and which are another control arm."""

from collections.abc import Callable

import pytest

from cluster.recipe import Recipe
from jobs import distill

STAGE = "distill.stages.0"


def arms(recipe: Recipe) -> tuple[str, str]:
    return distill.STEP.id(recipe), distill.CONTROL.id(recipe)


@pytest.mark.parametrize(
    "change",
    [f"{STAGE}.losses.0.params.temperature=3.0", f"{STAGE}.losses=[{{name: reverse_kl}}]", f"{STAGE}.adapters=true",
     f"{STAGE}.layers={{map: last_k}}"],
)  # fmt: skip
def test_recipes_that_teach_in_another_way_have_one_control_arm(
    tiny_digits: Callable[..., Recipe], change: str
) -> None:
    plain, other = arms(tiny_digits()), arms(tiny_digits(change))
    assert plain[0] != other[0]
    assert plain[1] == other[1]


@pytest.mark.parametrize(
    "change",
    [f"{STAGE}.learning_rate=0.5", f"{STAGE}.epochs=0.25", f"{STAGE}.enabled=false", "distill.batch_size=7",
     "distill.seed=5", "student.params.expert_size=8", "curate.filters=[]", "generate.samples=30", "seed=3"],
)  # fmt: skip
def test_another_student_budget_or_set_of_rows_is_another_control_arm(
    tiny_digits: Callable[..., Recipe], change: str
) -> None:
    plain, other = arms(tiny_digits()), arms(tiny_digits(change))
    assert plain[0] != other[0]
    assert plain[1] != other[1]


@pytest.mark.parametrize("change", ["export.block_size=64", "export.scheme=fast"])
def test_a_stage_that_rounds_is_another_one_for_another_rounding(
    tiny_digits: Callable[..., Recipe], change: str
) -> None:
    rounded = f"{STAGE}.quantize=true"
    for plain, other in zip(arms(tiny_digits(rounded)), arms(tiny_digits(rounded, change)), strict=True):
        assert plain != other
    assert arms(tiny_digits()) == arms(tiny_digits(change))
