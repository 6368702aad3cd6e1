"""Layer maps in the multimodal model: the teacher's layers at every answer token, met by those of the student."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cluster import schema
from cluster.recipe import Recipe
from jobs import tasks
from jobs.data.answers import Answerer, labels_of
from jobs.tasks.visual_qa.rows import TOKENS
from jobs.training import table
from jobs.training.distiller import View, look
from jobs.training.loop import Job
from jobs.training.runner import run_local


def test_cached_layers_of_the_multimodal_teacher_are_its_own_and_train_the_student(
    tiny_digits: Callable[..., Recipe], tmp_path: Path
) -> None:
    shape = "head_dim: 16, expert_size: 16, vision_layers: 1, vision_size: 16, vision_heads: 2"
    two = f"{{layers: 2, hidden_size: 32, heads: 2, kv_heads: 2, {shape}}}"
    recipe = tiny_digits(
        f"teacher.params={two}", "generate.hidden_layer=null", "generate.hidden_layers=[1, 2]",
        "distill.stages.1.layers={map: last_k}", "distill.stages.1.curriculum=[]", "distill.stages.1.epochs=3",
    )  # fmt: skip
    task: Any = tasks.of(recipe)
    for folder, section in (("teacher", recipe.teacher), ("initial", recipe.student)):
        (tmp_path / folder).mkdir()
        network = task.build(section, 0)
        network.lm_head.weight.data[: len(TOKENS)] = 0  # unfitted, it says "picture" else
        task.save(network, tmp_path / folder)
    answers = Answerer(str(tmp_path / "teacher"), recipe.generate, str(tmp_path / "tally"))(task.requests("train"))
    # An unfitted teacher also says "picture", of which there are none in an answer.
    media = {TOKENS[name] for name in ("image", "audio", "video")}
    words = [not set(tokens) & media for tokens in answers["tokens"].to_pylist()]
    answers = answers.filter(pa.array(words))
    samples = schema.conform(answers.append_column("teacher", pa.array(["t"] * len(answers))), "samples")
    columns = task.pack(samples, labels_of(answers), true_labels=False)
    batch = task.batch(columns, np.arange(8))
    with torch.no_grad():
        shown = look(task, task.load(str(tmp_path / "teacher")).eval(), batch, View((1, 2)))["layers"]
    for place, one in enumerate(shown):
        scale = one["features"].abs().amax(-1, keepdim=True) / 127
        assert ((batch["teacher_hidden"][:, place] - one["features"]).abs() <= 0.51 * scale + 1e-4).all()
    table.write(tmp_path / "rows.arrow", columns)
    table.write(tmp_path / "validation.arrow", task.validation_columns())
    job = Job(
        recipe=recipe, arm="distill", initial=str(tmp_path / "initial"), table=str(tmp_path / "rows.arrow"),
        validation=str(tmp_path / "validation.arrow"), stages=recipe.distill.active[1:2], batch_size=16,
        engine=recipe.distill.engine, teacher_hidden=32,
    )  # fmt: skip
    (stage,) = run_local(job, tmp_path / "run").progress["stages"]
    assert stage["layers"] == [[1, 2]] and set(stage["shares"]) == {"conditional_kl", "hidden_mse"}
