"""Answers of a retriever: the entries of a list, the nearest first, each with its share of the probability.

Shape legend: S tokens, E entries, H hidden size.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving import engines
from serving.bundle.answer import Answer, Array, BundleError, by_length, softmax, stacked
from serving.bundle.files import Source, tokenizer_of
from serving.bundle.texts import encode_text

RANKED = 10  # entries that an answer names


class Retriever:
    """Entries by cosine: one forward per row length, then a product with the index."""

    def __init__(self, source: Source, spec: Mapping[str, Any]) -> None:
        self.spec, self.tokenizer = spec, tokenizer_of(source)
        self.graph = engines.open_graph(source, "model", spec)
        self.index_EH = _index(source)

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """The best entry's id, and the first RANKED with their probabilities, of each `{"text": str}`; raises as
        `logits`."""
        return [ranked(softmax(logits_1E[0]), self.spec["labels"]) for logits_1E in self.logits(items)]

    def logits(self, items: Sequence[Mapping[str, Any]]) -> list[Array]:
        """Cosines times the spec's scale, float32 [1, E] of each item. Raises BundleError for an empty text."""
        ids = [encode_text(item, self.tokenizer, self.spec) for item in items]
        vectors = by_length(ids, lambda rows: self.graph({"input_ids": stacked(ids, rows)})[0])
        return [scored(vector_H, self.index_EH, self.spec["scale"]) for vector_H in vectors]


def _index(source: Source) -> Array:
    """Unit vectors of the entries, float32 [E, H]. Raises BundleError when the file holds none."""
    try:
        return np.asarray(np.load(io.BytesIO(source.read("index.npy")), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise BundleError(f"index.npy: not a readable table of vectors ({error})") from error


def scored(vector_H: Array, index_EH: Array, scale: float) -> Array:
    """Logits float32 [1, E]; row by row, as a product of many rows is summed in another order than that of one."""
    unit_H = vector_H / max(float(np.linalg.norm(vector_H)), 1e-6)
    return np.asarray(scale * (index_EH @ unit_H), np.float32)[None]


def ranked(probabilities_E: Array, labels: Sequence[str]) -> Answer:
    """The nearest entry, and the first RANKED in order with their probabilities."""
    order = np.argsort(-probabilities_E, kind="stable")[:RANKED]
    nearest = {labels[entry]: float(probabilities_E[entry]) for entry in order}
    return Answer(labels[order[0]], nearest[labels[order[0]]], nearest)
