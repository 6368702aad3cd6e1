"""The shipped recipes over media: what they say can work, and their sizes are what the bars ask for."""

import os
from pathlib import Path
from typing import Any

import pytest

from cluster.recipe import Recipe, load
from jobs import tasks
from serving.bundle import clips, pictures, sounds
from serving.models import omni

DATA = Path(os.environ.get("RAYDISTILL_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "multimodal"
SPECIAL = {"image": 5, "audio": 7, "video": 8, "vision_start": 3, "audio_start": 6, "pad": 0, "eos": 1}
FILES = {"av_mnist": "av_mnist", "easy_vqa": "easy_vqa_questions"}
MEDIA = {
    "av_mnist": pictures.Media(pictures.Picture(28, 7, 4), 1, sounds.Sound(8000, 48)),
    "easy_vqa": pictures.Media(pictures.Picture(64, 8, 4), 1),
    "video": pictures.Media(pictures.Picture(16, 4, 4), 0, None, clips.Clip(6, 1)),
}


def recipe_of(name: str, *more: str) -> Recipe:
    stem = DATA / FILES[name] if name in FILES else None
    data = [f"data.{split}={stem}_{split}.parquet" for split in ("train", "test")] if stem else []
    return load(name, [*data, *more])


@pytest.mark.parametrize("name", MEDIA)
def test_the_student_is_at_most_a_third_of_its_teacher_and_ends_with_half_the_key_value_heads(name: str) -> None:
    recipe = recipe_of(name)
    built: list[Any] = [omni.build(one.params, SPECIAL, 90, MEDIA[name], 0) for one in (recipe.teacher, recipe.student)]
    teacher, student = (sum(one.numel() for one in network.parameters()) for network in built)
    assert student <= teacher / 3
    stages = recipe.distill.stages
    assert len(stages) == 3
    assert stages[-1].kv_heads is not None
    assert 2 * stages[-1].kv_heads == built[1].config.text_config.num_key_value_heads


def test_the_video_recipe_works_without_any_data() -> None:
    task = tasks.of(recipe_of("video", "data.params.clips={train: 40, validation: 20, test: 20}"))
    task.check()
    assert len(task.requests("test")) == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_recipes_over_the_shared_sets_find_their_media(name: str) -> None:
    if not (DATA / f"{FILES[name]}_train.parquet").is_file():
        pytest.skip(f"needs {DATA}")
    task: Any = tasks.of(recipe_of(name))
    task.check()
    own, expected = task.source.media, MEDIA[name]
    assert (own.picture, own.sound, own.clip) == (expected.picture, expected.sound, expected.clip)
    assert not task.dead_letters()
    validation, train = (task.source.bank.splits[split] for split in ("validation", "train"))
    assert not set(validation.images) & set(train.images)
