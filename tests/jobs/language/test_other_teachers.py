"""A teacher of another family, asked where it lies: it scores texts, answers prompts, and serves on-policy steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import InputError
from cluster.recipe import Recipe
from jobs.data import vocabulary
from jobs.data.answers import Answerer, labels_of
from jobs.tasks.text_generation.task import TextGeneration
from jobs.training.on_policy import drawn
from serving import teachers
from serving.teachers.writing import WritingTeacher, tokenizer_of

ASKED = {"fit": {"enabled": False}, "teacher.architecture": "causal_lm", "teacher.params": {"device": "cpu"}}
PROMPTS = {"data.text_column": "prompt", "data.params.prompt_column": "prompt"}
CHAT = "{% for message in messages %}Q: {{ message['content'] }}{% endfor %} A:"


@pytest.fixture
def gpt2(language: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A GPT-2 of one layer with a tokenizer of its own and a chat template."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder, words = tmp_path / "gpt2", vocabulary.learned(["the cat sat on a mat and the dog ran"], 290)
    tokenizer = tokenizer_of(words.tokenizer, words.ends)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    ends: dict[str, Any] = {"bos_token_id": words.bos, "eos_token_id": words.eos}
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_layer=1, n_embd=16, n_head=2, **ends)).save_pretrained(folder)
    return folder


def opened(recipe: Recipe, folder: Path) -> WritingTeacher:
    teachers.write_folder(recipe.teacher, folder, **TextGeneration(recipe).framing())
    teacher = teachers.open_folder(folder)
    assert isinstance(teacher, WritingTeacher)
    return teacher


def test_texts_are_scored_by_a_model_of_any_family(language: Callable[..., Recipe], gpt2: Path, tmp_path: Path) -> None:
    recipe = language(**ASKED, **{"teacher.weights": str(gpt2)})
    task, teacher = TextGeneration(recipe), opened(recipe, tmp_path / "hf")
    task.check()
    assert task.vocabulary.size == 300
    samples = Answerer(str(tmp_path / "hf"), recipe.generate, str(tmp_path / "tally"))(task.requests("train"))
    assert set(samples["status"].to_pylist()) == {"ok"}
    columns = task.pack(samples, labels_of(samples), False)
    batch = task.batch(columns, np.arange(3))
    with torch.no_grad():
        logits_QV = teacher.model(batch["input_ids"]).logits.flatten(0, 1)[batch["scored"]]
    entropy_Q = -(logits_QV.softmax(-1) * logits_QV.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(batch["teacher_entropy"], entropy_Q, atol=5e-3, rtol=0)


def test_prompts_are_asked_in_the_models_own_template(
    language: Callable[..., Recipe], gpt2: Path, tmp_path: Path
) -> None:
    recipe = language(**ASKED, **PROMPTS, **{"teacher.weights": str(gpt2)})
    teacher = opened(recipe, tmp_path / "hf")
    decoded = teacher.tokenizer.decode(teacher.prompt({"text": "the cat"}).tolist())
    assert decoded == "Q: the cat A:"
    assert isinstance(teacher.answer([{"text": "the cat"}])[0].text, str)


def test_on_policy_steps_use_the_network_that_lies_elsewhere(
    language: Callable[..., Recipe], gpt2: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "teacher.weights": str(gpt2),
        "distill.stages.0.on_policy": {"share": 1.0, "max_new_tokens": 4},
    }
    recipe = language(**ASKED, **changes)
    task = TextGeneration(recipe)
    opened(recipe, tmp_path / "hf")
    draw = drawn(recipe.distill.stages[0], 0, 0, 0)
    assert draw is not None
    network = task.load(str(tmp_path / "hf"))
    batch = task.on_policy(task.build(recipe.student, 0), network, task.fit_columns(), np.arange(4), draw)
    assert batch["teacher_logits"].shape == (len(batch["targets"]), 300)


def test_a_tokenizer_beside_the_teachers_is_refused(language: Callable[..., Recipe], gpt2: Path) -> None:
    recipe = language(**ASKED, **{"teacher.weights": str(gpt2), "data.params.tokenizer": str(gpt2)})
    with pytest.raises(InputError, match=r"beside teacher\.weights"):
        TextGeneration(recipe).check()
