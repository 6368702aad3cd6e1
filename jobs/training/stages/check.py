"""Refuses stages that cannot work, before Ray starts and the first minute is spent."""

from __future__ import annotations

from cluster.errors import RecipeError
from cluster.recipe import Recipe, Stage
from cluster.recipe.training import TrainingSection
from jobs import tasks
from jobs.quantize import aware
from jobs.training import losses, on_policy
from jobs.training.stages import attention
from serving import teachers


def check(recipe: Recipe, where: str, section: TrainingSection) -> None:
    """Check the stages of a recipe's section `where` ("fit" or "distill"). Raises RecipeError with the dotted path."""
    if section.stages and not section.active:
        raise RecipeError(f"{where}.stages: every stage has enabled: false", expected="at least one that is trained")
    for index, stage in enumerate(section.stages):
        if stage.enabled:
            at = f"{where}.stages.{index}"
            losses.check(stage.losses, f"{at}.losses", losses.absent(recipe, where, stage))
            if where == "fit":
                _alone(stage, at)
            _layers(recipe, stage, at)
            attention.check(recipe, stage, at)
            on_policy.check(recipe, section, stage, tasks.of(recipe), at)
            _engine(section, stage, at)
            if stage.quantize:
                convolutions = recipe.task == "image_classification" and recipe.student.architecture != "pretrained"
                aware.check(recipe.export, f"{at}.quantize", convolutions)


def _alone(stage: Stage, at: str) -> None:
    """A teacher's fit has no teacher and is not what is exported."""
    measured = any(phase.easiest < 1 and phase.by == "difficulty" for phase in stage.curriculum)
    asked = {
        "layers": stage.layers is not None,
        "live_teacher": stage.live_teacher,
        "on_policy": stage.on_policy is not None,
        "quantize": stage.quantize,
        "rows.confidence": stage.rows.confidence is not None,
        "curriculum: by difficulty": measured,
    }
    if wrong := [name for name, yes in asked.items() if yes]:
        raise RecipeError(f"{at}.{wrong[0]}: a teacher's fit has no teacher and no export", expected="in distill alone")


def _layers(recipe: Recipe, stage: Stage, at: str) -> None:
    kept, task = recipe.generate.kept_layers, tasks.of(recipe)
    if stage.live_teacher and recipe.teacher.architecture in teachers.KINDS:
        got = recipe.teacher.architecture
        raise RecipeError(f"{at}.live_teacher: this teacher's network is not here", got=got, expected="a fitted one")
    if stage.layers is None:
        return
    if not isinstance(task, tasks.Layered):
        raise RecipeError(f"{at}.layers: networks of this task show no layers", got=recipe.task, expected="layers null")
    if stage.live_teacher:
        return
    if not recipe.generate.hidden_layers or min(kept) < 1:
        expected = "generate.hidden_layers with numbers from 1, or live_teacher: true"
        raise RecipeError(f"{at}.layers: no teacher layers to meet", got=list(kept), expected=expected)
    asked = {pair[1] for pair in stage.layers.pairs} | set(stage.layers.between or [])
    if missing := sorted(asked - set(kept)):
        raise RecipeError(f"{at}.layers: the teacher's layers are not kept", got=missing, expected=list(kept),
                          hint="name them in generate.hidden_layers")  # fmt: skip


def _engine(section: TrainingSection, stage: Stage, at: str) -> None:
    """What needs whole weights or every layer's own output."""
    engine = section.engine
    if engine.zero_stage == 3 and (stage.early_stop or stage.min_gain is not None):
        raise RecipeError(f"{at}: early_stop and min_gain keep whole weights", got="engine.zero_stage 3",
                          expected="zero_stage 0 to 2")  # fmt: skip
    if engine.activation_checkpointing and stage.layers is not None:
        expected = "engine.activation_checkpointing false, or layers null"
        raise RecipeError(f"{at}.layers: checkpointed layers are computed twice", got="both", expected=expected)
