"""The shipped recipes over media: what they say can work, and their sizes are what the bars ask for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.recipe import Recipe, load
from jobs import tasks
from jobs.training import table
from jobs.training.loop import Job
from jobs.training.runner import run_local
from jobs.training.sampler import plan_of
from jobs.training.stages import check as stage_check
from serving.bundle import clips, pictures, sounds
from serving.models import omni

DATA = Path(os.environ.get("RAYDISTILL_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "multimodal"
SPECIAL = {"image": 5, "audio": 7, "video": 8, "vision_start": 3, "audio_start": 6, "pad": 0, "eos": 1}
FILES = {"av_mnist": "av_mnist", "easy_vqa": "easy_vqa_questions"}
MEDIA = {
    "av_mnist": pictures.Media(pictures.Picture(28, 7, 4), 1, sounds.Sound(8000, 48)),
    "easy_vqa": pictures.Media(pictures.Picture(64, 8, 4), 1),
    "video": pictures.Media(pictures.Picture(16, 4, 2), 0, None, clips.Clip(6, 1)),
    "all_media": pictures.Media(pictures.Picture(28, 7, 4), 1, sounds.Sound(8000, 48), clips.Clip(6, 1)),
}
SMALL_ONCE_MERGED = ("video",)  # 33.5 % of its teacher as it starts, 32.2 % with the heads it is served with


def recipe_of(name: str, *more: str) -> Recipe:
    stem = DATA / FILES[name] if name in FILES else "yours"
    data = [] if name == "video" else [f"data.{split}={stem}_{split}.parquet" for split in ("train", "test")]
    return load(name, [*data, *more])


@pytest.mark.parametrize("name", MEDIA)
def test_the_student_is_at_most_a_third_of_its_teacher_and_ends_with_half_the_key_value_heads(name: str) -> None:
    recipe = recipe_of(name)
    stages = recipe.distill.stages
    assert len(stages) == 3
    assert stages[-1].kv_heads is not None
    params: list[Any] = [recipe.teacher.params, recipe.student.params]
    if name in SMALL_ONCE_MERGED:
        params[1] = params[1] | {"kv_heads": stages[-1].kv_heads}
    built: list[Any] = [omni.build(one, SPECIAL, 90, MEDIA[name], 0) for one in params]
    teacher, student = (sum(one.numel() for one in network.parameters()) for network in built)
    assert student <= teacher / 3
    assert 2 * stages[-1].kv_heads == omni.OmniParams.model_validate(recipe.student.params).kv_heads


def test_the_video_recipe_works_without_any_data() -> None:
    task = tasks.of(recipe_of("video", "data.params.clips={train: 40, validation: 20, test: 20}"))
    task.check()
    assert len(task.requests("test")) == 20


SMALL = (
    "{layers: 1, hidden_size: 32, heads: 2, kv_heads: 2, head_dim: 16, expert_size: 16, vision_layers: 1, "
    "vision_size: 16, vision_heads: 2, audio_layers: 1, audio_size: 16, audio_heads: 2, audio_channels: 4}"
)


@pytest.fixture
def all_media(tables: Path) -> Recipe:
    """The recipe of all media with small networks, over the small tables."""
    return load("all_media", [
        *(f"data.{split}={tables}/{split}.parquet" for split in ("train", "test")),
        "data.params={patch: 4, merge: 2, sound_frames: 16, hop: 64, mels: 16}", "data.validation_share=0.2",
        f"teacher.params={SMALL}", f"student.params={SMALL}", "fit.samples=400", "fit.batch_size=8",
        "distill.stages.2.kv_heads=1",
    ])  # fmt: skip


def test_all_media_come_in_one_after_the_other(all_media: Recipe) -> None:
    task: Any = tasks.of(all_media)
    task.check()
    stage_check.check(all_media, "distill", all_media.distill)
    columns, (stage,) = task.fit_columns(), all_media.fit.stages
    plan = plan_of(stage, columns, task.slices, all_media.fit.batch_size, 0)
    names = np.array(task.slices)[columns["slice"]][plan]
    steps = len(plan)
    begins = {name: np.flatnonzero((names == name).any(1))[0] / steps for name in ("image", "image+audio", "video")}
    assert begins["image"] == 0 and 0.15 < begins["image+audio"] < 0.3 and 0.45 < begins["video"] < 0.6
    assert set(names[-1]) <= {"image", "image+audio", "video"} and (names[steps // 2 :] == "video").mean() > 0.3
    seen = [{name for phase in own.curriculum for name in phase.slices} for own in all_media.distill.stages]
    assert seen == [{"image"}, {"image", "image+audio"}, {"image", "image+audio", "video"}]


@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
def test_one_network_learns_from_all_media(all_media: Recipe, tmp_path: Path) -> None:
    task: Any = tasks.of(all_media)
    task.save(task.build(all_media.teacher, 0), folder := tmp_path / "initial")
    table.write(tmp_path / "rows.arrow", task.fit_columns())
    table.write(tmp_path / "validation.arrow", task.validation_columns())
    job = Job(all_media, "fit", str(folder), str(tmp_path / "rows.arrow"), str(tmp_path / "validation.arrow"),
              all_media.fit.stages, 8, all_media.fit.engine)  # fmt: skip
    progress = run_local(job, tmp_path / "run").progress
    losses = [point["loss"] for point in progress["curve"]]
    assert progress["status"] == "done" and losses[-1] < losses[0]
    assert {"image", "image+audio", "video"} <= set(progress["stages"][0]["after"])


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
