"""Labelled texts, any set and any classes: a pretrained encoder as teacher, a small encoder as student.

The student learns from the training rows and from variants that only the teacher labels; the control arm has the true
labels, which variants do not have. Nothing here has a key/value cache.

Shape legend: R rows, B rows of a batch, S tokens, C classes, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor, nn

from cluster import schema
from cluster.canonical import digest
from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe
from cluster.recipe.base import Section
from jobs.data import augment, tabular
from jobs.data.variants import Views, variants
from jobs.tasks import masking, text_models
from jobs.tasks.one_label import SLICE, OneLabel, scores, true_classes
from jobs.tasks.soft_labels import likeliest, soft_columns, teacher_signals
from jobs.training.table import Columns
from serving import teachers
from serving.bundle.texts import encode_text
from serving.models import encoder, layers, weights
from serving.teachers.labelling import QUESTION, template


class Texts(Section):
    """How texts are read (`data.params`)."""

    max_tokens: int = Field(128, ge=8, description="longest text, the rest is cut off (tokens)")
    encoder: str | None = Field(
        None, description="weights whose tokenizer and token table a fresh student takes; null: the teacher's"
    )
    question: str = Field(
        QUESTION, description="Jinja2 over `text` and `labels` that a teacher which writes is asked", min_length=1
    )


class TextClassification(OneLabel):
    """`jobs.tasks.Task` for texts with one label each."""

    network = "an encoder"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.texts = Texts.parse(recipe.data.params, at="data.params")
        self.views = Views.parse(recipe.generate.views, at="generate.views")

    @cached_property
    def rows(self) -> tabular.Labelled:
        """Classes, splits and rows set aside of the recipe's files."""
        return tabular.read(self.recipe.data, self.recipe.seed)

    @cached_property
    def tokenizer(self) -> Any:
        """The one tokenizer, which the student shares with a teacher that is fitted here."""
        return weights.tokenizer(self._base)

    @property
    def _base(self) -> str:
        """Weights whose tokenizer everything here is read with: those named for it, else the teacher's."""
        teacher = self.recipe.teacher
        source = self.texts.encoder or (None if teacher.architecture in teachers.KINDS else teacher.weights)
        if source is None:
            field = "data.params.encoder" if teacher.architecture in teachers.KINDS else "teacher.weights"
            expected = "a Hugging Face folder, a hub id or package:NAME"
            raise RecipeError(f"{field} is needed for text_classification", got="null", expected=expected)
        return source

    @cached_property
    def told_by_rows(self) -> dict[str, Any]:
        """See `OneLabel.told_by_rows`."""
        return {"task": "text_classification", "labels": list(self.rows.classes), "max_tokens": self.texts.max_tokens}

    def check(self) -> None:
        """See `Task.check`; the cheap things first, the weights last."""
        recipe = self.recipe
        if recipe.data.source != "table":
            raise RecipeError(
                "data.source does not fit task text_classification", got=recipe.data.source, expected="table"
            )
        for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
            text_models.check(name, section)
        if recipe.fit.views:
            raise RecipeError("fit.views: texts are not changed while fitting", got=recipe.fit.views, expected="{}")
        text_models.check_training(recipe)
        if recipe.teacher.architecture in teachers.KINDS:
            template(self.texts.question)
        augment.check(recipe.generate.augment, ["text"])
        _ = self.rows
        text_models.check_weights(recipe, self._base, self.tokenizer, self.texts.max_tokens)

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`: the hash of every data file, and of the weights that are files here."""
        fitted = self.recipe.teacher.architecture not in teachers.KINDS
        sections = {"teacher": self.recipe.teacher.weights if fitted else None, "student": self.recipe.student.weights}
        if self.texts.encoder is not None:
            sections["encoder"] = self.texts.encoder
        hashes = {name: text_models.identity(own) for name, own in sections.items() if own is not None}
        return {"source": "table", "files": tabular.identity(self.recipe.data), "weights": hashes}

    def framing(self) -> dict[str, Any]:
        """See `Task.framing`."""
        return {"labels": list(self.rows.classes), "question": self.texts.question}

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`; a variant names its row (`parent`), its kind (`template`) and has no true label.

        Training texts without a label are asked about like the others.
        """
        generate, parts = self.recipe.generate, [self.rows.splits[split]]
        if split == "train":
            parts.append(self.rows.unlabelled)
        texts = [text for part in parts for text in part.inputs]
        labels = np.concatenate([part.labels for part in parts]).tolist()
        numbers = np.concatenate([part.numbers for part in parts]).tolist()
        asked = []
        for text, label, number in zip(texts, labels, numbers, strict=True):
            truth = {"label": label, "label_name": self.rows.classes[label]} if label >= 0 else {}
            asked.append(self._request(split, text, number, 0) | truth)
        made = variants(texts, self.views, self.sample_seed) if split == "train" else []
        for one in made:
            origin = {"template": one.kind, "parent": asked[one.row]["sample_id"]}
            asked.append(self._request(split, one.text, numbers[one.row], one.view) | origin)
        table = schema.conform(pa.Table.from_pylist(asked, schema.schema("requests")), "requests")
        if split == "train":
            table = augment.extended(table, generate.augment, self.sample_seed)
            table = table.slice(0, generate.samples or len(table))  # rows as they are come first
        return table

    def _request(self, split: str, text: str, number: int, view: int) -> dict[str, Any]:
        temperature, seed = self.recipe.generate.temperature, self.sample_seed
        return {
            "sample_id": digest([text, split, number, view, temperature, seed])[:16], "split": split, "slice": SLICE,
            "prompt": text, "seed_row": number, "view": view, "draw": 0, "temperature": temperature, "seed": seed,
        }  # fmt: skip

    def fit_columns(self) -> Columns:
        """See `Task.fit_columns`."""
        rows = self.fit_rows()
        return self._columns(rows.inputs, rows.labels)

    def validation_columns(self) -> Columns:
        """See `Task.validation_columns`."""
        rows = self.rows.splits["validation"]
        return self._columns(rows.inputs, rows.labels)

    def pack(self, samples: pa.Table, labels: pa.Table | None, true_labels: bool) -> Columns:
        """See `Task.pack`. Raises MismatchError when a row without a true label is to be packed with one."""
        texts = samples["prompt"].to_pylist()
        if true_labels or labels is None:
            return self._columns(texts, true_classes(samples))
        signals = soft_columns(labels, 1)
        return self._columns(texts, likeliest(signals)) | signals

    def _columns(self, texts: Sequence[str], targets_R: np.ndarray) -> dict[str, np.ndarray]:
        encoded = self._encode(texts)
        length_R = np.array([len(ids) for ids in encoded], np.int32)
        ids_RS = np.zeros((len(encoded), int(length_R.max())), np.int32)
        ids_RS[np.arange(ids_RS.shape[1]) < length_R[:, None]] = np.concatenate(encoded)
        slices = np.zeros(len(encoded), np.int16)
        return {"ids": ids_RS, "length": length_R, "target": np.asarray(targets_R, np.int32), "slice": slices}

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [encode_text({"text": text}, self.tokenizer, self.spec) for text in texts]

    def embeddings(self, samples: pa.Table) -> np.ndarray:
        """See `Task.embeddings`: the unit mean-pooled states of the teacher as it was before it was fitted.

        A variant has the vector of its row: leaving out a word is no new variety, and this takes a quarter of the time.
        """
        rows = samples.select(["sample_id", "parent", "prompt"]).to_pylist()
        texts = {row["sample_id"]: row["prompt"] for row in rows}
        origin = [row["parent"] if row["parent"] in texts else row["sample_id"] for row in rows]
        place = {sample_id: index for index, sample_id in enumerate(dict.fromkeys(origin))}
        model = encoder.pretrained(self._base, 1, self.recipe.seed)
        _, pooled_RH = encoder.run(model, self._encode([texts[sample_id] for sample_id in place]))
        unit_RH = pooled_RH / np.linalg.norm(pooled_RH, axis=1, keepdims=True).clip(1e-6)
        return np.asarray(unit_RH[[place[sample_id] for sample_id in origin]], np.float32)

    def build(self, section: ModelSection, seed: int, teacher: Path | None = None) -> nn.Module:
        """See `Task.build`; own weights get a fresh head, a model without them the teacher's token table."""
        classes = len(self.rows.classes)
        if section.weights is not None:
            return encoder.pretrained(section.weights, classes, seed)
        taken = teacher is not None and self.texts.encoder is None
        source = str(teacher) if taken else weights.locate(self._base)
        return encoder.build(section.params, self.texts.max_tokens, classes, source, seed)

    def load(self, folder: str) -> nn.Module:
        """See `Task.load`."""
        return encoder.load(folder)

    def save(self, network: nn.Module, folder: Path) -> None:
        """See `Task.save`."""
        encoder.save(network, folder, self.spec["labels"])
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "task.json").write_text(json.dumps(self.spec))

    def hidden_size(self, network: nn.Module) -> int:
        """See `Task.hidden_size`."""
        return int(network.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def batch(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """See `Task.batch`; rows are padded on the right to the longest of them."""
        length_B = columns["length"][rows]
        width = int(length_B.max())
        arrays = {
            "input_ids": columns["ids"][rows, :width].astype(np.int64),
            "attention_mask": (np.arange(width) < length_B[:, None]).astype(np.int64),
            "targets": columns["target"][rows].astype(np.int64),
        } | dict(teacher_signals(columns, rows, np.ones((len(rows), 1), bool)))
        return {name: torch.from_numpy(value) for name, value in arrays.items()}

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Task.scored`."""
        return encoder.scored(network, batch)

    def blocks(self, network: nn.Module) -> Sequence[nn.Module]:
        """See `Layered.blocks`."""
        return layers.blocks(network)

    def at_positions(self, state: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Layered.at_positions`: the mean of a row's token states."""
        mask_BS1 = batch["attention_mask"][..., None]
        return (state * mask_BS1).sum(1) / mask_BS1.sum(1)

    def real(self, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Attentive.real`."""
        return batch["attention_mask"].bool()

    def masked(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Masking.masked`; `check` refuses a vocabulary without a mask."""
        mask = masking.mask_id(self.tokenizer)
        assert mask is not None
        return masking.masked(network, batch, mask, masking.special_ids(self.tokenizer))

    def evaluate(self, network: nn.Module, columns: Columns) -> dict[str, float]:
        """Share of rows whose class is right, and the mean over the classes that occur of their F1."""
        rows = [ids[:length] for ids, length in zip(columns["ids"], columns["length"], strict=True)]
        logits_RC, _ = encoder.run(network, rows)
        return scores(columns["target"], logits_RC.argmax(-1))
