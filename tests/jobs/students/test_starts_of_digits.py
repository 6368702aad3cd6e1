"""A multimodal student cut from its teacher: fewer decoder layers, the towers for pictures whole, trained on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import MismatchError, RecipeError
from cluster.recipe import Recipe
from jobs import tasks
from jobs.training import students, table
from jobs.training.loop import Job
from jobs.training.runner import run_local
from jobs.training.students import teacher_layers
from jobs.training.students.shape import of_config, of_section
from jobs.training.students.source import Source
from serving.models import omni

SIZES = (
    "{layers: 3, hidden_size: 32, heads: 2, kv_heads: 2, head_dim: 16, expert_size: 16, experts: 2, vision_size: 16, "
    "vision_heads: 2}"
)
Digits = Callable[..., Recipe]


@pytest.fixture
def recipe_of(tiny_digits: Digits) -> Callable[[str], Recipe]:
    """The tiny digits recipe with a teacher of three layers, its student starting as `init` says."""
    return lambda init: tiny_digits(f"teacher.params={SIZES}", "student.params={}", f"student.init={init}")


def test_kept_layers_and_towers_are_the_teachers_and_all_layers_are_the_teacher(
    recipe_of: Callable[[str], Recipe],
) -> None:
    recipe = recipe_of("{from: teacher_layers, params: {count: 2, choose: cka, rows: 16}}")
    students.check(recipe)
    task = tasks.of(recipe)
    source = Source(task, task.build(recipe.teacher, 0), 0)
    assert of_section(recipe.teacher) == of_config(source.config)
    batch = next(source.batches(8))
    with torch.no_grad():
        want_QV, _ = task.scored(source.network.eval(), batch)
        got_QV, _ = task.scored(teacher_layers.keep(source, [1, 2, 3]).eval(), batch)
    assert torch.equal(want_QV, got_QV)
    cut = Source(task, teacher_layers.make(source, teacher_layers.Params.parse(recipe.student.init.params)), 0)  # type: ignore[union-attr]
    assert len(cut.blocks) == cut.config.text_config.num_hidden_layers == 2 and len(source.blocks) == 3
    own, theirs = (dict(one.network.named_parameters()) for one in (cut, source))
    towers = [name for name in own if ".visual." in name]
    assert towers and all(torch.equal(own[name], theirs[name]) for name in towers)


def test_such_a_student_is_saved_merged_and_trained(recipe_of: Callable[[str], Recipe], tmp_path: Path) -> None:
    recipe = recipe_of("{from: teacher_layers, params: {layers: [1, 3]}}")
    task: Any = tasks.of(recipe)
    task.check()
    for folder in ("teacher", "initial"):
        (tmp_path / folder).mkdir()
    task.save(task.build(recipe.teacher, 0), tmp_path / "teacher")
    student = students.begin(recipe, task, tmp_path / "teacher")
    task.save(student, tmp_path / "initial")
    again: Any = omni.load(tmp_path / "initial")
    for name, value in student.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    table.write(tmp_path / "rows.arrow", task.fit_columns())
    cross_entropy = recipe.fit.stages[0].losses
    changes = {"losses": cross_entropy, "epochs": 0.5, "kv_heads": 1, "curriculum": []}
    job = Job(recipe, "distill", str(tmp_path / "initial"), str(tmp_path / "rows.arrow"), str(tmp_path / "rows.arrow"),
              (recipe.distill.stages[0].model_copy(update=changes),), 16, recipe.distill.engine)  # fmt: skip
    trained = run_local(job, tmp_path / "run")
    shape = of_config(task.load(str(trained.weights)).config)
    assert (shape.layers, shape.kv_heads, shape.heads) == (2, 1, 2)


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("{from: teacher_layers, params: {count: 4}}", "more layers than the teacher has"),
        ("{from: pruned, params: {hidden_size: 16}}", "parts of this family are not known"),
        ("{from: upcycled}", "no sparse form of this family"),
    ],
)
def test_what_a_multimodal_teacher_cannot_give_is_refused(
    recipe_of: Callable[[str], Recipe], init: str, said: str
) -> None:
    with pytest.raises((RecipeError, MismatchError), match=said):
        students.check(recipe_of(init))
