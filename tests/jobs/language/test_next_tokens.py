"""Scores of language models by the true text, how two are compared, and the cheap model that they must beat."""

from collections.abc import Callable

import numpy as np
import pytest

from cluster.recipe import Recipe
from jobs.measure import next_tokens
from jobs.measure.ngrams import Bigrams
from jobs.tasks.text_generation.task import TextGeneration
from serving.teachers import writing
from serving.teachers.causal import CausalParams


class Fixed:
    """Gives every token the same logits."""

    def __init__(self, logits_V: np.ndarray) -> None:
        self.logits_V = logits_V

    def scored(self, pairs: next_tokens.Pairs) -> list[np.ndarray]:
        return [np.tile(self.logits_V, (len(answer), 1)).astype(np.float32) for _, answer in pairs]


PAIRS = [(np.array([0]), np.array([1, 1, 2])), (np.array([0]), np.array([2]))]


def test_likelihood_is_the_geometric_mean_probability_of_the_true_tokens() -> None:
    told = next_tokens.told(Fixed(np.log([0.2, 0.5, 0.3])), PAIRS)
    assert told.likelihood == pytest.approx((0.5 * 0.5 * 0.3 * 0.3) ** 0.25)
    metrics = told.metrics(told)
    assert metrics["perplexity"] == pytest.approx(1 / told.likelihood)
    assert metrics["token_accuracy"] == 0.5
    assert metrics["agreement"] == 1.0


def test_retention_is_the_teachers_perplexity_over_the_students() -> None:
    teacher = next_tokens.told(Fixed(np.log([0.1, 0.6, 0.3])), PAIRS)
    student = next_tokens.told(Fixed(np.log([0.2, 0.5, 0.3])), PAIRS)
    found = next_tokens.compared(student, teacher, np.divide, 200, 0)
    assert found["value"] == pytest.approx(
        teacher.metrics(teacher)["perplexity"] / student.metrics(teacher)["perplexity"]
    )
    assert found["low"] <= found["value"] <= found["high"]  # type: ignore[operator]
    assert next_tokens.compared(teacher, teacher, np.subtract, 0, 0) == {"value": 0.0, "low": None, "high": None}


def test_a_models_scores_are_those_of_its_evaluation(language: Callable[..., Recipe]) -> None:
    task = TextGeneration(language())
    network, columns = task.build(task.recipe.student, 0), task.validation_columns()
    rows = task.rows("validation")
    texts = [row.text for row in rows]
    pairs = list(zip(task.contexts(texts), task.answers(texts), strict=True))
    tokenizer = writing.tokenizer_of(task.vocabulary.tokenizer, task.vocabulary.ends)
    params = CausalParams(chat_template=False)
    told = next_tokens.told(writing.WritingTeacher(network, tokenizer, params, task.spec), pairs)
    measured = task.evaluate(network, columns)
    assert told.likelihood == pytest.approx(measured["likelihood"], rel=1e-5)
    assert told.metrics(told)["token_accuracy"] == pytest.approx(measured["token_accuracy"])


def test_pairs_of_tokens_are_a_distribution_and_beat_guessing(language: Callable[..., Recipe]) -> None:
    task = TextGeneration(language())
    counted = Bigrams.of(task.fit_columns(), task.vocabulary)
    pairs = [(np.array([task.vocabulary.bos]), ids) for ids in task.answers([row.text for row in task.rows("test")])]
    (first, *_) = counted.scored(pairs)
    np.testing.assert_allclose(np.exp(first.astype(np.float64)).sum(-1), 1.0, rtol=1e-5)
    assert next_tokens.told(counted, pairs).likelihood > 4 / task.vocabulary.size
    assert counted.predict([{"text": "the cat"}])[0].text
