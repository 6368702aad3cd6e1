"""Which changes of a recipe are another student, and which are another control arm."""

from collections.abc import Callable

import pytest

from cluster.recipe import Recipe
from jobs import distill

STAGE = "distill.stages.0"


def arms(recipe: Recipe) -> tuple[str, str]:
    return distill.STEP.id(recipe), distill.CONTROL.id(recipe)


TAUGHT = [
    f"{STAGE}.losses.0.params.temperature=3.0", f"{STAGE}.losses=[{{name: reverse_kl}}]", f"{STAGE}.adapters=true",
    f"{STAGE}.layers={{map: last_k}}",
]  # fmt: skip
MADE = [
    f"{STAGE}.learning_rate=0.5", f"{STAGE}.epochs=0.25", f"{STAGE}.enabled=false", "distill.batch_size=7",
    "distill.seed=5", "student.params.expert_size=8", "curate.filters=[]", "generate.samples=30", "seed=3",
]  # fmt: skip


@pytest.mark.parametrize(("change", "shared"), [*((one, True) for one in TAUGHT), *((one, False) for one in MADE)])
def test_recipes_share_a_control_arm_where_only_the_teaching_differs(
    tiny_digits: Callable[..., Recipe], change: str, shared: bool
) -> None:
    plain, other = arms(tiny_digits()), arms(tiny_digits(change))
    assert plain[0] != other[0]
    assert (plain[1] == other[1]) is shared


@pytest.mark.parametrize("change", ["export.block_size=64", "export.scheme=fast"])
def test_a_stage_that_rounds_is_another_one_for_another_rounding(
    tiny_digits: Callable[..., Recipe], change: str
) -> None:
    rounded = f"{STAGE}.quantize=true"
    for plain, other in zip(arms(tiny_digits(rounded)), arms(tiny_digits(rounded, change)), strict=True):
        assert plain != other
    assert arms(tiny_digits()) == arms(tiny_digits(change))
