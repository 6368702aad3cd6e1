"""The cheap language model that any other must be worth more than: pairs of tokens, counted on the training rows.

p(w | v) = max(c(v, w) - d, 0) / c(v) + d * n(v) / c(v) * p(w), with n(v) the different tokens seen after v and p(w) the
share of w, every token counted once more (absolute discounting, Ney, Essen and Kneser 1994, equation 12).

Shape legend: A tokens of a row, V vocabulary, N pairs seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jobs.data.vocabulary import Vocabulary
from jobs.training.table import Columns
from serving.bundle.answer import Answer, text_of

DISCOUNT = 0.75  # d; the usual estimate n1 / (n1 + 2 n2) lies between .6 and .9 on small sets
WRITTEN = 8  # tokens of an answer, which is only there to be timed


class Bigrams:
    """Answers and scores like a bundle does; `params` are the pairs and tokens counted, `bytes` 4 for each."""

    about = "pairs of tokens with absolute discounting, counted on the training rows"

    def __init__(self, before_N: np.ndarray, after_N: np.ndarray, vocabulary: Vocabulary) -> None:
        self.tokenizer, self.bos, size = vocabulary.tokenizer, vocabulary.bos, vocabulary.size
        pairs, count = np.unique(before_N.astype(np.int64) * size + after_N, return_counts=True)
        self.after, self.count = pairs % size, count
        self.first_V = np.searchsorted(pairs // size, np.arange(size + 1))
        self.share_V = (1 + np.bincount(after_N, minlength=size)) / (len(after_N) + size)
        self.params = len(pairs) + size
        self.bytes = 4 * self.params

    @classmethod
    def of(cls, columns: Columns, vocabulary: Vocabulary) -> Bigrams:
        """Counted on the answers of a packed table."""
        before, after = [], []
        for ids, context, answer in zip(columns["ids"], columns["context"], columns["answer"], strict=True):
            before.append(ids[context - 1 : context + answer - 1])
            after.append(ids[context : context + answer])
        return cls(np.concatenate(before), np.concatenate(after), vocabulary)

    def scored(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """Log-probabilities float32 [A, V] for the tokens of each (context ids, answer ids)."""
        seen = [np.append(context[-1], answer[:-1]) for context, answer in pairs]
        return [np.stack([np.log(self._after(int(token))) for token in ids]).astype(np.float32) for ids in seen]

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[Answer]:
        """Each text continued by the likeliest pairs."""
        return [self._continued(self.tokenizer.encode(text_of(item)).ids) for item in items]

    def _continued(self, ids: Sequence[int]) -> Answer:
        token, written, sure = int(ids[-1]) if ids else self.bos, [], []
        for _ in range(WRITTEN):
            p_V = self._after(token)
            token = int(p_V.argmax())
            written.append(token)
            sure.append(float(p_V[token]))
        return Answer(self.tokenizer.decode(written), float(np.exp(np.mean(np.log(sure)))))

    def _after(self, token: int) -> np.ndarray:
        """p(. | token) float64 [V], sums to 1, nowhere 0."""
        own = slice(self.first_V[token], self.first_V[token + 1])
        total = self.count[own].sum()
        if not total:
            return np.asarray(self.share_V)
        p_V: np.ndarray = self.share_V * (DISCOUNT * (own.stop - own.start) / total)
        p_V[self.after[own]] += (self.count[own] - DISCOUNT) / total
        return p_V
