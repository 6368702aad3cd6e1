"""Questions over media from the user's own files: one table, or one that names its media by id in other tables.

Cells of a picture are as in `jobs.data.pictures`; a sound is a WAV file (bytes or a path), or int16 samples with
their rate beside them; a video is a list of encoded frames with its frames per second.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from cluster.errors import DataError
from cluster.recipe import DataSection
from cluster.recipe.base import Section
from jobs.data import cells, pictures, questions, readers, tabular
from jobs.data.cells import CellError
from jobs.data.questions import NONE, Asked, Bank
from jobs.data.readers import DeadLetter
from serving.bundle.answer import BundleError
from serving.bundle.sounds import read_wav


class Join(Section):
    """Another table that holds media, one row per id."""

    table: str = Field(description="path, relative to the questions' file; {split} is train, validation or test")
    on: str = Field(description="column of the questions that names a row of that table; empty: without its media")
    key: str = Field("id", description="column of that table with its own name")


class Columns(Section):
    """Which columns hold what; text and answer are `data.text_column` and `data.label_column`."""

    image: str = Field("image", description="a picture; the columns beside it are as in image_classification")
    audio: str = Field("audio", description="a sound: WAV bytes, the path of a WAV file, or int16 samples")
    rate: str = Field("sample_rate", description="samples per second, beside int16 samples")
    frames: str = Field("frames", description="a video: a list of encoded pictures")
    fps: str = Field("fps", description="its frames per second")
    slice: str | None = Field(None, description="name of the row's slice; null: the media it shows, as image+audio")

    @property
    def media(self) -> tuple[str, ...]:
        """Columns that may stand in the questions' table or in a joined one."""
        return (self.image, *pictures.BESIDE, self.audio, self.rate, self.frames, self.fps)


@dataclass
class _Media:
    """The media met so far, each once, all pictures of one size and all sounds of one rate."""

    pixels: list[np.ndarray] = field(default_factory=list)
    sounds: list[np.ndarray] = field(default_factory=list)
    rate: int = 0
    places: dict[bytes, int] = field(default_factory=dict)

    def once(self, key: bytes, kept: list[np.ndarray], make: Callable[[], np.ndarray]) -> int:
        """The place of a medium in `kept`, made when it is met first."""
        if key not in self.places:
            kept.append(make())
            self.places[key] = len(kept) - 1
        return self.places[key]

    def picture(self, row: Mapping[str, Any], column: str, folder: Path) -> int:
        """The place of a row's picture. Raises CellError for one that cannot be read or has another size."""

        def made() -> np.ndarray:
            return self._fitting(pictures.decoded(row, column, folder))

        return self.once(_key(row, column, folder), self.pixels, made)

    def _fitting(self, pixels_HWC: np.ndarray) -> np.ndarray:
        height, width = pixels_HWC.shape[:2]
        side = len(self.pixels[0]) if self.pixels else height
        if (height, width) != (side, side):
            raise CellError("wrong_size", f"picture: got {width}x{height} pixels, expected {side}x{side}")
        return pixels_HWC

    def sound(self, cell: Any, rate: Any, folder: Path) -> int:
        """The place of a sound. Raises CellError for one that cannot be read or has another rate."""
        samples, own = _samples(cell, rate, folder)
        if self.rate not in (0, own):
            raise CellError("wrong_rate", f"audio: got {own} samples a second, expected {self.rate}")
        self.rate = own
        return self.once(b"sound" + hashlib.sha256(samples.tobytes()).digest(), self.sounds, lambda: samples)


def _key(row: Mapping[str, Any], column: str, folder: Path) -> bytes:
    """What two cells share that hold the same picture; a path means another file in another folder."""
    beside = [row[name] for name in pictures.BESIDE if name in row]
    return hashlib.sha256(repr((row[column], beside, str(folder))).encode()).digest()


def _samples(cell: Any, rate: Any, folder: Path) -> tuple[np.ndarray, int]:
    if isinstance(cell, np.ndarray | list):
        samples = np.asarray(cell)
        if not (isinstance(rate, int) and rate > 0 and len(samples) and samples.dtype.kind in "iu"):
            raise CellError("unreadable_sound", f"samples {samples.dtype} [{len(samples)}] at rate {rate!r:.40}")
        if samples.min() < -32768 or samples.max() > 32767:
            raise CellError("unreadable_sound", f"samples up to {samples.max()}, expected int16")
        return samples.astype(np.int16), rate
    try:
        return read_wav(pictures.encoded(cell, folder))
    except BundleError as error:
        raise CellError("unreadable_sound", str(error)) from None


def files(section: DataSection, joins: Sequence[Join]) -> dict[str, dict[str, Path]]:
    """Split -> name -> path of all files: "questions" and every join's table. Raises DataError for one not given."""
    found = {}
    for split, path in tabular.files(section).items():
        tables = {join.table: path.parent / join.table.replace("{split}", split) for join in joins}
        found[split] = {"questions": path, **tables}
    return found


def read(section: DataSection, columns: Columns, joins: Sequence[Join], seed: int) -> Bank:
    """Media, splits and rows set aside of a recipe's files; deterministic in `seed`.

    Raises DataError: a file or column that is missing, a file without a usable row, test rows that are the training
    rows, or no row left for validation.
    """
    paths, media, dead, splits = files(section, joins), _Media(), [], {}
    if tabular.sha256(paths["train"]["questions"]) == tabular.sha256(paths["test"]["questions"]):
        got = str(paths["test"]["questions"])
        raise DataError("data.train and data.test are the same rows", got=got, expected="rows never trained on")
    for split, own in paths.items():
        reader = _Reader(section, columns, joins, media)
        splits[split], letters = reader.rows(own, split == "train")
        dead += letters
    if "validation" not in splits:
        splits |= questions.cut(splits["train"], section.validation_share, seed)
    splits = {split: questions.limit(asked, section.max_rows, seed) for split, asked in splits.items()}
    shape = media.pixels[0].shape if media.pixels else (1, 1, 3)
    pixels = np.stack(media.pixels) if media.pixels else np.zeros((0, *shape), np.uint8)
    return Bank(pixels, media.sounds, media.rate, splits, tuple(dead))


@dataclass(frozen=True)
class _Reader:
    """Reads the rows of one split."""

    section: DataSection
    columns: Columns
    joins: Sequence[Join]
    media: _Media

    def rows(self, paths: Mapping[str, Path], train: bool) -> tuple[Asked, list[DeadLetter]]:
        """Usable rows and those set aside. Raises DataError when no row is usable."""
        path, names = paths["questions"], self.columns
        required = {"text_column": self.section.text_column, "label_column": self.section.label_column}
        required |= {f"params.joins.{number}.on": join.on for number, join in enumerate(self.joins)}
        if names.slice is not None:
            required["params.columns.slice"] = names.slice
        raw = readers.read(path, required, names.media)
        beside = [(join, self._table(paths[join.table], number, join)) for number, join in enumerate(self.joins)]
        found, dead = [], list(raw.dead)
        for place, number in enumerate(raw.numbers):
            row = {name: values[place] for name, values in raw.columns.items()}
            try:
                found.append((*self._row(row, beside, path.parent, train), number))
            except CellError as bad:
                dead.append(DeadLetter(path.name, number, bad.reason, bad.detail))
        if not found:
            counts = dict(Counter(letter.reason for letter in dead))
            expected = "rows with a question, an answer and a picture, sound or video"
            raise DataError(f"{path} holds no usable row", got=f"{counts or 'no rows'}", expected=expected)
        texts, answers, slices, images, frames, sounds, fps, numbers = (list(one) for one in zip(*found, strict=True))
        return Asked(
            texts, answers, slices, images, frames, np.array(sounds), np.array(fps, np.float32), np.array(numbers)
        ), dead  # fmt: skip

    def _table(self, path: Path, number: int, join: Join) -> Mapping[str, tuple[Mapping[str, Any], Path]]:
        """Rows of a joined table by their key, each with the folder that its paths are relative to."""
        raw = readers.read(path, {f"params.joins.{number}.key": join.key}, self.columns.media)
        known = [name for name in self.columns.media if name in raw.columns]
        return {
            cells.key_of(value): ({name: raw.columns[name][place] for name in known}, path.parent)
            for place, value in enumerate(raw.columns[join.key])
            if not cells.is_null(value)  # a row without an id is named by nobody
        }

    def _row(self, row: Mapping[str, Any], beside: Sequence[tuple[Join, Mapping[str, Any]]], folder: Path,
             train: bool) -> tuple[Any, ...]:  # fmt: skip
        """Fields of `Asked` but the number. Raises CellError."""
        text, label = cells.text_of(row[self.section.text_column]), row[self.section.label_column]
        answer = None if train and cells.is_null(label) else cells.key_of(label)
        sources = [(row, folder)]
        for join, table in beside:
            if cells.is_null(row[join.on]):
                continue  # a question without that medium
            key = cells.key_of(row[join.on])
            if key not in table:
                raise CellError("no_such_id", f"{join.on}: {key} is not in {join.table}")
            sources.append(table[key])
        images, frames, sound, fps = self._media(sources)
        name = self.columns.slice
        own = questions.modality(len(images), len(frames), sound != NONE) if name is None else cells.key_of(row[name])
        return text, answer, own, images, frames, sound, fps

    def _media(self, sources: Sequence[tuple[Mapping[str, Any], Path]]) -> tuple[Any, ...]:
        names = self.columns
        images: tuple[int, ...] = ()
        frames: tuple[int, ...] = ()
        sound, fps = NONE, 0.0
        for row, folder in sources:
            if row.get(names.image) is not None:
                images += (self.media.picture(row, names.image, folder),)
            if row.get(names.audio) is not None:
                sound = self.media.sound(row[names.audio], row.get(names.rate), folder)
            if row.get(names.frames) is not None and len(row[names.frames]):
                frames = tuple(self.media.picture({"frame": one}, "frame", folder) for one in row[names.frames])
                fps = _fps(row.get(names.fps))
        if not images and not frames and sound == NONE:
            raise CellError("no_media", "neither a picture nor a sound nor a video")
        return images, frames, sound, fps


def _fps(value: Any) -> float:
    if not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise CellError("no_fps", f"got {value!r:.40}, expected the frames per second of the video, above 0")
    return float(value)
