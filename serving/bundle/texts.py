"""Answers of a text classifier: a label with its probability.

Shape legend: S tokens, V classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving import engines
from serving.bundle.answer import Answer, Array, by_length, named, softmax, stacked, text_of
from serving.bundle.files import Source, tokenizer_of


class Classifier:
    """Text classes: one forward per row length, softmax over the labels of the bundle."""

    def __init__(self, source: Source, spec: Mapping[str, Any]) -> None:
        self.spec, self.tokenizer = spec, tokenizer_of(source)
        self.graph = engines.open_graph(source, "model", spec)

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Answers in the order of `items`, each `{"text": str}`; raises as `logits`."""
        return [named(softmax(logits_1V[0]), self.spec["labels"]) for logits_1V in self.logits(items)]

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Logits float32 [1, V] of each item. Raises BundleError for an empty text."""
        ids = [encode_text(item, self.tokenizer, self.spec) for item in items]
        return by_length(ids, lambda rows: self.graph({"input_ids": stacked(ids, rows)})[0][:, None])


def encode_text(item: Mapping[str, Any], tokenizer: Any, spec: Mapping[str, Any]) -> Array:
    """Token ids int64 [S] of a text, cut at `max_tokens`. Raises BundleError for an empty text."""
    return np.asarray(tokenizer.encode(text_of(item)).ids[: spec["max_tokens"]], np.int64)
