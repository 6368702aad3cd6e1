"""A picture classifier in its folder as an answerer: the fitted teacher, and the float student it is compared with.

Shape legend: B rows, S pixels a side, C channels, V classes, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle.answer import Answer, Array, named, softmax
from serving.bundle.image_classes import Frame, picture_of
from serving.teachers.replies import DenseReply


class PictureTeacher:
    """Classifies one picture per request; a row's logits do not depend on the rows beside it."""

    def __init__(self, model: Any, spec: Mapping[str, Any]) -> None:
        self.model, self.spec, self.frame = model.eval(), spec, Frame(**spec["picture"])

    @classmethod
    def open(cls, folder: Path, spec: Mapping[str, Any]) -> PictureTeacher:
        """The model of a folder."""
        from serving.models import image_nets

        return cls(image_nets.load(folder), spec)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The labels, in the order of the logits."""
        return [str(label) for label in self.spec["labels"]]

    def prompt(self, item: Mapping[str, Any]) -> Array:
        """Pixels uint8 [S, S, C] of `{"images": [bytes]}`; raises as `image_classes.picture_of`."""
        return picture_of(item, self.frame)

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in order, with the probability of every label. Raises BundleError for a request without a picture."""
        replies = self.complete([self.prompt(item) for item in items])
        return [named(softmax(reply.logits[0]), self.spec["labels"]) for reply in replies]

    def complete(self, prompts: Sequence[Array], temperature: float = 0.0, seeds: Sequence[int] | None = None,
                 batch: int = 256) -> list[DenseReply]:  # fmt: skip
        """Replies in order; a classifier draws nothing, so `temperature` and `seeds` change no answer."""
        from serving.models import image_nets

        if not prompts:
            return []
        logits_RV, pooled_RF = image_nets.run(self.model, np.stack(prompts), batch)
        return [self._reply(*pair) for pair in zip(logits_RV, pooled_RF, strict=True)]

    def _reply(self, logits_V: Array, pooled_F: Array) -> DenseReply:
        best = int(logits_V.argmax())
        confidence = float(softmax(logits_V)[best])
        return DenseReply(self.spec["labels"][best], confidence, np.array([best]), logits_V[None], pooled_F[None])
