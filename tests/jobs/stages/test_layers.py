"""Several layers of student and teacher: cached as int8, met by a map, compared by every loss that looks inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from jobs import tasks
from jobs.training import table
from jobs.training.distiller import View, look
from jobs.training.loop import Job
from jobs.training.runner import Trained, run_local
from serving import teachers
from serving.models.layers import attention, captured

MakeRecipe = Callable[..., Recipe]
Distilling = Callable[..., Job]
THREE = {"hidden_layers": [1, 2, 3]}
MSE = [{"name": "hidden_mse", "weight": 0.5}, {"name": "forward_kl", "weight": 0.5}]


def falls(trained: Trained) -> bool:
    points = [point["loss"] for point in trained.progress["curve"]]
    return points[-1] < points[0]


def test_the_cached_layers_are_the_teachers_own_up_to_half_an_int8_step(
    make_recipe: MakeRecipe, distilling: Distilling
) -> None:
    recipe = make_recipe(generate=THREE)
    job, task = distilling(recipe), tasks.of(recipe)
    columns = table.read(Path(job.table))
    assert columns["teacher_hidden"].shape[1:] == (1, 3, 32)
    batch = task.batch(columns, np.arange(8))
    teacher = task.load(str(job.teacher)).eval()
    with torch.no_grad():
        shown = look(task, teacher, batch, View((1, 2, 3)))["layers"]
    for place, one in enumerate(shown):
        step = columns["hidden_scale"][:8, 0, place][:, None]
        apart = (batch["teacher_hidden"][:, place] - one["features"]).abs().numpy()
        assert (apart <= 0.51 * step + 1e-5).all()
    assert torch.allclose(shown[-1]["features"], look(task, teacher, batch, View())["hidden"], atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({"map": "last_k"}, [[1, 2], [2, 3]]),
        ({"map": "explicit", "pairs": [[2, 3]]}, [[2, 3]]),
        ({"map": "cka", "rows": 64}, None),
    ],
)
def test_a_stage_with_a_layer_map_trains_and_says_which_layers_met(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path, layers: dict[str, Any], expected: Any
) -> None:
    recipe = make_recipe({"losses": MSE, "adapters": True, "layers": layers, "epochs": 4}, generate=THREE)
    trained = run_local(distilling(recipe), tmp_path / "run")
    (stage,) = trained.progress["stages"]
    met = stage["layers"]
    assert met == expected or (expected is None and [own for own, _ in met] == [1, 2] and met[0][1] < met[1][1])
    assert falls(trained)
    assert not [name for name in (trained.weights / "config.json").read_text().split() if "adapter" in name]


@pytest.mark.parametrize(
    ("loss", "layers"),
    [
        ({"name": "relation_transfer", "params": {"relation_heads": 4}}, {"map": "last_k", "student": [2]}),
        ({"name": "attention_transfer"}, {"map": "uniform", "teacher_heads": [0, 2], "student_heads": [1]}),
        ({"name": "hidden_mse"}, {"map": "between", "between": [2, 3]}),
    ],
)
def test_a_live_teacher_shows_attention_and_relations_and_the_student_follows(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path, loss: dict[str, Any], layers: dict[str, Any]
) -> None:
    recipe = make_recipe({"losses": [loss], "layers": layers, "live_teacher": True, "epochs": 4, "adapters": True})
    assert falls(run_local(distilling(recipe), tmp_path / "run"))


def test_a_live_teacher_gives_the_losses_of_its_cached_answers(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    job = distilling(make_recipe({"losses": [{"name": "forward_kl"}], "epochs": 1}))
    live = Job(**{**job.__dict__, "stages": (job.stages[0].model_copy(update={"live_teacher": True}),)})
    curves = [run_local(own, tmp_path / name).progress["curve"] for own, name in ((job, "cached"), (live, "live"))]
    for cached, own in zip(*curves, strict=True):
        assert own["loss"] == pytest.approx(cached["loss"], rel=1e-2)  # float16 logits


def test_captured_attention_is_the_networks_own(make_recipe: MakeRecipe) -> None:
    task = tasks.of(make_recipe())
    network: Any = task.build(task.recipe.teacher, 0).eval()  # type: ignore[attr-defined]
    columns = task.validation_columns()
    batch = task.batch(columns, np.arange(4))
    with torch.no_grad(), captured(task.blocks(network), [-1], projections=True) as seen:  # type: ignore[attr-defined]
        network.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    network.encoder.set_attn_implementation("eager")
    with torch.no_grad():
        given = network.encoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True
        )
    own = attention(seen[0].projections, 4, batch["attention_mask"].bool())
    torch.testing.assert_close(own, given.attentions[-1], rtol=1e-4, atol=1e-5)


def test_a_teacher_is_asked_only_for_layers_that_it_has(make_recipe: MakeRecipe, distilling: Distilling) -> None:
    teacher = teachers.open_folder(distilling(make_recipe()).teacher or "")
    with pytest.raises(RecipeError, match="no such layer"):
        teachers.show_layers(teacher, [1, 7])


def test_hidden_words_are_guessed_better_and_better(
    make_recipe: MakeRecipe, distilling: Distilling, tmp_path: Path
) -> None:
    recipe = make_recipe({"losses": [{"name": "masked_tokens"}], "epochs": 12})
    trained = run_local(distilling(recipe), tmp_path / "run")
    points = [point["loss"] for point in trained.progress["curve"]]
    assert points[-1] < points[0] - 0.2
