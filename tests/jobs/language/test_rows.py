"""Rows of the language task: texts in windows, one tokenizer, what a batch predicts, and what is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import InputError
from cluster.recipe import Recipe, load
from jobs.data import corpus, vocabulary
from jobs.tasks.text_generation.task import TextGeneration
from jobs.training import losses
from serving.models import decoder

TOKENIZER = vocabulary.learned(["a few words and\n  a few more, again and again\n"] * 3, 270).tokenizer


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=200), st.integers(8, 40))
def test_windows_hold_the_whole_text_in_order(text: str, longest: int) -> None:
    pieces = corpus.windows(text, TOKENIZER, longest)
    kept = "".join("".join(pieces).split())
    assert kept == "".join(text.split())
    assert all(piece.strip() for piece in pieces)


def test_a_tokenizer_made_of_rows_is_the_same_every_time_and_gives_every_text_back() -> None:
    one, two = (vocabulary.learned(["one two three two three"] * 5, 270) for _ in range(2))
    assert one.tokenizer.to_str() == two.tokenizer.to_str()
    assert one.tokenizer.decode(one.tokenizer.encode("größe 🐟\n\tx").ids) == "größe 🐟\n\tx"


def test_a_batch_predicts_every_token_of_the_text_from_those_before_it(language: Callable[..., Recipe]) -> None:
    task = TextGeneration(language())
    columns = task.validation_columns()
    batch = task.batch(columns, np.arange(3))
    width, start = batch["input_ids"].shape[1], 0
    for row in range(3):
        answer = int(columns["answer"][row])
        true = columns["ids"][row, 1 : 1 + answer]
        own = slice(start, start + answer)
        np.testing.assert_array_equal(batch["targets"][own], true)
        np.testing.assert_array_equal(batch["scored"][own], row * width + np.arange(answer))
        assert batch["input_ids"][row, 0] == task.vocabulary.bos
        start += answer
    assert start == task.positions(columns, np.arange(3)) == len(batch["targets"])


def test_only_the_answer_of_a_prompt_is_scored_and_it_ends(language: Callable[..., Recipe]) -> None:
    task = TextGeneration(language(**{"data.text_column": "prompt", "data.params.prompt_column": "prompt"}))
    columns = task.validation_columns()
    batch = task.batch(columns, np.arange(2))
    assert batch["targets"].tolist().count(task.vocabulary.eos) == 2
    decoded = task.vocabulary.tokenizer.decode(batch["input_ids"][0].tolist())
    assert decoded.startswith(task.rows("validation")[0].text + "\n")


def test_metrics_are_those_of_the_definition(language: Callable[..., Recipe]) -> None:
    task = TextGeneration(language())
    network, columns = task.build(task.recipe.student, 0), task.validation_columns()
    measured = task.evaluate(network, columns)
    batch = task.batch(columns, np.arange(len(columns["ids"])))
    nll = torch.nn.functional.cross_entropy(task.scored(network, batch)[0], batch["targets"]).item()
    assert measured["perplexity"] == pytest.approx(np.exp(nll), rel=1e-5)
    assert measured["likelihood"] * measured["perplexity"] == pytest.approx(1)


def test_merging_equal_heads_changes_nothing_but_the_cache(language: Callable[..., Recipe]) -> None:
    task = TextGeneration(language())
    network: Any = task.build(task.recipe.student, 0)
    for layer in network.model.layers:
        for own in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            with torch.no_grad():
                own.weight.copy_(own.weight.view(2, 2, 8, -1)[:, :1].expand(2, 2, 8, -1).reshape(own.weight.shape))
    merged, batch = task.merge_kv(network, 2), task.batch(task.validation_columns(), np.arange(2))
    torch.testing.assert_close(task.scored(merged, batch)[0], task.scored(network, batch)[0])
    assert task.kv_bytes(merged) * 2 == task.kv_bytes(network) == 2 * 1 * 4 * 8 * 4
    with pytest.raises(InputError, match="divisor of 4"):
        task.merge_kv(network, 3)


def test_a_folder_is_read_by_unmodified_transformers(language: Callable[..., Recipe], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = TextGeneration(language())
    network = task.build(task.recipe.student, 0)
    task.save(network, tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("the cat sat", return_tensors="pt")["input_ids"]
    batch = {"input_ids": ids, "scored": torch.arange(ids.shape[1])}
    torch.testing.assert_close(model(ids).logits[0], decoder.scored(network, batch)[0])
    assert tokenizer.decode(ids[0]) == "the cat sat"
    assert tokenizer.eos_token_id == task.vocabulary.eos


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data.source": "digits"}, "data.source"),
        ({"data.params.vocabulary": 100}, "vocabulary"),
        ({"data.params.prompt_column": "prompt", "data.params.joined": True}, "joined"),
        ({"student.architecture": "encoder"}, "student.architecture"),
        ({"student.params.heads": 3}, "heads"),
        ({"generate.temperatures": [0.5, 1.0]}, "scored as they stand"),
        ({"generate.hidden_layer": 2}, "hidden_layer"),
        ({"generate.labels.form": "dense"}, "sampled_cross_entropy"),
        ({"generate.labels.form": "auto"}, "sampled_cross_entropy"),
        ({"data.params.tokenizer": "/no/such/file"}, "tokenizer"),
        ({"distill.stages.0.losses.0.params": {"temperature": 2.0}}, "nothing is stored"),
        ({"distill.stages.0.losses": [{"name": "top_k_tail"}]}, "reads a tail"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    changes: dict[str, Any], says: str, language: Callable[..., Recipe]
) -> None:
    with pytest.raises(InputError, match=says):
        TextGeneration(language(**changes)).check()


def test_weights_of_another_tokenizer_are_refused(language: Callable[..., Recipe], tmp_path: Path) -> None:
    other = TextGeneration(language(**{"data.params.vocabulary": 300}))
    other.save(other.build(other.recipe.student, 0), tmp_path)
    changes = {"student.weights": str(tmp_path), "student.params": {}}
    with pytest.raises(InputError, match="another tokenizer"):
        TextGeneration(language(**changes)).check()


def test_the_default_recipe_is_sound_and_no_file_is_in_two_splits() -> None:
    recipe = load("language_model", [])
    task = TextGeneration(recipe)
    files = {split: {row.number for row in rows} for split, rows in task.documents.splits.items()}
    assert not files["train"] & files["test"] and not files["train"] & files["validation"]
    for stage in recipe.distill.stages:
        losses.check(stage.losses, "distill", losses.absent(recipe, "distill", stage))
