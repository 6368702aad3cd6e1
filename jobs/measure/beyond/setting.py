"""What every part of the report beyond the score is told: the answers so far, where things lie, and whom to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.measured import STUDENT, STUDENT_INT8, TEACHER
from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs.measure import metrics, robustness
from jobs.measure.contenders import Contender
from jobs.measure.exam import Exam
from serving.bundle import predict

GENERATED = "text_generation"
SHOWN = (TEACHER, STUDENT, STUDENT_INT8)


class NotMeasured(Exception):
    """There is nothing to measure here; says why."""


@dataclass(frozen=True)
class Setting:
    """What has been asked so far: the exam, every model's answers, where things lie (`others`: bundles beside the one
    that is served), and the report up to here."""

    recipe: Recipe
    store: Store
    rows: Exam
    asked: Mapping[str, Contender]
    artifacts: Mapping[str, Artifact]
    folders: Mapping[str, Path]
    others: Mapping[str, Path]
    requests: Callable[[str], pa.Table]
    report: dict[str, Any]
    out: Path

    @property
    def bundle(self) -> Path:
        """The folder that is served."""
        return self.folders["bundle"]

    @property
    def right(self) -> dict[str, np.ndarray]:
        """Per model whether each answer is right, bool [R]."""
        return {name: metrics.right(self.rows, self.asked[name].texts) for name in SHOWN}

    def answers_only(self) -> None:
        """Raise NotMeasured for a language model: its answers are next tokens, not labels."""
        if self.recipe.task == GENERATED:
            raise NotMeasured("a language model is measured by its next tokens")


def asker(engine: predict.Answerer) -> robustness.Ask:
    """Ask a bundle for texts: in batches where answers do not depend on them, else one by one as a server does."""
    together = engine.spec["batch_invariant"] or engine.spec["scheme"] == "float32"

    def ask(items: Sequence[Mapping[str, Any]]) -> list[str]:
        answers = engine.predict(items) if together else [engine.predict([item])[0] for item in items]
        return [answer.text for answer in answers]

    return ask


def one_by_one(engine: predict.Answerer, rows: Exam) -> list[str]:
    """A bundle's answers to an exam, as a server that never pads gives them."""
    return [engine.predict([item])[0].text for item in rows.items]
