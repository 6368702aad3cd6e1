"""Curation keeps a row or says why not, and refuses a set whose rows are all alike."""

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import RecipeError, StepFailed
from cluster.recipe import Term
from jobs.curate import judge
from jobs.data import filters
from jobs.data.filters import Rows


def rows(embeddings: np.ndarray | None = None) -> Rows:
    samples = pa.table(
        {
            "sample_id": ["a", "b", "c", "d", "e"],
            "prompt": ["is it odd ?", "Is it  odd ?", "is it odd ?", "is it even ?", "is it even ?"],
            "images": pa.array([[b"1"], [b"1"], [b"2"], [b"1"], [b"1", b"1"]], pa.list_(pa.binary())),
            "confidence": pa.array([0.99, 0.99, 0.5, 0.9, 0.85], pa.float32()),
            "label_name": ["yes", "yes", "yes", "no", None],
            "response": ["yes", "yes", "yes", "yes", "no"],
        }
    )
    return Rows(samples, np.eye(5, dtype=np.float32) if embeddings is None else embeddings)


def terms(*names: str) -> list[Term]:
    return [Term(name=name) for name in names]


def test_every_row_is_kept_or_has_the_reason_of_the_first_filter_that_refused_it() -> None:
    reasons, _ = judge(rows(), terms("duplicate", "confidence", "agreement"))
    assert reasons == [None, "duplicate", "low_confidence", "wrong_answer", "low_confidence"]


def test_a_row_without_a_true_label_cannot_disagree() -> None:
    reasons, _ = judge(rows(), terms("agreement"))
    assert reasons == [None, None, None, "wrong_answer", None]


def test_the_confidence_cut_can_be_a_percentile() -> None:
    cut = Term(name="confidence", params={"minimum": 0.4, "mode": "percentile"})
    reasons, _ = judge(rows(), [cut])
    assert [reason is None for reason in reasons] == [True, True, False, True, False]


def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(5, 8))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    cosines = unit @ unit.T
    expected = 1 - (cosines.sum() - 5) / 20
    _, gates = judge(rows(unit), terms("diversity"))
    assert gates["diversity"] == pytest.approx(expected, abs=1e-5)


def test_a_set_whose_rows_are_alike_is_refused_with_its_diversity() -> None:
    alike = np.tile(np.array([[1.0, 0.0]], np.float32), (5, 1))
    with pytest.raises(StepFailed, match=r"diversity of the kept set is 0\.000, expected above 0\.7"):
        judge(rows(alike), terms("diversity"))


def test_unknown_filters_and_parameters_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="unknown filter"):
        filters.check(terms("duplicates"))
    with pytest.raises(RecipeError, match=r"curate.filters.0.params.min"):
        filters.check([Term(name="confidence", params={"min": 0.5})])
