"""A text recipe that trains in seconds: five classes of word salad, a tiny teacher, every step's real body."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.recipe import Recipe
from cluster.store import Store
from jobs import generate

CLASSES = ("bill", "card", "loan", "rate", "transfer")
OWN = {name: [f"{name}{number}" for number in range(4)] for name in CLASSES}  # words that mean the class
SALAD = [f"word{number}" for number in range(12)]


def salad(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts of five words, two of which say the class, and their classes in turn."""
    rng, texts, labels = np.random.default_rng(seed), [], []
    for row in range(count):
        label = CLASSES[row % len(CLASSES)]
        words = [*rng.choice(OWN[label], 2), *rng.choice(SALAD, 3)]
        texts.append(" ".join(rng.permutation(words)))
        labels.append(label)
    return texts, labels


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a BERT of one layer over the words, and labelled rows: train, validation and test."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("after")
    known = ["[PAD]", "[UNK]", *SALAD, *(word for own in OWN.values() for word in own)]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
             "max_position_embeddings": 40}  # fmt: skip
    BertModel(BertConfig(vocab_size=len(known), **sizes)).save_pretrained(folder)
    for seed, (name, count) in enumerate((("train", 300), ("validation", 150), ("test", 200))):
        texts, labels = salad(count, seed)
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / f"{name}.parquet")
    return folder


@pytest.fixture
def text_values(files: Path) -> dict[str, Any]:
    """Plain values of the recipe."""
    stage = {"name": "learn", "epochs": 20, "learning_rate": 0.01, "losses": [{"name": "cross_entropy"}]}
    soft = stage | {"losses": [{"name": "forward_kl", "params": {"temperature": 2.0}}]}
    gates = {"latency_p95_ms": None, "kv_share_max": None, "above_control": None, "param_share_max": None}
    return {
        "name": "salad", "task": "text_classification",
        "data": {"source": "table", "params": {"max_tokens": 16},
                 **{name: str(files / f"{name}.parquet") for name in ("train", "validation", "test")}},
        "teacher": {"architecture": "encoder", "weights": str(files)},
        "student": {"architecture": "encoder", "params": {"layers": 1, "hidden_size": 16, "heads": 2, "inner_size": 9}},
        "fit": {"stages": [stage], "batch_size": 32, "engine": {"workers": 1}},
        "generate": {"blocks": 1},
        "distill": {"stages": [soft], "batch_size": 32, "control": False, "engine": {"workers": 1}},
        "export": {"scheme": "exact"},
        "evaluate": {"bootstrap": 100, "latency_requests": 20, "gates": gates},
        "promote": {"model_name": "salad"},
        "watch": {"rows_min": 100, "old_rows": 10},
    }  # fmt: skip


@pytest.fixture
def text_recipe(text_values: dict[str, Any]) -> Callable[..., Recipe]:
    """The recipe with whole sections merged over it: text_recipe(curate={...})."""

    def make(**sections: Any) -> Recipe:
        merged = {
            name: {**text_values.get(name, {}), **own} if isinstance(own, dict) else own
            for name, own in sections.items()
        }
        return Recipe.parse(text_values | merged)

    return make


@pytest.fixture
def sentences() -> Callable[[int, int], tuple[list[str], list[str]]]:
    """Texts and their classes: sentences(count, seed)."""
    return salad


@pytest.fixture
def relabelled(tmp_path: Path) -> Callable[[Recipe, Store, str, str], str]:
    """The path of a labelling sheet by somebody who takes one class for another: `relabelled(recipe, store, "three",
    "eight")`; the recipe's requests are answered."""

    def write(recipe: Recipe, store: Store, true: str, said: str) -> str:
        samples = generate.STEP.find(recipe, store)
        assert samples is not None
        rows = pq.read_table(samples.path() / "samples.parquet").to_pylist()
        path = tmp_path / "sheet.csv"
        with path.open("w", newline="") as stream:
            sheet = csv.DictWriter(stream, ["sample_id", "label"])
            sheet.writeheader()
            sheet.writerows({"sample_id": row["sample_id"], "label": said} for row in rows if row["label_name"] == true)
        return str(path)

    return write
