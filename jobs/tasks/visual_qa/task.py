"""Questions about pictures, sounds and video, answered by free generation: the task of the default recipe `digits`.

Shape legend: R rows, A answer tokens, N pictures per row, V vocabulary, H hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor, nn

from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe
from jobs.data.items import COLUMNS, item_of
from jobs.tasks.soft_labels import soft_columns
from jobs.tasks.visual_qa import digits as digit_rows
from jobs.tasks.visual_qa import media as media_rows
from jobs.tasks.visual_qa import rows as visual_rows
from jobs.tasks.visual_qa.rows import TOKENS
from jobs.training.table import Columns
from serving.bundle import pictures
from serving.models import layers, omni
from serving.teachers.transformers import VisualTeacher

SOURCES: Mapping[str, Callable[[Recipe], visual_rows.Source]] = {
    "digits": digit_rows.DigitRows,
    "moving_digits": media_rows.MediaRows,
    "table": media_rows.MediaRows,
}


class VisualQA:
    """`jobs.tasks.Task` for questions over media, with a word vocabulary small enough to keep dense soft labels."""

    continuable = True

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.hidden_layer = recipe.generate.hidden_layer
        self.source = SOURCES[recipe.data.source](recipe)
        self._opened: visual_rows.Shown | None = None

    @property
    def shown(self) -> visual_rows.Shown:
        """Media and words: of the model that was loaded, so that a worker reads no rows, else of the rows."""
        if self._opened is not None:
            return self._opened
        source = self.source
        return visual_rows.Shown(source.media, source.tokenizer, source.answer_tokens, source.slices)

    @property
    def media(self) -> Sequence[str]:
        """See `Task.media`: of what the rows show."""
        own = self.shown.media
        held = {"image": own.max_images, "audio": own.sound is not None, "video": own.clip is not None}
        return ("text", *(name for name, any_ in held.items() if any_))

    def picture(self, data: bytes) -> np.ndarray:
        """See `Pictured.picture`: [S, S, 3]."""
        return pictures.read_image(data, self.shown.media.picture)

    @property
    def slices(self) -> Sequence[str]:
        """See `Task.slices`."""
        return self.shown.slices

    @property
    def tokenizer(self) -> Any:
        """The words that questions and answers are made of; the teacher's and the student's."""
        return self.shown.tokenizer

    @property
    def spec(self) -> dict[str, Any]:
        """What answering needs beside the weights (`task.json`, and the ground of a bundle's `bundle.json`)."""
        return self.shown.spec

    def check(self) -> None:
        """See `Task.check`."""
        for name, section in (("teacher", self.recipe.teacher), ("student", self.recipe.student)):
            if section.architecture != "omni_moe":
                raise RecipeError(f"{name}.architecture", got=section.architecture, expected="omni_moe")
            omni.OmniParams.parse(section.params, at=f"{name}.params")
        self.source.check()

    @property
    def classes(self) -> None:
        """See `Task.classes`: answers are words."""

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`."""
        return self.source.data_identity()

    def framing(self) -> dict[str, Any]:
        """See `Task.framing`: a question about media is asked as it is."""
        return {}

    def dead_letters(self) -> list[dict[str, Any]]:
        """See `Task.dead_letters`."""
        return self.source.dead_letters()

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`."""
        return self.source.requests(split)

    def fit_columns(self) -> Columns:
        """See `Task.fit_columns`."""
        return self.source.fit_columns()

    def validation_columns(self) -> Columns:
        """See `Task.validation_columns`."""
        return self.source.validation_columns()

    def pack(self, samples: pa.Table, labels: pa.Table | None, true_labels: bool) -> Columns:
        """See `Task.pack`."""
        prompts, truth = [], samples["label_name"].to_pylist()
        for part in samples.select([*COLUMNS]).to_batches(max_chunksize=512):
            items = [item_of(row) for row in part.to_pylist()]
            prompts += [pictures.encode(item, self.tokenizer, TOKENS, self.shown.media) for item in items]
        index = {name: number for number, name in enumerate(self.slices)}
        slices = np.array([index[name] for name in samples["slice"].to_pylist()])
        soft = labels is not None and not true_labels
        answers = labels["tokens"].to_pylist() if soft and labels is not None else self._answers(truth)
        packed = visual_rows.columns(prompts, answers, slices, self.shown.media)
        return packed | (soft_columns(labels, self.shown.answer_tokens) if soft and labels is not None else {})

    def embeddings(self, samples: pa.Table) -> np.ndarray:
        """See `Task.embeddings`: the pictures, centred on the training pictures' mean, beside the question's words.

        The mean is a fixed reference, never that of the judged set, which would make any set look diverse. Of a video
        the first frames count, as many as a row may have pictures and at least one.
        """
        media, reference = self.shown.media, self.source.mean_picture()
        places = max(1, media.max_images)
        seen = np.zeros((len(samples), places, *reference.shape), np.float32)
        words = np.zeros((len(samples), self.tokenizer.get_vocab_size()), np.float32)
        for index, row in enumerate(samples.select(["prompt", "images", "frames"]).to_pylist()):
            for place, data in enumerate([*(row["images"] or ()), *(row["frames"] or ())][:places]):
                seen[index, place] = pictures.read_image(data, media.picture).mean(-1) - reference
            np.add.at(words[index], self.tokenizer.encode(row["prompt"].lower()).ids, 1.0)
        parts = [
            part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-6)
            for part in (seen.reshape(len(samples), -1), words)
        ]
        return np.concatenate(parts, 1) / np.float32(np.sqrt(2))

    def _answers(self, texts: Sequence[str]) -> list[list[int]]:
        known = {text: [*self.tokenizer.encode(text).ids, TOKENS["eos"]] for text in set(texts)}
        return [known[text][: self.shown.answer_tokens] for text in texts]

    def word_runs(self, word: str) -> list[list[int]]:
        """See `jobs.tasks.Worded`: words of the vocabulary are one token each."""
        ids = [self.tokenizer.token_to_id(part) for part in word.split()]
        return [ids] if ids and None not in ids else []

    def build(self, section: ModelSection, seed: int, teacher: Path | None = None) -> nn.Module:
        """See `Task.build`."""
        return omni.build(section.params, TOKENS, self.tokenizer.get_vocab_size(), self.shown.media, seed)

    def load(self, folder: str) -> nn.Module:
        """See `Task.load`."""
        self._opened = visual_rows.Shown.of(Path(folder))
        return omni.load(folder)

    def save(self, network: nn.Module, folder: Path) -> None:
        """See `Task.save`."""
        network.save_pretrained(str(folder))  # type: ignore[operator]
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "task.json").write_text(json.dumps(self.spec))

    def hidden_size(self, network: nn.Module) -> int:
        """See `Task.hidden_size`."""
        config: Any = network.config
        return int(config.text_config.hidden_size)

    def kv_bytes(self, network: nn.Module) -> int:
        """See `Task.kv_bytes`."""
        return omni.kv_bytes_per_token(network)

    def merge_kv(self, network: nn.Module, heads: int) -> nn.Module:
        """See `Task.merge_kv`."""
        return omni.merge_kv_heads(network, heads)

    def batch(self, columns: Columns, rows: np.ndarray) -> dict[str, Tensor]:
        """See `Task.batch`."""
        return visual_rows.batch(columns, rows, self.shown.media, self.shown.answer_tokens)

    def positions(self, columns: Columns, rows: np.ndarray) -> int:
        """See `Task.positions`."""
        return int(columns["answer"][rows].sum())

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Task.scored`."""
        return omni.scored(network, batch)

    def blocks(self, network: nn.Module) -> Sequence[nn.Module]:
        """See `Layered.blocks`: the decoder's layers."""
        return layers.blocks(network)

    def at_positions(self, state: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Layered.at_positions`: where the tokens of the answer are chosen."""
        return state.flatten(0, 1)[batch["scored"]]

    def evaluate(self, network: nn.Module, columns: Columns) -> dict[str, float]:
        """Exact match of whole generated answers: all rows, then by slice, or by pictures where there are two."""
        was_training = network.training
        teacher = VisualTeacher(network, self.tokenizer, self.spec)
        prompts = visual_rows.prompts(columns, self.shown.media)
        truth = [ids[p : p + a] for ids, p, a in zip(columns["ids"], columns["prompt"], columns["answer"], strict=True)]
        right = np.array(
            [np.array_equal(reply.tokens, want) for reply, want in zip(teacher.complete(prompts), truth, strict=True)]
        )
        network.train(was_training)
        one = columns["images"] == 1
        if columns["images"].max() > 1:
            parts = {"one_picture": one, "two_pictures": ~one}
        else:
            parts = {name: columns["slice"] == number for number, name in enumerate(self.slices)}
        met = {name: float(right[rows].mean()) for name, rows in parts.items() if rows.any()}
        return {"exact_match": float(right.mean()), **met}
