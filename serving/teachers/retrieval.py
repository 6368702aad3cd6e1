"""A dual encoder in a Hugging Face folder as an answerer: a question's nearest entries of the folder's list.

Shape legend: B rows, S tokens, E entries, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle import answer, retrieval, texts
from serving.teachers.replies import DenseReply

Array = np.ndarray[Any, Any]


class RetrievalTeacher:
    """Ranks entries; they are read once, when the folder is opened."""

    def __init__(self, model: Any, tokenizer: Any, spec: Mapping[str, Any]) -> None:
        from serving.models import dual_encoder

        self.model, self.tokenizer, self.spec = model.eval(), tokenizer, spec
        rows = [texts.encode_text({"text": entry}, tokenizer, spec) for entry in spec["entries"]]
        _, self.index_EH = dual_encoder.vectors(self.model, rows)

    @classmethod
    def open(cls, folder: Path, spec: Mapping[str, Any]) -> RetrievalTeacher:
        """The model of a folder."""
        from serving.models import dual_encoder

        return cls(dual_encoder.load(folder), answer.read_tokenizer(folder), spec)

    @property
    def vocabulary(self) -> Sequence[str]:
        """The entries' ids, in the order of the logits."""
        return [str(label) for label in self.spec["labels"]]

    def prompt(self, item: Mapping[str, Any]) -> Array:
        """Token ids int64 [S] of `{"text": str}`; see `texts.encode_text`."""
        return texts.encode_text(item, self.tokenizer, self.spec)

    def answer(self, items: Sequence[Mapping[str, Any]]) -> list[answer.Answer]:
        """Answers in order, each with its nearest entries. Raises BundleError for an empty text."""
        replies = self.complete([self.prompt(item) for item in items])
        return [retrieval.ranked(answer.softmax(reply.logits[0]), self.spec["labels"]) for reply in replies]

    def complete(
        self, prompts: Sequence[Array], temperature: float = 0.0, seeds: Sequence[int] | None = None
    ) -> list[DenseReply]:
        """Replies in order; nothing is drawn, so `temperature` and `seeds` change no answer."""
        from serving.models import dual_encoder

        pooled_BH, _ = dual_encoder.vectors(self.model, prompts)
        return [self._reply(vector_H) for vector_H in pooled_BH]

    def _reply(self, vector_H: Array) -> DenseReply:
        logits_1E = retrieval.scored(vector_H, self.index_EH, self.spec["scale"])
        best = int(logits_1E[0].argmax())
        confidence = float(answer.softmax(logits_1E[0])[best])
        return DenseReply(self.spec["labels"][best], confidence, np.array([best]), logits_1E, vector_H[None])
