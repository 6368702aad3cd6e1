"""Questions over pictures, sounds and video, whatever they come from: each medium held once, rows that point at it.

Shape legend: R rows, U pictures and frames, S side (pixels), N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.errors import DataError
from jobs.data.readers import DeadLetter

NONE = -1  # the sound of a row without one


@dataclass(frozen=True)
class Asked:
    """R rows of one split: `images` and `frames` are places in `Bank.pixels`, `sounds` int64 [R] in `Bank.sounds`.

    `answers` are None where only a teacher can tell; `fps` float32 [R] belongs to the frames; `numbers` int64 [R] are
    rows of the file they come from.
    """

    texts: Sequence[str]
    answers: Sequence[str | None]
    slices: Sequence[str]
    images: Sequence[tuple[int, ...]]
    frames: Sequence[tuple[int, ...]]
    sounds: np.ndarray
    fps: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Asked:
        """The rows at these places, in this order."""
        return Asked(
            [self.texts[row] for row in rows], [self.answers[row] for row in rows], [self.slices[row] for row in rows],
            [self.images[row] for row in rows], [self.frames[row] for row in rows],
            self.sounds[rows], self.fps[rows], self.numbers[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Bank:
    """All media of a recipe, pixels uint8 [U, S, S, 3] and sounds int16 [N] of one `rate` (0: none), the splits that
    ask about them, and the rows set aside."""

    pixels: np.ndarray
    sounds: Sequence[np.ndarray]
    rate: int
    splits: Mapping[str, Asked]
    dead: tuple[DeadLetter, ...]

    @property
    def most_images(self) -> int:
        """Pictures of the row that has most (count)."""
        return max(len(images) for asked in self.splits.values() for images in asked.images)

    @property
    def most_frames(self) -> int:
        """Frames of the longest video (count), 0 without video."""
        return max(len(frames) for asked in self.splits.values() for frames in asked.frames)


def modality(images: int, frames: int, sounds: int) -> str:
    """The slice of a row that names none: what it is about, in the order of a curriculum ("image+audio")."""
    names = [name for name, count in (("image", images), ("audio", sounds), ("video", frames)) if count]
    return "+".join(names) or "text"


def modalities(asked: Asked) -> np.ndarray:
    """Kinds of media that each row shows, int8 [R]."""
    seen = [np.array([bool(one) for one in media]) for media in (asked.images, asked.frames)]
    total: np.ndarray = (np.stack([*seen, asked.sounds != NONE]).sum(0)).astype(np.int8)
    return total


def cut(asked: Asked, share: float, seed: int) -> dict[str, Asked]:
    """Train and validation: about `share` of the rows, whole groups over the same picture, video or (without those)
    sound, so that what is measured was not seen. Raises DataError when there is only one group."""
    keys = [
        images or frames or (NONE, int(sound))
        for images, frames, sound in zip(asked.images, asked.frames, asked.sounds, strict=True)
    ]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    if len(places) < 2:
        raise DataError(
            "too few pictures, sounds or videos to cut a validation part from", got=len(places), expected="2 or more",
            hint="give data.validation=FILE",
        )  # fmt: skip
    group_R = np.array([places[key] for key in keys])
    order = np.random.default_rng([seed, len(asked)]).permutation(len(places))
    reached = np.cumsum(np.bincount(group_R)[order])
    count = int(np.searchsorted(reached, max(1, round(share * len(asked))))) + 1
    held = np.isin(group_R, order[: min(count, len(places) - 1)])
    return {"train": asked.take(np.flatnonzero(~held)), "validation": asked.take(np.flatnonzero(held))}


def limit(asked: Asked, count: int | None, seed: int) -> Asked:
    """At most `count` rows, chosen by `seed`, in their order."""
    if count is None or len(asked) <= count:
        return asked
    return asked.take(np.sort(np.random.default_rng([seed, count]).permutation(len(asked))[:count]))
