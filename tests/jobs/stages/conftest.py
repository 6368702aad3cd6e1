"""A text recipe small enough to distil in two seconds: a BERT teacher of three layers, answers of its own, a runner."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster import schema
from cluster.recipe import Recipe
from jobs import distill, tasks
from jobs.data.answers import Answerer, labels_of
from jobs.training import table
from jobs.training.loop import Job

WORDS = ["where", "is", "my", "card", "the", "loan", "bill", "rate", "please", "cancel", "transfer", "why", "how"]
CLASSES = ("bill", "card", "loan")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unfitted BERT of three layers over twenty words, with a mask token; beside it 120 labelled texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("weights")
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=40, **sizes)).save_pretrained(folder)
    rng = np.random.default_rng(5)
    texts = [" ".join([CLASSES[row % 3], *rng.choice(WORDS, int(rng.integers(1, 8)))]) for row in range(120)]
    labels = [CLASSES[row % 3] for row in range(120)]
    for name, rows in (("train", slice(0, 100)), ("test", slice(100, 120))):
        pq.write_table(pa.table({"text": texts[rows], "label": labels[rows]}), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def make_recipe(weights: Path) -> Callable[..., Recipe]:
    """A recipe whose student has two layers; stages as plain values, further top-level sections by name."""

    def make(*stages: dict[str, Any], **sections: Any) -> Recipe:
        base = {"name": "s", "epochs": 2, "learning_rate": 0.01, "losses": [{"name": "cross_entropy"}]}
        values: dict[str, Any] = {
            "name": "tiny",
            "task": "text_classification",
            "data": {
                "source": "table", "train": str(weights / "train.parquet"), "test": str(weights / "test.parquet"),
                "params": {"max_tokens": 12},
            },
            "teacher": {"architecture": "encoder", "weights": str(weights)},
            "student": {
                "architecture": "encoder",
                "params": {"layers": 2, "hidden_size": 16, "heads": 2, "inner_size": 32, "dropout": 0.1},
            },
            "generate": {"hidden_layer": -1},
            "distill": {"stages": [{**base, **stage} for stage in stages] or [base], "batch_size": 16},
            "promote": {"model_name": "tiny"},
        }  # fmt: skip
        values |= copy.deepcopy(sections)
        return Recipe.parse(values)

    return make


@pytest.fixture
def distilling(tmp_path: Path) -> Callable[..., Job]:
    """A job that distils the recipe's student from an unfitted teacher's answers, with packed rows in `tmp_path`."""

    def make(recipe: Recipe, **changes: Any) -> Job:
        task = tasks.of(recipe)
        teacher, initial = tmp_path / "teacher", tmp_path / "initial"
        for folder, section, source in ((teacher, recipe.teacher, None), (initial, recipe.student, teacher)):
            folder.mkdir(exist_ok=True)
            task.save(task.build(section, 0, source), folder)
        answers = Answerer(str(teacher), recipe.generate, str(tmp_path / "tally"))(task.requests("train"))
        assert set(answers["status"].to_pylist()) == {"ok"}, answers["detail"].to_pylist()[:1]
        samples = schema.conform(answers.append_column("teacher", pa.array(["t"] * len(answers))), "samples")
        columns = dict(task.pack(samples, labels_of(answers), true_labels=False))
        columns["difficulty"] = np.linspace(0, 1, len(columns["slice"]), dtype=np.float32)
        table.write(tmp_path / "rows.arrow", columns)
        table.write(tmp_path / "validation.arrow", task.validation_columns())
        hidden = columns["teacher_hidden"].shape[-1] if "teacher_hidden" in columns else 0
        values: dict[str, Any] = {
            "recipe": recipe, "arm": "distill", "initial": str(initial), "table": str(tmp_path / "rows.arrow"),
            "validation": str(tmp_path / "validation.arrow"), "stages": recipe.distill.active,
            "batch_size": recipe.distill.batch_size, "engine": recipe.distill.engine, "teacher_hidden": hidden,
            "teacher": str(teacher),
        }  # fmt: skip
        return Job(**values | changes)

    return make


@pytest.fixture
def control_stages() -> Callable[..., Any]:
    """How the control arm's stages are made of the student's."""
    return distill.hard_label_stages
