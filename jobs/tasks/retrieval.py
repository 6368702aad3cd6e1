"""Questions and the entries that answer them: a pretrained dual encoder as teacher, a small one as student.

Logits are cosines of a question and an entry, times a scale. The teacher's are cached over all entries; a step compares
them over the batch's own entries and the nearest ones, so forward_kl is similarity distillation, cross_entropy the
contrastive loss (InfoNCE, arXiv 1807.03748) and margin_mse that of arXiv 2010.02666.

Shape legend: R rows, B questions of a batch, C candidate entries, E all entries, S tokens, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe
from jobs.data import pairs, tabular
from jobs.data.labels import form_of
from jobs.measure.ranking import ranking_scores
from jobs.tasks import text_models
from jobs.tasks.text_classification import TextClassification, Texts
from jobs.training.table import Columns
from serving.models import dual_encoder, weights

NUMBERED = ("class_balanced", "tokens")  # focus rules that know a target by its number


class Searched(Texts):
    """How questions and entries are read and compared (`data.params`)."""

    answer_column: str = Field("answer", description="column of the entry that answers a row's question (source table)")
    scale: float = Field(20.0, gt=0, description="factor on cosines (unitless); 20: sentence-transformers' default")
    sentences: bool = Field(True, description="the entries' own sentences are asked too, answered by the teacher alone")
    nearest: int = Field(1, ge=0, description="entries per question, the teacher's first, as candidates (count)")


class Retrieval(TextClassification):
    """`jobs.tasks.Task` for retrieval: a question's label is its entry, and metrics are of ranks among all entries."""

    def __init__(self, recipe: Recipe) -> None:
        plain = recipe.model_copy(update={"data": recipe.data.model_copy(update={"params": {}})})
        super().__init__(plain)
        self.recipe = recipe
        self.texts = self.searched = Searched.parse(recipe.data.params, at="data.params")

    @cached_property
    def pairs(self) -> pairs.Pairs:
        """The entries, and the splits' questions."""
        return pairs.read(self.recipe.data, self.searched.answer_column, self.recipe.seed)

    @cached_property
    def rows(self) -> tabular.Labelled:
        """Questions with the index of their entry; unlabelled: sentences of the entries, numbered from -1 down."""
        found = list[str]()
        if self.searched.sentences:
            found = [part for text in self.pairs.entries for part in pairs.sentences(text)]
        numbers = -1 - np.arange(len(found))
        return replace(self.pairs.rows, unlabelled=tabular.Rows(found, np.full(len(found), -1), numbers))

    @cached_property
    def told_by_rows(self) -> dict[str, Any]:
        """See `OneLabel.told_by_rows`."""
        own = self.pairs
        return {"task": "retrieval", "labels": list(own.labels), "entries": list(own.entries),
                "max_tokens": self.texts.max_tokens, "scale": self.searched.scale}  # fmt: skip

    @cached_property
    def entries(self) -> list[np.ndarray]:
        """Token ids of every entry."""
        return self._encode(self.spec["entries"])

    def check(self) -> None:
        """See `Task.check`."""
        recipe = self.recipe
        if recipe.data.source not in ("table", pairs.LIBRARY):
            expected = f"table or {pairs.LIBRARY}"
            raise RecipeError("data.source does not fit task retrieval", got=recipe.data.source, expected=expected)
        text_models.check("student", recipe.student)
        if recipe.teacher.architecture != text_models.ARCHITECTURE or recipe.teacher.weights is None:
            got = recipe.teacher.architecture
            raise RecipeError("teacher: retrieval is taught by an encoder with weights", got=got, expected="encoder")
        if recipe.generate.hidden_layers:
            raise RecipeError("generate.hidden_layers", got=recipe.generate.hidden_layers, expected="hidden_layer -1")
        text_models.check_training(recipe)
        _check_focus(recipe)
        count = len(self.pairs.entries)
        if form_of(recipe.generate.labels, count) != "dense":
            hint = f"generate.labels.dense_limit={count}"
            raise RecipeError("generate.labels: entries are compared by all logits", got=f"{count} entries",
                              expected="form dense", hint=hint)  # fmt: skip
        text_models.check_weights(recipe, self._base, self.tokenizer, self.texts.max_tokens)

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`."""
        sections = {"teacher": self.recipe.teacher.weights, "student": self.recipe.student.weights}
        hashes = {name: text_models.identity(own) for name, own in sections.items() if own is not None}
        return {"source": self.recipe.data.source, "pairs": pairs.identity(self.recipe.data), "weights": hashes}

    def build(self, section: ModelSection, seed: int, teacher: Path | None = None) -> nn.Module:
        """See `Task.build`; a model without weights has the teacher's token table."""
        if section.weights is not None:
            return dual_encoder.pretrained(section.weights, self.searched.scale)
        source = weights.locate(self._base) if teacher is None else str(teacher)
        return dual_encoder.build(section.params, self.texts.max_tokens, self.searched.scale, source, seed)

    def load(self, folder: str) -> nn.Module:
        """See `Task.load`."""
        return dual_encoder.load(folder)

    def save(self, network: nn.Module, folder: Path) -> None:
        """See `Task.save`."""
        dual_encoder.save(network, folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "task.json").write_text(json.dumps(self.spec))

    def batch(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """See `Task.batch`: questions, the candidates [C, S], and targets and teacher's logits among these."""
        whole = super().batch(columns, rows)
        asked = [whole["targets"]]
        if "teacher_logits" in whole and self.searched.nearest:
            asked.append(whole["teacher_logits"].topk(min(self.searched.nearest, len(self.entries))).indices.flatten())
        # Sorted, which searchsorted needs.
        candidates_C = torch.unique(torch.cat(asked))
        ids = [torch.from_numpy(self.entries[entry]) for entry in candidates_C.tolist()]
        lengths_C = torch.tensor([len(own) for own in ids])
        ids_CS = nn.utils.rnn.pad_sequence(ids, batch_first=True)
        whole |= {
            "candidate_ids": ids_CS, "candidate_mask": (torch.arange(ids_CS.shape[1]) < lengths_C[:, None]).long(),
            "targets": torch.searchsorted(candidates_C, whole["targets"]),
        }  # fmt: skip
        if "teacher_logits" in whole:
            whole["teacher_logits"] = whole["teacher_logits"][:, candidates_C]
        return whole

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Task.scored`: logits [B, C] over the batch's candidates."""
        logits_BC, question_BH = network(batch)
        return logits_BC, question_BH

    def evaluate(self, network: nn.Module, columns: Columns) -> dict[str, float]:
        """`recall_at_1`, `recall_at_5`, `recall_at_10` and `mrr` among all entries."""
        rows = [ids[:length] for ids, length in zip(columns["ids"], columns["length"], strict=True)]
        (_, question_RH), (_, entry_EH) = (dual_encoder.vectors(network, own) for own in (rows, self.entries))
        scores_RE = question_RH @ entry_EH.T
        true_R1 = scores_RE[np.arange(len(rows)), columns["target"]][:, None]
        return ranking_scores((scores_RE > true_R1).sum(1) + 1)


def _check_focus(recipe: Recipe) -> None:
    """Refuse rules that know targets by their number, which here is a place among a batch's candidates."""
    for at, section in (("fit", recipe.fit), ("distill", recipe.distill)):
        for stage in section.active:
            for rule in [rule for term in stage.losses for rule in term.focus if rule.name in NUMBERED]:
                raise RecipeError(f"{at}: stage {stage.name}: focus: entries of retrieval are no classes",
                                  got=rule.name, expected="rules of student or teacher")  # fmt: skip
