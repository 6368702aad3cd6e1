"""Texts that are continued, or prompts that are answered: a causal language model as teacher, a decoder as student.

Rows are texts (the teacher scores every token of them) or prompts with responses (the teacher writes answers of its
own); soft labels are of tokens, in the recipe's form. The control arm learns from the text, or the true responses.

Shape legend: R rows, A answer positions, V vocabulary, E embedding size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from cluster import schema
from cluster.canonical import digest
from cluster.recipe import ModelSection, Recipe
from jobs.data import corpus, tabular, vocabulary
from jobs.tasks import text_models
from jobs.tasks.soft_labels import soft_columns
from jobs.tasks.text_generation import check as text_generation_check
from jobs.tasks.text_generation import live
from jobs.tasks.text_generation import rows as text_generation_rows
from jobs.tasks.text_generation.check import Writing
from jobs.training.on_policy import Draw
from jobs.training.table import Columns
from serving import teachers
from serving.bundle import writing
from serving.models import decoder, weights
from serving.teachers import writing as written

SLICE = "all"
EMBEDDED = 256  # E: directions that the tokens of a text are spread over


class TextGeneration:
    """`jobs.tasks.Task` for texts; metrics are of the true next token, given the true ones before it."""

    slices: Sequence[str] = (SLICE,)
    media = ("text",)
    continuable = False  # no written text is the right one

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.hidden_layer = recipe.generate.hidden_layer
        self.params = Writing.parse(recipe.data.params, at="data.params")

    @property
    def continues(self) -> bool:
        """Whether rows are texts; else they are prompts with responses."""
        return self.params.prompt_column is None

    @cached_property
    def documents(self) -> corpus.Corpus:
        """The recipe's rows as they stand in its files."""
        own = self.params
        return corpus.read(self.recipe.data, own.prompt_column, own.response_column, self.recipe.seed)

    @cached_property
    def vocabulary(self) -> vocabulary.Vocabulary:
        """The one tokenizer: the teacher's, where it has weights, else that of a file, else one made of the rows."""
        own = self.params
        if self.recipe.teacher.weights is not None:
            return vocabulary.of_weights(self.recipe.teacher.weights)
        if own.tokenizer is not None:
            return vocabulary.of_file(own.tokenizer, own.end_token)
        rows = self.documents.splits["train"]
        return vocabulary.learned([text for row in rows for text in (row.text, row.response) if text], own.vocabulary)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What answering needs beside the weights (`task.json`, and the ground of a bundle's `bundle.json`)."""
        own = self.params
        return {
            "task": "text_generation", "continues": self.continues, "tokens": self.vocabulary.ends,
            "max_tokens": own.max_tokens, "max_new_tokens": own.max_new_tokens, "temperature": own.temperature,
            "seed": self.recipe.seed,
        }  # fmt: skip

    def check(self) -> None:
        """See `Task.check`; the cheap things first, the rows and the tokenizer last."""
        text_generation_check.check(self.recipe, self.params)
        text_generation_check.check_vocabulary(self.recipe, self.params, self.vocabulary)

    @property
    def classes(self) -> None:
        """See `Task.classes`: answers are texts."""
        return None

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`: the hash of every data file, of weights and of a tokenizer that are files here.

        A tokenizer made of the rows follows from them and the recipe; it is not made for a name that is often asked.
        """
        sections = {"teacher": self.recipe.teacher.weights, "student": self.recipe.student.weights}
        hashes = {name: text_models.identity(own) for name, own in sections.items() if own is not None}
        source = self.params.tokenizer
        tokenizer = {} if source is None else {path.name: tabular.sha256(path) for path in vocabulary.files(source)}
        own = {"files": corpus.identity(self.recipe.data), "weights": hashes, "tokenizer": tokenizer}
        return {"source": self.recipe.data.source} | own

    def framing(self) -> dict[str, Any]:
        """See `Task.framing`: a teacher that lies elsewhere reads by this task's rules."""
        return {"writing": self.spec}

    def dead_letters(self) -> list[dict[str, Any]]:
        """See `Task.dead_letters`."""
        return [
            {"sample_id": f"row:{one.row}", "step": "read", "reason": one.reason,
             "detail": f"{one.file}: {one.detail}", "attempts": 1}
            for one in self.documents.dead
        ]  # fmt: skip

    def rows(self, split: str) -> list[corpus.Document]:
        """The rows of a split that models see: texts in windows of `max_tokens`, at most `data.max_rows`."""
        found = list(self.documents.splits[split])
        if self.continues:
            if self.params.joined:
                found = [corpus.Document("".join(_line(row.text) for row in found), None, 0)]
            found = [
                corpus.Document(piece, None, row.number)
                for row in found
                for piece in corpus.windows(row.text, self.vocabulary.tokenizer, self.params.max_tokens)
            ]
        limit = self.recipe.data.max_rows
        if limit is None or len(found) <= limit:
            return found
        chosen = np.random.default_rng([self.recipe.seed, limit]).permutation(len(found))[:limit]
        return [found[row] for row in np.sort(chosen).tolist()]

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`; the true answer (`label_name`) of a text is the text itself."""
        section = self.recipe.generate
        seed, asked = self.recipe.seed + section.seed, []
        for place, row in enumerate(self.rows(split)):
            key = [row.text, split, row.number, place, section.temperature, seed]
            asked.append({
                "sample_id": digest(key)[:16], "split": split, "slice": SLICE, "prompt": row.text,
                "label_name": row.text if row.response is None else row.response, "seed_row": row.number, "view": 0,
                "draw": 0, "temperature": section.temperature, "seed": seed * 100_003 + place,
            })  # fmt: skip
        table = schema.conform(pa.Table.from_pylist(asked, schema.schema("requests")), "requests")
        return table.slice(0, section.samples or len(table)) if split == "train" else table

    def fit_columns(self) -> Columns:
        """See `Task.fit_columns`."""
        rows, count = self.rows("train"), self.recipe.fit.samples
        if count and count < len(rows):
            chosen = np.random.default_rng([self.recipe.seed, count]).permutation(len(rows))[:count]
            rows = [rows[row] for row in np.sort(chosen).tolist()]
        return self._true(rows)

    def validation_columns(self) -> Columns:
        """See `Task.validation_columns`."""
        return self._true(self.rows("validation"))

    def _true(self, rows: Sequence[corpus.Document]) -> Columns:
        texts = [row.text for row in rows]
        answers = [row.text if row.response is None else row.response for row in rows]
        return text_generation_rows.columns(self.contexts(texts), self.answers(answers))

    def contexts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids that come before the answer: of a text the start alone, else the prompt."""
        if self.continues:
            return [np.array([self.vocabulary.bos])] * len(texts)
        return [writing.prompt_ids({"text": text}, self.vocabulary.tokenizer, self.spec) for text in texts]

    def answers(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of true answers: of a text all of it, else the response and the end."""
        found = [writing.plain_ids({"text": text}, self.vocabulary.tokenizer, self.spec) for text in texts]
        if self.continues:
            return found
        return [np.append(ids[: self.params.max_new_tokens - 1], self.vocabulary.eos) for ids in found]

    def pack(self, samples: pa.Table, labels: pa.Table | None, true_labels: bool) -> Columns:
        """See `Task.pack`. Raises MismatchError when the labels are of another vocabulary."""
        contexts = self.contexts(samples["prompt"].to_pylist())
        if true_labels or labels is None:
            return text_generation_rows.columns(contexts, self.answers(samples["label_name"].to_pylist()))
        text_generation_check.refuse_other_labels(labels, self.vocabulary.size)
        answers = [np.asarray(ids, np.int32) for ids in labels["tokens"].to_pylist()]
        own = text_generation_rows.columns(contexts, answers)
        return own | soft_columns(labels, int(own["answer"].max()))

    def embeddings(self, samples: pa.Table) -> np.ndarray:
        """See `Task.embeddings`: counts of tokens, rare ones more, under a fixed random projection.

        No encoder is at hand for any language; texts that share words are near, which is what curation asks.
        """
        texts = samples["prompt"].to_pylist()
        counts = [np.unique(ids.ids, return_counts=True) for ids in self.vocabulary.tokenizer.encode_batch(texts)]
        rows_V = np.bincount(np.concatenate([ids for ids, _ in counts]), minlength=self.vocabulary.size)
        rare_V = np.log((1 + len(texts)) / (1 + rows_V))
        spread_VE = np.random.default_rng(0).standard_normal((self.vocabulary.size, EMBEDDED), np.float32)
        mixed_RE = np.stack([(np.log1p(own) * rare_V[ids]) @ spread_VE[ids] for ids, own in counts])
        return np.asarray(mixed_RE / np.linalg.norm(mixed_RE, axis=1, keepdims=True).clip(1e-6), np.float32)

    def build(self, section: ModelSection, seed: int, teacher: Path | None = None) -> nn.Module:
        """See `Task.build`; what has no weights starts fresh."""
        if section.weights is not None:
            return decoder.load(weights.locate(section.weights))
        longest = 1 + self.params.max_tokens + 1 + self.params.max_new_tokens
        return decoder.build(section.params, self.vocabulary.size, longest, self.vocabulary.ends, seed)

    def load(self, folder: str) -> nn.Module:
        """See `Task.load`; of a teacher that lies elsewhere its own network."""
        if teachers.elsewhere(Path(folder)):
            return teachers.open_folder(folder).model  # type: ignore[attr-defined,no-any-return]
        return decoder.load(folder)

    def save(self, network: nn.Module, folder: Path) -> None:
        """See `Task.save`; unmodified transformers reads weights and tokenizer."""
        network.save_pretrained(str(folder))  # type: ignore[operator]
        written.tokenizer_of(self.vocabulary.tokenizer, self.vocabulary.ends).save_pretrained(str(folder))
        (folder / "task.json").write_text(json.dumps(self.spec))

    def hidden_size(self, network: nn.Module) -> int:
        """See `Task.hidden_size`."""
        return int(network.config.hidden_size)  # type: ignore[union-attr,arg-type]

    def kv_bytes(self, network: nn.Module) -> int:
        """See `Task.kv_bytes`."""
        return decoder.kv_bytes(network)

    def merge_kv(self, network: nn.Module, heads: int) -> nn.Module:
        """See `Task.merge_kv`."""
        return decoder.merge_kv_heads(network, heads)

    def batch(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """See `Task.batch`."""
        return text_generation_rows.batch(columns, rows)

    def positions(self, columns: Columns, rows: np.ndarray) -> int:
        """See `Task.positions`: every token of the answers."""
        return text_generation_rows.positions(columns, rows)

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Task.scored`."""
        return decoder.scored(network, batch)

    def blocks(self, network: nn.Module) -> Sequence[nn.Module]:
        """See `jobs.tasks.Layered.blocks`."""
        return list(network.model.layers)  # type: ignore[union-attr,arg-type]

    def at_positions(self, state: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """See `jobs.tasks.Layered.at_positions`."""
        return state.flatten(0, 1)[batch["scored"]]

    def real(self, batch: Mapping[str, Tensor]) -> Tensor:
        """See `jobs.tasks.Attentive.real`."""
        return text_generation_rows.real(batch)

    def word_runs(self, word: str) -> list[list[int]]:
        """See `jobs.tasks.Worded`: as it begins a text, and as it stands behind a space."""
        ways = [self.vocabulary.tokenizer.encode(text).ids for text in (word, f" {word}") if word.strip()]
        return [run for place, run in enumerate(ways) if run and run not in ways[:place]]

    def on_policy(
        self, student: nn.Module, teacher: nn.Module, columns: Columns, rows: np.ndarray, draw: Draw
    ) -> Mapping[str, Tensor]:
        """See `jobs.training.on_policy.Generative`."""
        tokenizer = written.tokenizer_of(self.vocabulary.tokenizer, self.vocabulary.ends)
        prompts = live.beginnings(columns, rows, self.continues, draw)
        own = live.written(student, tokenizer, prompts, draw, rows)
        batch = text_generation_rows.batch(own, np.arange(len(rows)))
        seed = int(np.random.default_rng([*draw.seed, *draw.numbers(rows)]).integers(1 << 62))
        return live.scored(teacher, batch, self.recipe.generate.labels, seed)

    def evaluate(self, network: nn.Module, columns: Columns) -> dict[str, float]:
        """`likelihood`, `perplexity` and `token_accuracy` of the true tokens."""
        return text_generation_rows.measured(network, columns, self.vocabulary.size)


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
