"""A loss whose inputs a task cannot feed is refused by the recipe check, which names the loss, the task and the way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import RecipeError
from cluster.recipe import Recipe, load
from jobs.training.losses import LOSSES, absent
from jobs.training.stages.check import check

STAGE = [
    "distill.stages.0.layers={map: last_k}",
    "distill.stages.0.live_teacher=true",
    "distill.stages.0.adapters=true",
]
PICTURES, QUESTIONS = "image_classification", "visual_qa"
# What none of a task's stages, however it is written, can read.
UNFED = {
    PICTURES: {"relation_transfer", "masked_tokens"},
    QUESTIONS: {"attention_transfer", "relation_transfer", "masked_tokens", "input_gradient"},
    "retrieval": {"masked_tokens", "input_gradient"},
    "text_classification": {"input_gradient"},
    "text_generation": {"masked_tokens", "input_gradient"},
}
RECIPES = {PICTURES: "vision", QUESTIONS: "digits", "retrieval": "faq", "text_classification": "banking77",
           "text_generation": "language_model"}  # fmt: skip


@pytest.mark.parametrize("task", sorted(RECIPES))
def test_each_task_says_which_losses_it_cannot_feed(task: str) -> None:
    recipe = load(RECIPES[task], STAGE)
    missing = absent(recipe, "distill", recipe.distill.stages[0])
    never = {name for name in ("teacher_sparse", "teacher_logits_QV", "teacher_hidden_QH") if name in missing}
    found = {name for name, loss in LOSSES.items() if set(loss.needs) & set(missing) - never}
    assert recipe.task == task and found == UNFED[task]


@pytest.mark.parametrize("loss", ["attention_transfer", "relation_transfer"])
def test_attention_of_the_multimodal_network_is_refused_before_anything_starts(
    tiny_digits: Callable[..., Recipe], loss: str
) -> None:
    recipe = tiny_digits(*STAGE, f"distill.stages.0.losses=[{{name: {loss}}}]")
    with pytest.raises(RecipeError) as told:
        check(recipe, "distill", recipe.distill)
    said = str(told.value)
    assert loss in said and "networks of visual_qa show none" in said
    assert "retrieval, text_classification, text_generation" in said


def test_a_picture_network_without_stages_is_asked_for_no_layers(tmp_path: Path) -> None:
    from transformers import ViTConfig

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTConfig(image_size=16, patch_size=8, **small).save_pretrained(tmp_path)
    teacher = ["teacher.architecture=pretrained", f"teacher.weights={tmp_path}", "teacher.params={}"]
    recipe = load("vision", [*teacher, *STAGE])
    with pytest.raises(RecipeError, match=r"(?s)layers: teacher.weights keep no stages.*got: vit"):
        check(recipe, "distill", recipe.distill)
