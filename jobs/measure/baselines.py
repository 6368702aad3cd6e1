"""What a cheap method reaches on the same rows: the floor that a teacher and a student have to be worth more than."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.bundle import predict
from serving.bundle.answer import named
from serving.bundle.image_classes import Frame, read
from serving.bundle.retrieval import ranked


class Baseline(Protocol):
    """Answers items like a bundle does; `params` and `bytes` (float32) say how much it learned."""

    about: str
    params: int
    bytes: int

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order."""


class MajorityAnswer:
    """The commonest training answer to the same question, pictures unseen; to a question never met, the commonest over
    as many pictures. Its confidence is that answer's share."""

    about = "commonest training answer to the question, pictures unseen"

    def __init__(self, samples: pa.Table) -> None:
        seen: defaultdict[str | int, Counter[str]] = defaultdict(Counter)
        for row in samples.select(["prompt", "images", "label_name"]).to_pylist():
            for key in (row["prompt"], len(row["images"] or ())):
                seen[key][row["label_name"]] += 1
        self.known = {key: (*counts.most_common(1)[0], counts.total()) for key, counts in seen.items()}
        self.params = len(self.known)
        self.bytes = sum(len(str(key)) + len(answer) for key, (answer, _, _) in self.known.items())

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order."""
        found = [self.known.get(item["text"]) or self.known[len(item["images"])] for item in items]
        return [predict.Answer(answer, count / total) for answer, count, total in found]


class LinearSvm:
    """TF-IDF of words, word pairs and pieces of words under a linear support vector machine.

    It has no probabilities: confidence NaN. The pieces make it an honest rival: .904 instead of .883 on validation rows
    of banking77.
    """

    about = "TF-IDF and a linear SVM"

    def __init__(self, samples: pa.Table) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline, make_union
        from sklearn.svm import LinearSVC

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        self.model = make_pipeline(make_union(words, pieces), LinearSVC())
        self.model.fit(samples["prompt"].to_pylist(), samples["label_name"].to_pylist())
        svm = self.model[1]
        self.params = int(svm.coef_.size + svm.coef_.shape[1])  # with one inverse document frequency per feature
        self.bytes = 4 * self.params

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order."""
        return [
            predict.Answer(str(name), float("nan")) for name in self.model.predict([item["text"] for item in items])
        ]


class LinearPixels:
    """Logistic regression on grey pixels, at most 16 a side, learned on at most 10,000 samples."""

    about = "logistic regression on pixels"
    frame = Frame(16, 1)
    rows_max = 10_000

    def __init__(self, samples: pa.Table) -> None:
        from sklearn.linear_model import LogisticRegression

        chosen = np.random.default_rng(0).permutation(len(samples))[: self.rows_max]
        few = samples.take(np.sort(chosen))
        self.model = LogisticRegression(max_iter=100, tol=1e-3)
        self.model.fit(self._pixels(few["images"].to_pylist()), few["label_name"].to_pylist())
        self.params = int(self.model.coef_.size + self.model.intercept_.size)
        self.bytes = 4 * self.params

    def _pixels(self, images: Sequence[Sequence[bytes]]) -> np.ndarray:
        seen = np.stack([read(own[0], self.frame) for own in images])
        return seen.reshape(len(seen), -1).astype(np.float32) / 255

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order."""
        given = self.model.predict_proba(self._pixels([item["images"] for item in items]))
        return [named(one, [str(name) for name in self.model.classes_]) for one in given]


class NearestWords:
    """Entries by the cosine of TF-IDF vectors of words and pieces of words, learned on the entries alone."""

    about = "TF-IDF and the cosine"

    def __init__(self, spec: Mapping[str, Any]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_union

        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        self.vectors = make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True))
        self.index, self.labels = self.vectors.fit_transform(spec["entries"]), spec["labels"]
        self.params = int(self.index.nnz + self.index.shape[1])
        self.bytes = 4 * self.params

    def predict(self, items: Sequence[Mapping[str, Any]]) -> list[predict.Answer]:
        """Answers in order."""
        cosines = self.vectors.transform([item["text"] for item in items]) @ self.index.T
        return [ranked(own, self.labels) for own in cosines.toarray().astype(np.float32) / 2]  # two unit vectors joined


BASELINES: Mapping[str, Callable[[pa.Table], Baseline]] = {
    "visual_qa": MajorityAnswer,
    "text_classification": LinearSvm,
    "image_classification": LinearPixels,
}


def fit(task: str, samples: pa.Table, spec: Mapping[str, Any] | None = None) -> Baseline:
    """The task's baseline, learned on the samples with a true label, the rows that the control arm learns from; of a
    retriever on the entries that its `bundle.json` (`spec`) lists."""
    if spec is not None and "entries" in spec:
        return NearestWords(spec)
    return BASELINES[task](samples.filter(pc.is_valid(samples["label_name"])))
