"""Learning from one's own texts: which steps, what is written and scored, the same after a kill, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import InputError
from cluster.recipe import Recipe
from jobs import distill
from jobs.tasks.text_generation.task import TextGeneration
from jobs.training import losses, on_policy
from jobs.training.loop import Job, train
from jobs.training.runner import LocalIo, run_local
from jobs.training.stages import check as stages

STAGE = "distill.stages.0"
ASKED = {f"{STAGE}.on_policy": {"share": 0.5, "max_new_tokens": 5}}
Labelled = Callable[[Recipe], Any]


def test_the_share_of_steps_is_on_policy_and_the_same_ones_every_time(language: Callable[..., Recipe]) -> None:
    (stage,) = language(**{f"{STAGE}.on_policy": {"share": 0.3}}).distill.stages
    chosen = [on_policy.drawn(stage, 1, 0, step) is not None for step in range(1000)]
    assert 0.25 < np.mean(chosen) < 0.35
    assert chosen == [on_policy.drawn(stage, 1, 0, step) is not None for step in range(1000)]
    assert on_policy.drawn(language().distill.stages[0], 1, 0, 0) is None


def test_a_batch_holds_what_the_student_wrote_and_what_the_teacher_says_of_it_now(
    language: Callable[..., Recipe], labelled: Labelled, widened: Callable[[Any], Any]
) -> None:
    recipe = language(**{f"{STAGE}.on_policy": {"share": 1.0, "max_new_tokens": 5, "temperature": 1e-3}})
    task, folder, _, _ = labelled(recipe)
    teacher, student = task.load(str(folder)), widened(task.build(recipe.student, 0)).train()
    columns, rows = task.fit_columns(), np.arange(6)
    draw = on_policy.drawn(recipe.distill.stages[0], 0, 0, 3)
    assert draw is not None
    batch = task.on_policy(student, teacher, columns, rows, draw)
    again = task.on_policy(student, teacher, columns, rows, draw)
    assert all(torch.equal(value, again[name]) for name, value in batch.items())
    assert student.training
    logits_QV, _ = task.scored(student, batch)
    assert (logits_QV.argmax(-1) == batch["targets"]).float().mean() > 0.95  # it wrote its likeliest tokens
    with torch.no_grad():
        torch.testing.assert_close(batch["teacher_logits"], task.scored(teacher, batch)[0], atol=1e-5, rtol=1e-4)
    signals = losses.Signals(logits_QV, batch["targets"], batch["teacher_logits"])
    assert losses.LOSSES["forward_kl"].function(signals, losses.LOSSES["forward_kl"].params()).item() > 0


def test_a_run_killed_between_steps_sees_the_same_texts(
    language: Callable[..., Recipe], distilling: Callable[[Recipe], Job], tmp_path: Path
) -> None:
    job = distilling(language(**ASKED))
    whole = run_local(job, tmp_path / "whole")

    class Killed(Exception):
        pass

    class Io(LocalIo):
        reports = 0

        def report(self, metrics: Any, folder: Path) -> None:
            super().report(metrics, folder)
            self.reports += 1
            if self.reports == 1:
                raise Killed

    with pytest.raises(Killed):
        train(Io(tmp_path / "cut"), job)
    resumed = run_local(job, tmp_path / "cut")
    assert resumed.progress["stages"][0]["after"] == whole.progress["stages"][0]["after"]
    for file in ("model.safetensors",):
        assert (resumed.weights / file).read_bytes() == (whole.weights / file).read_bytes()


def test_the_control_arm_has_no_teacher_to_ask(language: Callable[..., Recipe]) -> None:
    (control,) = distill.hard_label_stages(language(**ASKED).distill.active, 1.0)
    assert control.on_policy is None
    assert [term.name for term in control.losses] == ["cross_entropy"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({f"{STAGE}.losses": [{"name": "cross_entropy"}]}, "own tokens are no true labels"),
        ({"distill.engine.micro_batch": 2}, "micro_batch"),
        ({"distill.engine.zero_stage": 3}, "zero_stage"),
        ({"teacher": {"architecture": "openai"}}, "cannot score"),
    ],
)
def test_on_policy_steps_that_cannot_work_are_refused(
    changes: dict[str, Any], says: str, language: Callable[..., Recipe]
) -> None:
    recipe = language(**ASKED, **changes)
    (stage,) = recipe.distill.stages
    with pytest.raises(InputError, match=says):
        on_policy.check(recipe, recipe.distill, stage, TextGeneration(recipe), STAGE)


def test_a_teachers_fit_has_none(language: Callable[..., Recipe]) -> None:
    recipe = language(**{"fit.stages.0.on_policy": {"share": 0.5}})
    with pytest.raises(InputError, match="fit has no teacher"):
        stages.check(recipe, "fit", recipe.fit)
