"""Rows of questions about media out of a bank of them: the user's tables, or clips of moving digits.

Shape legend: R rows, S side (pixels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from cluster import schema
from cluster.canonical import digest
from cluster.errors import DataError, RecipeError
from cluster.recipe import Recipe
from cluster.recipe.base import Section
from jobs.data import augment, moving_digits, question_tables, questions, tabular
from jobs.data.question_tables import Columns, Join
from jobs.data.questions import NONE, Asked, Bank
from jobs.tasks.visual_qa import rows as visual_rows
from jobs.tasks.visual_qa import views as media_views
from jobs.tasks.visual_qa.rows import TOKENS
from jobs.training.table import Columns as Packed
from serving.bundle import clips, pictures, sounds

SEEDS = {"fit": 11, "train": 13}  # one stream of rows and views each
_READ: dict[str, Bank] = {}  # the bank that was read last, by what names it


class Shown(Section):
    """How media become tokens."""

    patch: int = Field(4, ge=1, description="side of a patch (pixels); must divide the side of every picture")
    merge: int = Field(2, ge=1, description="patches per side that one token is made of (count)")
    sound_frames: int = Field(48, ge=8, le=800, description="log-mel frames of a sound; up to 100, or a multiple of it")
    hop: int = Field(128, ge=16, description="samples from one frame to the next")
    mels: int = Field(32, ge=8, le=128, description="mel bands")
    steps_per_second: int = Field(
        25, ge=1, description="steps of the position in time per second of video. Source: Qwen3-Omni"
    )


class Tables(Shown):
    """How questions and their media are read from files (`data.params`)."""

    columns: Columns = Field(Columns(), description="which columns hold what")
    joins: list[Join] = Field([], description="tables that hold the media, named by id")


class Moving(Shown):
    """Clips of moving digits and questions about them (`data.params`)."""

    clips: moving_digits.Clips = Field(moving_digits.Clips(), description="what is in a clip, and how many of them")


class MediaRows:
    """`visual_rows.Source` over a bank; a train row beyond the first pass over them is a view of its row."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        section = Tables if recipe.data.source == "table" else Moving
        self.params: Tables | Moving = section.parse(recipe.data.params, at="data.params")

    @cached_property
    def bank(self) -> Bank:
        """All rows and media; read once per process, as every step of a run asks for them."""
        data, params = self.recipe.data, self.params
        key = digest([data.identity(), self.recipe.seed, self.data_identity()])
        if key not in _READ:
            if isinstance(params, Tables):
                made = question_tables.read(data, params.columns, params.joins, self.recipe.seed)
            else:
                made = moving_digits.bank(params.clips)
            _READ.clear()
            _READ[key] = made
        return _READ[key]

    @cached_property
    def media(self) -> pictures.Media:
        """Sizes of the media that are there. Raises DataError for pictures that patches do not divide."""
        own, bank = self.params, self.bank
        side = bank.pixels.shape[1] if len(bank.pixels) else own.patch * own.merge
        if side % (own.patch * own.merge):
            expected = f"data.params.patch times merge dividing {side}"
            raise DataError("pictures do not fit the patches", got=f"{own.patch} x {own.merge}", expected=expected)
        sound = sounds.Sound(bank.rate, own.sound_frames, own.mels, own.hop) if bank.rate else None
        clip = clips.Clip(bank.most_frames, own.steps_per_second) if bank.most_frames else None
        return pictures.Media(pictures.Picture(side, own.patch, own.merge), bank.most_images, sound, clip)

    @cached_property
    def tokenizer(self) -> Any:
        """Words of the training rows; the teacher's and the student's."""
        train = self.bank.splits["train"]
        return visual_rows.vocabulary(train.texts, [answer for answer in train.answers if answer is not None])

    @cached_property
    def answer_tokens(self) -> int:
        """Tokens of the longest training answer, with its end."""
        train = self.bank.splits["train"]
        return 1 + max(len(self.tokenizer.encode(text).ids) for text in set(train.answers) if text is not None)

    @cached_property
    def slices(self) -> Sequence[str]:
        """Slices of all splits, by name."""
        return sorted({name for asked in self.bank.splits.values() for name in asked.slices})

    def check(self) -> None:
        """See `Source.check`."""
        for at, views in (("fit.views", self.recipe.fit.views), ("generate.views", self.recipe.generate.views)):
            media_views.Views.parse(views, at=at)
        frames = self.params.sound_frames
        if frames > sounds.CHUNK and frames % sounds.CHUNK:
            expected = f"up to {sounds.CHUNK}, or a multiple of it"
            raise RecipeError("data.params.sound_frames", got=frames, expected=expected)
        held = {"image": self.media.max_images, "audio": self.media.sound, "clip": self.media.clip}
        augment.check(self.recipe.generate.augment, ["text", *(name for name, there in held.items() if there)])
        for name, section in (("fit", self.recipe.fit), ("distill", self.recipe.distill)):
            named = {one for stage in section.stages for phase in stage.curriculum for one in phase.slices}
            if unknown := named - set(self.slices):
                expected = ", ".join(self.slices)
                raise RecipeError(f"{name}.stages: unknown slice", got=", ".join(sorted(unknown)), expected=expected)

    def data_identity(self) -> dict[str, Any]:
        """See `Task.data_identity`."""
        if isinstance(self.params, Moving):
            return {"source": "sklearn.load_digits", "clips": digest(moving_digits.WORDING)}
        found = question_tables.files(self.recipe.data, self.params.joins)
        return {split: {name: tabular.sha256(path) for name, path in own.items()} for split, own in found.items()}

    def dead_letters(self) -> list[dict[str, Any]]:
        """See `Task.dead_letters`."""
        return [
            {"sample_id": f"{one.file}:{one.row}", "step": "read", "reason": one.reason, "detail": one.detail,
             "attempts": 1}
            for one in self.bank.dead
        ]  # fmt: skip

    def mean_picture(self) -> np.ndarray:
        """See `Source.mean_picture`."""
        train = self.bank.splits["train"]
        used = sorted({place for row in (*train.images, *train.frames) for place in row})
        side = self.media.picture.size
        mean: np.ndarray = self.bank.pixels[used].mean((0, -1)).astype(np.float32) if used else np.zeros((side, side))
        return mean

    def _drawn(self, purpose: str, count: int, views: Any) -> tuple[Asked, media_views.Seen, int]:
        """`count` rows (0: all) of a purpose in shuffled passes, their views, and the seed of both."""
        asked = self.bank.splits["train" if purpose in SEEDS else purpose]
        if purpose == "fit":
            asked = asked.take(np.array([row for row, answer in enumerate(asked.answers) if answer is not None]))
        seed = 0
        if purpose in SEEDS:
            seed = SEEDS[purpose] * 1000 + self.recipe.generate.seed + self.recipe.seed
            rng = np.random.default_rng([seed, len(asked)])
            passes = [rng.permutation(len(asked)) for _ in range(-(-max(count, len(asked)) // len(asked)))]
            asked = asked.take(np.concatenate(passes)[: count or len(asked)])
        return asked, media_views.Seen(self.bank, asked, views, seed), seed

    def requests(self, split: str) -> pa.Table:
        """See `Task.requests`; `sample_id` hashes question, media and generation settings (DESIGN, decision 13)."""
        generate = self.recipe.generate
        views = media_views.Views.parse(generate.views) if split == "train" else None
        asked, seen, seed = self._drawn(split, generate.samples if split == "train" else 0, views)
        rows = [self._request(asked, seen, row, (split, seed)) for row in range(len(asked))]
        table = schema.conform(pa.Table.from_pylist(rows, schema.schema("requests")), "requests")
        return augment.extended(table, generate.augment, seed) if split == "train" else table

    def _request(self, asked: Asked, seen: media_views.Seen, row: int, drawn: tuple[str, int]) -> dict[str, Any]:
        split, seed = drawn
        images, frames = ([augment.encoded(one) for one in seen.pictures(row, of)] for of in ("images", "frames"))
        samples = seen.sound(row)
        audio = None if samples is None else sounds.wav(samples, self.bank.rate)
        temperature = self.recipe.generate.temperature
        shown = [one.hex() for one in (*images, *frames, *([audio] if audio else []))]
        identity = [asked.texts[row], shown, split, temperature, seed, row]
        return {
            "sample_id": digest(identity)[:16], "split": split, "slice": asked.slices[row], "prompt": asked.texts[row],
            "images": images or None, "image_format": "png" if images or frames else None, "audio": audio,
            "frames": frames or None, "fps": float(asked.fps[row]) if frames else None,
            "label_name": self._spelled(asked.answers[row]), "seed_row": int(asked.numbers[row]), "view": 0, "draw": 0,
            "temperature": temperature, "seed": seed * 100_003 + row,
        }  # fmt: skip

    def _spelled(self, answer: str | None) -> str | None:
        """An answer as the vocabulary writes it; one with a word that it lacks stays as it is and is never given."""
        if answer is None:
            return None
        ids = self.tokenizer.encode(answer).ids
        return answer if TOKENS["unk"] in ids else str(self.tokenizer.decode(ids))

    def fit_columns(self) -> Packed:
        """See `Task.fit_columns`. Raises DataError when no training row has an answer."""
        views = media_views.Views.parse(self.recipe.fit.views)
        return self._columns(*self._drawn("fit", self.recipe.fit.samples, views)[:2])

    def validation_columns(self) -> Packed:
        """See `Task.validation_columns`."""
        asked, seen, _ = self._drawn("validation", 0, None)
        return self._columns(asked, seen)

    def _columns(self, asked: Asked, seen: media_views.Seen) -> Packed:
        answers = [[*self.tokenizer.encode(text or "").ids, TOKENS["eos"]] for text in asked.answers]
        index = {name: number for number, name in enumerate(self.slices)}
        slices = np.array([index[name] for name in asked.slices])
        # What the vocabulary cannot say is cut to the length that answers have: no generated answer equals it.
        kept = [answer[: self.answer_tokens] for answer in answers]
        packed = visual_rows.columns(list(self._prompts(asked, seen)), kept, slices, self.media)
        return packed | {"modalities": questions.modalities(asked)}

    def _prompts(self, asked: Asked, seen: media_views.Seen) -> Iterator[pictures.Prompt]:
        picture, media = self.media.picture, self.media
        empty = np.zeros((0, picture.grid**2, picture.features), np.uint8)
        no_groups = np.zeros((0, picture.temporal, *empty.shape[1:]), np.uint8)
        no_sound = np.zeros((0, 0, 0) if media.sound is None else (0, media.sound.mels, media.sound.frames), np.float32)
        for row, text in enumerate(asked.texts):
            images, frames = ([pictures.patchify(one, picture) for one in seen.pictures(row, of)]
                              for of in ("images", "frames"))  # fmt: skip
            groups, stride = no_groups, 1
            if frames and media.clip is not None:
                groups = clips.grouped(np.stack(frames), picture.temporal)
                stride = clips.stride(float(asked.fps[row]), picture.temporal, media.clip)
            has_sound = asked.sounds[row] != NONE and media.sound is not None
            mels = seen.mel(row, media.sound)[None] if has_sound and media.sound else no_sound
            counts = (len(images), len(groups), len(mels))
            ids = pictures.prompt_ids(text, counts, self.tokenizer, TOKENS, media)
            yield pictures.Prompt(np.array(ids), np.stack(images) if images else empty, groups, stride, mels)
