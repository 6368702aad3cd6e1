"""The bundle carries a calibrated threshold where the recipe asks for one, and says when there is none."""

import pytest

from cluster.errors import RecipeError, StepFailed
from cluster.recipe import Recipe, ServingSection
from cluster.store import Artifact, Store
from jobs.measure import deferral
from serving.bundle import predict


def asking(recipe: Recipe, agreement_min: float | None, task: str = "visual_qa") -> Recipe:
    serving = recipe.serving.model_copy(update={"agreement_min": agreement_min})
    return recipe.model_copy(update={"serving": serving, "task": task})


def test_a_threshold_is_found_where_the_student_agrees_often_enough(exported: tuple[Recipe, Store, Artifact]) -> None:
    recipe, store, bundle = exported
    teacher = store.get("teacher", bundle.manifest.parents["teacher"]).path() / "hf"
    student = predict.load(bundle.path())
    assert deferral.thresholds(asking(recipe, None), student, teacher) == {}
    with pytest.raises(StepFailed, match=r"no threshold.* 99\.0%"):  # two networks of random weights
        deferral.thresholds(asking(recipe, 0.99), student, teacher)
    # A student that is its own teacher agrees with it: 72 validation rows show 90 %.
    itself = predict.load(bundle.path() / "teacher")
    found = deferral.thresholds(asking(recipe, 0.9), itself, teacher)["threshold"]
    assert (found["target"], found["delta"], found["agreement"]) == (0.9, 0.05, 1.0)
    assert found["deferred"] == 0.0


def test_texts_cannot_be_held_to_a_share_of_equal_words(exported: tuple[Recipe, Store, Artifact]) -> None:
    with pytest.raises(RecipeError, match=r"serving\.agreement_min"):
        deferral.check(asking(exported[0], 0.9, "text_generation"))
    deferral.check(asking(exported[0], 0.9))
    assert ServingSection().agreement_min is None
