"""On-policy distillation: in a share of the steps the student writes, and learns from what the teacher makes of it.

Generalised knowledge distillation (arXiv 2306.13649, algorithm 1): with probability lambda a step's rows are replaced
by continuations that the student samples then, and the teacher scores their tokens then; the losses stay the same. Text
and scores follow from (seed, stage, step, row) and the student's weights, so a resumed run sees the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from cluster.errors import RecipeError
from cluster.recipe import Recipe, Stage
from cluster.recipe.stage_parts import OnPolicy
from cluster.recipe.training import TrainingSection
from jobs.training.table import Columns
from serving.teachers import KINDS

# A student's own tokens are no truth: these would teach it that whatever it wrote was right.
READ_TARGETS = ("cross_entropy", "decoupled_kd")


@dataclass(frozen=True)
class Draw:
    """One on-policy step: how texts are written, and the seed of its rows' random streams; `rows` are their numbers in
    the whole table where columns hold those of the step alone."""

    section: OnPolicy
    seed: tuple[int, ...]
    rows: tuple[int, ...] | None = None

    def numbers(self, places: np.ndarray) -> list[int]:
        """What the random streams of the rows at these places follow from."""
        return places.tolist() if self.rows is None else list(self.rows)


@runtime_checkable
class Generative(Protocol):
    """A task whose students write texts that a teacher can score."""

    def on_policy(
        self, student: nn.Module, teacher: nn.Module, columns: Columns, rows: np.ndarray, draw: Draw
    ) -> Mapping[str, Tensor]:
        """A batch like `Task.batch` of what the student writes after the beginnings of these rows, with the teacher's
        logits and last state as they are computed now."""


def drawn(stage: Stage, seed: int, index: int, step: int) -> Draw | None:
    """Whether this step is on-policy: a pure function of the run's seed, the stage's number and the step."""
    if stage.on_policy is None or np.random.default_rng([seed, index, step]).random() >= stage.on_policy.share:
        return None
    return Draw(stage.on_policy, (seed, index, step))


def check(recipe: Recipe, section: TrainingSection, stage: Stage, task: Any, at: str) -> None:
    """Refuse a stage whose on-policy steps cannot work. Raises RecipeError with the dotted path."""
    if stage.on_policy is None:
        return
    if not isinstance(task, Generative):
        raise RecipeError(f"{at}.on_policy: students of this task write no texts", got=recipe.task, expected="null")
    wrong = [term.name for term in stage.losses if term.name in READ_TARGETS]
    if wrong:
        hint = "put it into a stage of its own"
        raise RecipeError(f"{at}.on_policy: a student's own tokens are no true labels", got=wrong, hint=hint)
    if section.engine.zero_stage == 3:
        raise RecipeError(f"{at}.on_policy: a student needs whole weights to write", got="engine.zero_stage 3",
                          expected="zero_stage 0 to 2")  # fmt: skip
    if section.engine.micro_batch is not None:
        raise RecipeError(f"{at}.on_policy: texts are written once per step", got="engine.micro_batch", expected="null")
    if recipe.teacher.architecture in KINDS and recipe.teacher.architecture != "causal_lm":
        got, expected = recipe.teacher.architecture, "decoder or causal_lm, whose logits are at hand"
        raise RecipeError(f"{at}.on_policy: this teacher cannot score texts", got=got, expected=expected)
