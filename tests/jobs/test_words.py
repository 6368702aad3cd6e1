"""Rule `tokens` by words: resolved through each task's own vocabulary, refused where it has no such word."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import RecipeError
from cluster.recipe import Recipe, load
from jobs import tasks
from jobs.training import words
from jobs.training.losses import Signals
from jobs.training.terms import terms_at
from jobs.training.weighting import weigh

AT = "distill.stages.0"


def asked(*named: str) -> str:
    rule = f"{{name: tokens, params: {{words: [{', '.join(named)}], weight: 5.0}}}}"
    return f"{AT}.losses=[{{name: cross_entropy, focus: [{rule}]}}]"


def weights_of(recipe: Recipe, targets: Any) -> list[float]:
    """What the first stage's term gives these targets."""
    stage = words.resolved(recipe.distill.stages[0], tasks.of(recipe))
    (term,) = terms_at(stage.losses, 0, 2)
    targets_Q = torch.tensor(targets)
    found = weigh(Signals(torch.zeros(len(targets_Q), 2), targets_Q), term.focus)
    assert found is not None
    return found.tolist()


def test_a_word_of_a_language_model_counts_at_all_of_its_tokens(tmp_path: Any) -> None:
    for split, start in (("train", 0), ("test", 40)):
        lines = [f"the loan of bank {number} is paid" for number in range(start, start + 40)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text", *lines, ""]))
    recipe = load("language_model", [
        "data.source=table", *(f"data.{split}={tmp_path}/{split}.csv" for split in ("train", "test")),
        "data.params={max_tokens: 24, vocabulary: 300}", asked("unheard", "bank"),
    ])  # fmt: skip
    task: Any = tasks.of(recipe)
    ids = task.vocabulary.tokenizer.encode("the bank said unheard").ids
    found = np.array(weights_of(recipe, ids))
    chosen = [task.vocabulary.tokenizer.decode([token]) for token in np.array(ids)[found == 5].tolist()]
    assert "".join(chosen) == " bank unheard" and found.min() == 1
    words.check(recipe, task)


def test_words_of_answers_and_names_of_classes_are_known(tiny_digits: Callable[..., Recipe]) -> None:
    recipe = tiny_digits(asked("even", "odd"))
    tokenizer: Any = tasks.of(recipe).tokenizer  # type: ignore[attr-defined]
    assert weights_of(recipe, tokenizer.encode("even or odd").ids)[::2] == [5, 5]
    with pytest.raises(RecipeError, match="soft_labels: focus rule tokens: a word that no answer is written with"):
        words.check(tiny_digits(asked("xylophone")), tasks.of(recipe))


@pytest.mark.parametrize("params", ["{}", "{runs: [[]]}"])
def test_a_rule_for_no_target_is_refused(tiny_digits: Callable[..., Recipe], params: str) -> None:
    from jobs.training.stages.check import check

    rule = f"[{{name: cross_entropy, focus: [{{name: tokens, params: {params}}}]}}]"
    recipe = tiny_digits(f"{AT}.losses={rule}")
    with pytest.raises(RecipeError, match="words, ids or runs"):
        check(recipe, "distill", recipe.distill)
