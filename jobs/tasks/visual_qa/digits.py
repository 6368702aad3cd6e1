"""Rows of the recipe `digits`: questions over one or two of scikit-learn's digits, drawn and answered here.

Shape legend: R rows, N pictures per row.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster import schema
from cluster.canonical import digest
from cluster.recipe import Recipe
from cluster.recipe.base import Section
from jobs.data import augment, digits
from jobs.tasks.visual_qa import rows as visual_rows
from jobs.tasks.visual_qa.rows import TOKENS
from jobs.training.table import Columns
from serving.bundle import pictures

SEEDS = {"fit": 11, "train": 13, "validation": 17, "test": 19}  # one stream of questions each
BLOCK = 1000  # training questions drawn together (rows)
MAX_IMAGES = 2
NO_SOUND = np.zeros((0, 0, 0), np.float32)


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


@functools.cache
def tokenizer() -> Any:
    """Word-level tokenizer over the words of the question bank, numbers and specials."""
    asked = {word for q in digits.QUESTIONS for text in q.wordings for word in text.replace("{n}", "").split()}
    return visual_rows.tokenizer(sorted(asked | set(digits.WORDS) | {"yes", "no", "equal"}), visual_rows.SPECIAL[:-1])


class DigitRows:
    """`visual_rows.Source` for the embedded digits."""

    slices: Sequence[str] = (*digits.ONE, *digits.TWO)
    answer_tokens = 3  # two digits and the end

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.questions = Questions.parse(recipe.data.params, at="data.params")
        # One token per picture. With four, 1,000 steps of the teacher gave .69 on two pictures of validation; so, .96.
        self.media = pictures.Media(pictures.Picture(size=digits.PIXELS, patch=4, merge=2), MAX_IMAGES)
        self.tokenizer = tokenizer()

    def check(self) -> None:
        """See `Source.check`."""
        Views.parse(self.recipe.generate.views, at="generate.views")
        Views.parse(self.recipe.fit.views, at="fit.views")
        augment.check(self.recipe.generate.augment, ["image", "text"])

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`."""
        return {
            "source": "sklearn.load_digits",
            "questions": digest([[q.slice, *q.wordings] for q in digits.QUESTIONS]),
        }

    def dead_letters(self) -> list[dict[str, Any]]:
        """See `Task.dead_letters`: the embedded set has none."""
        return []

    @cached_property
    def _pictures(self) -> digits.Pictures:
        return digits.pictures(self.questions.labelled_share)

    def mean_picture(self) -> np.ndarray:
        """See `Source.mean_picture`."""
        mean: np.ndarray = self._pictures.pixels[self._pictures.splits["train"]].mean(0).astype(np.float32)
        return mean

    def _drawn(self, purpose: str, count: int, views: Mapping[str, Any] | None) -> tuple[digits.Drawn, np.ndarray, int]:
        """Questions of one purpose and their pictures uint8 [R, 2, H, W] as seen (views applied)."""
        split = "labelled" if purpose == "fit" else purpose
        seed = SEEDS[purpose] * 1000 + (
            self.recipe.generate.seed + self.recipe.seed if purpose in ("fit", "train") else 0
        )
        if purpose != "train":
            return *self._block(split, count, seed, views), seed
        # Whole blocks, cut off at the end: more samples begin with the fewer ones, whose answers are taken over.
        blocks = [self._block(split, BLOCK, seed * 1_000_003 + start, views) for start in range(0, count, BLOCK)]
        pixels = np.concatenate([pixels for _, pixels in blocks])[:count]
        return digits.joined([drawn for drawn, _ in blocks], count), pixels, seed

    def _block(
        self, split: str, count: int, seed: int, views: Mapping[str, Any] | None
    ) -> tuple[digits.Drawn, np.ndarray]:
        drawn = digits.draw(self._pictures, split, count, seed, self.questions.two_share)
        pixels = self._pictures.pixels[np.stack([drawn.first, drawn.second], 1)]
        if views is None:
            return drawn, pixels
        v = Views.parse(views)
        rng = np.random.default_rng([seed, 1])
        flat = pixels.reshape(-1, *pixels.shape[2:])
        seen = digits.views(flat, rng, v.shift, v.turn, v.scale)
        unchanged = rng.random(len(flat)) < v.keep
        seen[unchanged] = flat[unchanged]
        return drawn, seen.reshape(pixels.shape)

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`; `sample_id` hashes question, pictures and generation settings (DESIGN, decision 13)."""
        generate, rows = self.recipe.generate, []
        counts = {"train": generate.samples, "validation": self.questions.validation, "test": self.questions.test}
        drawn, pixels, seed = self._drawn(split, counts[split], generate.views if split == "train" else None)
        labelled = np.isin(drawn.first, self._pictures.splits["labelled"]) | (split != "train")
        for row, (second, prompt) in enumerate(zip(drawn.second, drawn.prompt, strict=True)):
            images = [augment.encoded(image) for image in pixels[row, : 1 + int(second >= 0)]]
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
        picture = self.media.picture
        rgb = np.repeat(pixels_RNHW[..., None], picture.channels, -1)
        flat = np.stack([pictures.patchify(image, picture) for image in rgb.reshape(-1, *rgb.shape[2:])])
        patches_RNLF = flat.reshape(len(rgb), MAX_IMAGES, *flat.shape[1:])
        groups = np.zeros((0, picture.temporal, *flat.shape[1:]), np.uint8)
        prompts = []
        for text, count, own in zip(drawn.prompt, 1 + (drawn.second >= 0), patches_RNLF, strict=True):
            ids = pictures.prompt_ids(text, (int(count), 0, 0), self.tokenizer, TOKENS, self.media)
            prompts.append(pictures.Prompt(np.array(ids), own[:count], groups, 1, NO_SOUND))
        known = {text: [*self.tokenizer.encode(text).ids, TOKENS["eos"]] for text in set(drawn.answer)}
        index = {name: number for number, name in enumerate(self.slices)}
        slices = np.array([index[name] for name in drawn.slice])
        return visual_rows.columns(prompts, [known[text] for text in drawn.answer], slices, self.media)
