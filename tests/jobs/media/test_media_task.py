"""The visual task over pictures, sounds and video: packed as asked, trained, exported, answered alike everywhere."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster import schema
from cluster.canonical import digest
from cluster.errors import DataError, RecipeError
from cluster.recipe import Recipe
from jobs import export, tasks
from jobs.data.items import COLUMNS, item_of
from jobs.packing import checking, writing
from jobs.tasks.visual_qa.rows import TOKENS, vocabulary
from jobs.tasks.visual_qa.task import VisualQA
from jobs.training import table
from jobs.training.loop import Job
from jobs.training.runner import run_local
from serving.bundle import predict
from serving.teachers import transformers as teachers

Make = Callable[..., Recipe]


def task_of(recipe: Recipe) -> VisualQA:
    task = tasks.of(recipe)
    assert isinstance(task, VisualQA)
    return task


def test_slices_are_the_media_of_a_row_unless_a_column_names_them(make_recipe: Make) -> None:
    task = task_of(make_recipe())
    task.check()
    assert task.slices == ["audio", "image", "image+audio", "video"]
    columns = task.validation_columns()
    counts = {"audio": 1, "image": 1, "image+audio": 2, "video": 1}
    assert [counts[task.slices[number]] for number in columns["slice"]] == columns["modalities"].tolist()
    assert task_of(make_recipe({"columns": {"slice": "answer"}})).slices[-1] == "yes"


def test_a_request_packed_again_is_what_fit_trains_on(make_recipe: Make) -> None:
    task = task_of(make_recipe())
    direct = task.validation_columns()
    requests = task.requests("validation")
    schema.check(requests, "requests")
    packed = task.pack(requests, None, true_labels=True)
    for name, values in packed.items():
        np.testing.assert_array_equal(values, direct[name], err_msg=name)


def test_batches_and_prompts_show_the_same_media(make_recipe: Make, tmp_path: Path) -> None:
    task = task_of(make_recipe())
    table.write(tmp_path / "rows.arrow", task.fit_columns())
    columns = table.read(tmp_path / "rows.arrow")
    rows = np.arange(12)
    batch = task.batch(columns, rows)
    images, pairs, heard = (int(columns[name][rows].sum()) for name in ("images", "group_count", "sounds"))
    assert min(images, pairs, heard) > 0
    assert len(batch["pixels"]) == images + pairs
    assert len(batch["mels"]) == heard
    media = task.source.media
    assert int(batch["visual_index"].max()) == (images + pairs) * media.picture.tokens + heard * 2
    assert len(batch["targets"]) == task.positions(columns, rows)


def test_a_worker_that_loaded_a_model_reads_no_rows(make_recipe: Make, tmp_path: Path) -> None:
    here = task_of(make_recipe())
    here.save(here.build(make_recipe().student, 0), tmp_path)
    columns = here.validation_columns()
    there = task_of(make_recipe(data={"train": "gone.parquet", "test": "gone.parquet"}))
    network = there.load(str(tmp_path))
    assert there.slices == here.slices
    assert there.spec == here.spec
    assert there.evaluate(network, columns).keys() == here.evaluate(network, columns).keys()
    for name, values in here.batch(columns, np.arange(6)).items():
        assert bool((there.batch(columns, np.arange(6))[name] == values).all()), name


def test_requests_are_the_same_every_time_and_views_differ_from_their_rows(make_recipe: Make) -> None:
    moved = {"shift": 0.2, "turn": 10.0, "delay": 0.3, "snr_db": 20.0, "keep": 0.0}
    recipe = make_recipe(generate={"samples": 120, "views": moved})
    first, again = task_of(recipe).requests("train"), task_of(recipe).requests("train")
    assert first.equals(again)
    plain = task_of(make_recipe(generate={"samples": 120})).requests("train")
    assert len(first) == len(plain) == 120
    for name in ("images", "audio"):
        pairs = zip(first[name].to_pylist(), plain[name].to_pylist(), strict=True)
        changed = [one != other for one, other in pairs if other is not None]
        assert changed
        assert np.mean(changed) > 0.9
    assert first["frames"].equals(plain["frames"])
    assert len(set(first["sample_id"].to_pylist())) == 120


def test_edge_noise_is_taken_for_the_media_that_are_there(make_recipe: Make) -> None:
    noise = [{"name": name} for name in ("audio_noise", "time_shift", "gaussian_noise")]
    task = task_of(make_recipe(generate={"augment": noise}))
    task.check()
    rows = task.requests("train").to_pylist()
    parents = {row["sample_id"]: row for row in rows if row["parent"] is None}
    made = [row for row in rows if row["parent"] is not None]
    assert {row["template"] for row in made} == {"audio_noise", "time_shift", "gaussian_noise"}
    for row in made:
        changed = "images" if row["template"] == "gaussian_noise" else "audio"
        assert row[changed] != parents[row["parent"]][changed]


def test_what_cannot_work_is_refused_before_anything_starts(make_recipe: Make) -> None:
    stage = {"name": "one", "epochs": 1.0, "learning_rate": 0.01, "losses": [{"name": "cross_entropy"}]}
    unknown = stage | {"curriculum": [{"share": 1.0, "slices": {"picture": 1.0}}]}
    with pytest.raises(RecipeError, match=r"(?s)fit\.stages: unknown slice.*picture.*image\+audio"):
        tasks.of(make_recipe(fit={"stages": [unknown]})).check()
    with pytest.raises(DataError, match="do not fit the patches"):
        tasks.of(make_recipe({"patch": 3})).check()
    with pytest.raises(RecipeError, match="sound_frames"):
        tasks.of(make_recipe({"sound_frames": 150})).check()
    with pytest.raises(RecipeError, match=r"fit\.views"):
        tasks.of(make_recipe(fit={"stages": [stage], "views": {"shfit": 0.1}})).check()


def test_the_identity_follows_every_file(make_recipe: Make) -> None:
    identity = tasks.of(make_recipe()).data_identity()
    assert set(identity) == {"train", "test"}
    assert digest(identity["train"]) != digest(identity["test"])


def test_the_vocabulary_knows_words_marks_and_answers_and_nothing_else() -> None:
    words = vocabulary(["What is this?", "What, now?"], ["New York", "it's", "7"])
    assert words.encode("what is this ?").tokens == ["what", "is", "this", "?"]
    assert words.encode("this?").tokens == ["this", "?"]
    assert words.encode("where is this").tokens == ["<unk>", "is", "this"]
    assert [words.decode(words.encode(text).ids) for text in ("New York", "it's", "7")] == ["New York", "it's", "7"]
    assert [words.token_to_id(f"<{name}>") for name in TOKENS] == list(TOKENS.values())


def test_a_teacher_trains_on_all_media_and_its_bundle_answers_as_it_does(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe()
    task = task_of(recipe)
    initial = tmp_path / "initial"
    initial.mkdir()
    task.save(task.build(recipe.teacher, 0), initial)
    for name, columns in (("rows", task.fit_columns()), ("validation", task.validation_columns())):
        table.write(tmp_path / f"{name}.arrow", columns)
    job = Job(
        recipe=recipe, arm="fit", initial=str(initial), table=str(tmp_path / "rows.arrow"),
        validation=str(tmp_path / "validation.arrow"), stages=tuple(recipe.fit.stages),
        batch_size=recipe.fit.batch_size, engine=recipe.fit.engine,
    )  # fmt: skip
    trained = run_local(job, tmp_path / "run")
    assert {"exact_match", "audio", "image", "image+audio", "video"} >= set(trained.progress["stages"][0]["after"])
    folder = tmp_path / "bundle"
    spec = export.plain(trained.weights, folder, recipe)
    assert sorted(path.name for path in folder.glob("*.onnx")) == ["audio.onnx", "decoder.onnx", "vision.onnx"]
    for name, file in writing.code().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(file.read_bytes())
    writing.describe(folder, spec, recipe)
    items = [item_of(row) for row in task.requests("test").select([*COLUMNS]).to_pylist()]
    assert checking.difference(trained.weights, folder, items) < 1e-4
    here = predict.load(folder).predict(items)
    there = teachers.load(trained.weights).answer(items)
    assert [one.text for one in here] == [one.text for one in there]
    asked, files = items[2], {"image.png": items[2]["images"][0], "sound.wav": items[2]["audio"]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, folder / "predict.py", "--text", asked["text"], "--image", "image.png"]
    ran = subprocess.run(
        [*command, "--audio", "sound.wav"], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout)["text"] == here[2].text
