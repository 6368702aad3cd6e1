"""Questions about one or two pictures, answered by free generation: the task of the default recipe `digits`.

Shape legend: R rows, S tokens, A answer tokens, N pictures per row, L patches, V vocabulary, H hidden size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field
from torch import Tensor, nn

from cluster import schema
from cluster.canonical import digest
from cluster.errors import RecipeError
from cluster.recipe import ModelSection, Recipe
from cluster.recipe.base import Section
from jobs.data import augment, digits
from jobs.tasks import visual_rows
from jobs.tasks.soft_labels import soft_columns
from jobs.tasks.visual_rows import ANSWER_TOKENS, MAX_IMAGES, TOKENS
from jobs.training.table import Columns
from serving.bundle import pictures
from serving.models import omni
from serving.teachers.transformers import VisualTeacher

SEEDS = {"fit": 11, "train": 13, "validation": 17, "test": 19}  # one stream of questions each


class Views(Section):
    """Random views of pictures; the share `keep` is left as it is."""

    shift: float = Field(0.12, ge=0, le=0.5, description="largest move (share of the side)")
    turn: float = Field(10.0, ge=0, le=45, description="largest turn (degrees)")
    scale: float = Field(0.0, ge=0, lt=0.5, description="largest zoom in or out (share)")
    keep: float = Field(0.2, ge=0, le=1, description="pictures left unchanged (share)")


class Questions(Section):
    """Size of the question sets drawn over the pictures (`data.params`)."""

    validation: int = Field(600, ge=20, description="questions over the validation pictures (rows)")
    test: int = Field(1500, ge=20, description="questions over the test pictures (rows)")
    two_share: float = Field(0.4, ge=0, le=1, description="questions over two pictures (share)")
    labelled_share: float = Field(1.0, gt=0, le=1, description="training pictures whose digit is known (share)")


class VisualQA:
    """`jobs.tasks.Task` for pictures and questions over a word vocabulary small enough to keep dense soft labels."""

    slices: Sequence[str] = (*digits.ONE, *digits.TWO)

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.hidden_layer = recipe.generate.hidden_layer
        # One token per picture. With four, 1,000 steps of the teacher gave .69 on two pictures of validation; so, .96.
        self.tokenizer = visual_rows.tokenizer()
        self.picture = pictures.Picture(size=digits.PIXELS, patch=4, merge=2)
        self.questions = Questions.parse(recipe.data.params, at="data.params")

    @cached_property
    def spec(self) -> dict[str, Any]:
        """What answering needs beside the weights (`task.json`, and the ground of a bundle's `bundle.json`)."""
        picture = {"size": self.picture.size, "patch": self.picture.patch, "merge": self.picture.merge}
        return {
            "task": "visual_qa", "tokens": TOKENS, "picture": picture,
            "max_images": MAX_IMAGES, "max_new_tokens": ANSWER_TOKENS,
        }  # fmt: skip

    def check(self) -> None:
        """See `Task.check`."""
        if self.recipe.data.source != "digits":
            raise RecipeError("data.source does not fit task visual_qa", got=self.recipe.data.source, expected="digits")
        Views.parse(self.recipe.generate.views, at="generate.views")
        augment.check(self.recipe.generate.augment, ["image", "text"])
        Views.parse(self.recipe.fit.views, at="fit.views")
        for name, section in (("teacher", self.recipe.teacher), ("student", self.recipe.student)):
            if section.architecture != "omni_moe":
                raise RecipeError(f"{name}.architecture", got=section.architecture, expected="omni_moe")
            omni.OmniParams.parse(section.params, at=f"{name}.params")

    @property
    def classes(self) -> None:
        """See `Task.classes`: answers are words."""

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`."""
        return {
            "source": "sklearn.load_digits",
            "questions": digest([[q.slice, *q.wordings] for q in digits.QUESTIONS]),
        }

    def framing(self) -> dict[str, Any]:
        """See `Task.framing`: a question about pictures is asked as it is."""
        return {}

    def dead_letters(self) -> list[dict[str, Any]]:
        """See `Task.dead_letters`: the embedded set has none."""
        return []

    @cached_property
    def _pictures(self) -> digits.Pictures:
        return digits.pictures(self.questions.labelled_share)

    def _drawn(self, purpose: str, count: int, views: Mapping[str, Any] | None) -> tuple[digits.Drawn, np.ndarray, int]:
        """Questions of one purpose and their pictures uint8 [R, 2, H, W] as seen (views applied)."""
        split = "labelled" if purpose == "fit" else purpose
        seed = SEEDS[purpose] * 1000 + (
            self.recipe.generate.seed + self.recipe.seed if purpose in ("fit", "train") else 0
        )
        drawn = digits.draw(self._pictures, split, count, seed, self.questions.two_share)
        pixels = self._pictures.pixels[np.stack([drawn.first, drawn.second], 1)]
        if views is not None:
            v = Views.parse(views)
            rng = np.random.default_rng([seed, 1])
            flat = pixels.reshape(-1, *pixels.shape[2:])
            seen = digits.views(flat, rng, v.shift, v.turn, v.scale)
            unchanged = rng.random(len(flat)) < v.keep
            seen[unchanged] = flat[unchanged]
            pixels = seen.reshape(pixels.shape)
        return drawn, pixels, seed

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`; `sample_id` hashes question, pictures and generation settings (DESIGN, decision 13)."""
        generate, rows = self.recipe.generate, []
        counts = {"train": generate.samples, "validation": self.questions.validation, "test": self.questions.test}
        drawn, pixels, seed = self._drawn(split, counts[split], generate.views if split == "train" else None)
        labelled = np.isin(drawn.first, self._pictures.splits["labelled"]) | (split != "train")
        for row, (second, prompt) in enumerate(zip(drawn.second, drawn.prompt, strict=True)):
            images = [_png(image) for image in pixels[row, : 1 + int(second >= 0)]]
            identity = [prompt, [image.hex() for image in images], split, generate.temperature, seed, row]
            rows.append(
                {
                    "sample_id": digest(identity)[:16],
                    "split": split,
                    "slice": drawn.slice[row],
                    "prompt": prompt,
                    "images": images,
                    "image_format": "png",
                    "label_name": drawn.answer[row] if labelled[row] else None,
                    "seed_row": int(drawn.first[row]),
                    "view": 0,
                    "draw": 0,
                    "temperature": generate.temperature,
                    "seed": seed * 100_003 + row,
                }
            )
        table = schema.conform(pa.Table.from_pylist(rows), "requests")
        return augment.extended(table, generate.augment, seed) if split == "train" else table

    def fit_columns(self) -> Columns:
        """See `Task.fit_columns`."""
        drawn, pixels, _ = self._drawn("fit", self.recipe.fit.samples, self.recipe.fit.views)
        return self._labelled(drawn, pixels)

    def validation_columns(self) -> Columns:
        """See `Task.validation_columns`."""
        drawn, pixels, _ = self._drawn("validation", self.questions.validation, None)
        return self._labelled(drawn, pixels)

    def _labelled(self, drawn: digits.Drawn, pixels_RNHW: np.ndarray) -> Columns:
        rgb = np.repeat(pixels_RNHW[..., None], self.picture.channels, -1)
        flat = np.stack([pictures.patchify(image, self.picture) for image in rgb.reshape(-1, *rgb.shape[2:])])
        counts = 1 + (drawn.second >= 0)
        prompts = [
            pictures.prompt_ids(text, int(count), self.tokenizer, TOKENS, self.picture)
            for text, count in zip(drawn.prompt, counts, strict=True)
        ]
        return self._packed(
            prompts,
            self._answers(drawn.answer),
            flat.reshape(len(rgb), MAX_IMAGES, *flat.shape[1:]),
            counts,
            drawn.slice,
        )

    def pack(self, samples: pa.Table, labels: pa.Table | None, true_labels: bool) -> Columns:
        """See `Task.pack`."""
        rows = samples.select(["prompt", "images", "label_name", "slice"]).to_pylist()
        encoded = [
            pictures.encode({"text": row["prompt"], "images": row["images"]}, self.tokenizer, self.spec, self.picture)
            for row in rows
        ]
        flat = self.picture.channels * self.picture.patch**2
        patches = np.zeros((len(rows), MAX_IMAGES, self.picture.grid**2, flat), np.uint8)
        for index, (_, own) in enumerate(encoded):
            patches[index, : len(own)] = own
        counts = np.array([len(own) for _, own in encoded])
        prompts, slices = [ids.tolist() for ids, _ in encoded], [row["slice"] for row in rows]
        if true_labels or labels is None:
            return self._packed(prompts, self._answers([row["label_name"] for row in rows]), patches, counts, slices)
        answers = labels["tokens"].to_pylist()
        return self._packed(prompts, answers, patches, counts, slices) | soft_columns(labels, ANSWER_TOKENS)

    def embeddings(self, samples: pa.Table) -> np.ndarray:
        """See `Task.embeddings`: the pictures, centred on the training pictures' mean, beside the question's words.

        The mean is a fixed reference, never that of the judged set, which would make any set look diverse.
        """
        reference = self._pictures.pixels[self._pictures.splits["train"]].mean(0).astype(np.float32)
        rows = samples.select(["prompt", "images"]).to_pylist()
        seen = np.zeros((len(rows), MAX_IMAGES, *reference.shape), np.float32)
        words = np.zeros((len(rows), self.tokenizer.get_vocab_size()), np.float32)
        for index, row in enumerate(rows):
            for place, data in enumerate(row["images"]):
                seen[index, place] = pictures.read_image(data, self.picture)[..., 0] - reference
            np.add.at(words[index], self.tokenizer.encode(row["prompt"]).ids, 1.0)
        parts = [
            part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-6)
            for part in (seen.reshape(len(rows), -1), words)
        ]
        return np.concatenate(parts, 1) / np.float32(np.sqrt(2))

    def _answers(self, texts: Sequence[str]) -> list[list[int]]:
        known = {text: [*self.tokenizer.encode(text).ids, TOKENS["eos"]] for text in set(texts)}
        return [known[text] for text in texts]

    def _packed(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], patches: np.ndarray,
                counts: np.ndarray, slices: Sequence[str]) -> dict[str, np.ndarray]:  # fmt: skip
        index = {name: number for number, name in enumerate(self.slices)}
        return visual_rows.columns(prompts, answers, patches, counts, np.array([index[name] for name in slices]))

    def build(self, section: ModelSection, seed: int, teacher: Path | None = None) -> nn.Module:
        """See `Task.build`."""
        return omni.build(section.params, TOKENS, self.tokenizer.get_vocab_size(), self.picture, seed)

    def load(self, folder: str) -> nn.Module:
        """See `Task.load`."""
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
        return visual_rows.batch(columns, rows, self.picture)

    def positions(self, columns: Columns, rows: np.ndarray) -> int:
        """See `Task.positions`."""
        return int(columns["answer"][rows].sum())

    def scored(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Task.scored`."""
        return omni.scored(network, batch)

    def evaluate(self, network: nn.Module, columns: Columns) -> dict[str, float]:
        """Exact match of whole generated answers: all rows, one-picture rows and two-picture rows."""
        was_training = network.training
        teacher = VisualTeacher(network, self.tokenizer, self.spec)
        prompts = [
            (ids[:length].astype(np.int64), patches[:count])
            for ids, length, patches, count in zip(
                columns["ids"], columns["prompt"], columns["patches"], columns["images"], strict=True
            )
        ]
        truth = [ids[p : p + a] for ids, p, a in zip(columns["ids"], columns["prompt"], columns["answer"], strict=True)]
        right = np.array(
            [np.array_equal(reply.tokens, want) for reply, want in zip(teacher.complete(prompts), truth, strict=True)]
        )
        network.train(was_training)
        one = columns["images"] == 1
        return {
            "exact_match": float(right.mean()),
            "one_picture": float(right[one].mean()),
            "two_pictures": float(right[~one].mean()),
        }


def _png(pixels_HW: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels_HW).save(buffer, "PNG")
    return buffer.getvalue()
